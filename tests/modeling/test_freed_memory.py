# SPDX-License-Identifier: Apache-2.0
"""What a pass frees is taken again without asking the system for every page."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")

NUM_FAULTS = """
import resource, sys, torch
from vit_hf.modeling.freed_memory import keep_freed_memory

if sys.argv[1] == "keep":
    print(keep_freed_memory())

def take(num_bytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(num_bytes, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first, *later = (take(100 * 2**20) for _ in range(4))
print(first > 1000, max(later) > 1000)
"""


def run(how, **environment):
    """Returns whether glibc was told, and whether pages are asked for at first, and later."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    command = [sys.executable, "-c", NUM_FAULTS, how]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=own | environment
    )
    return done.stdout.split()


def test_what_is_freed_is_kept():
    assert run("keep") == ["True", "True", "False"]
    assert run("leave") == ["True", "True"]  # the system is asked again and again


@pytest.mark.parametrize(
    "name, value",
    [
        ("MALLOC_MMAP_THRESHOLD_", "1000000"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1000000"),
    ],
)
def test_an_environment_that_says_otherwise_is_obeyed(name, value):
    assert run("keep", **{name: value}) == ["False", "True", "True"]
