# SPDX-License-Identifier: Apache-2.0
"""The Hub of the test suite, for the tests of this room."""

import importlib.util
import sys
from pathlib import Path

import pytest


def load_module(name: str):
    """Loads a file of this folder, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LoopbackHub = load_module("loopback_hub").LoopbackHub


@pytest.fixture
def make_hub():
    """The class, for a Hub with settings of its own."""
    return LoopbackHub


@pytest.fixture
def hub():
    """A running Hub with nothing on it."""
    with LoopbackHub() as running:
        yield running
