# SPDX-License-Identifier: Apache-2.0
"""Small benchmarks, with every contender in the test's own process."""

import json

import pytest

from vit_hf.benchmark.options import ModelOptions
from vit_hf.benchmark.processes import PRESENT, start
from vit_hf.benchmark.running import run_benchmark

TINY = {
    "model": "tiny",
    "size": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "patch_size": 8,
    },
    "image_size": 16,
    "num_labels": 5,
}
SHORT = {"batch_size": 2, "turns": 2, "seconds": 0.01, "device": "cpu"}


class Here:
    """Takes the place of a `ContenderProcess`."""

    def __init__(self, contender_class, task):
        start(contender_class, task)
        self.contender = PRESENT.pop("contender")

    def wait(self):
        pass

    def call(self, method, *arguments):
        return getattr(self.contender, method)(*arguments)

    def close(self):
        pass


@pytest.fixture(scope="session")
def tiny_results():
    """What a benchmark of a small model writes, read again."""
    options = ModelOptions(peers=["transformers"], profile=True, **TINY, **SHORT)
    return json.loads(json.dumps(run_benchmark(options, host=Here)))


@pytest.fixture
def tiny():
    """Options of a small model and short turns."""
    return {**TINY, **SHORT}


@pytest.fixture
def short():
    """Options of short turns."""
    return dict(SHORT)


@pytest.fixture
def run_here():
    """The function `options -> results`."""
    return lambda options: run_benchmark(options, host=Here)
