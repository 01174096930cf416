# SPDX-License-Identifier: Apache-2.0
"""What a pass frees is taken again without asking the system for every page."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")

NUM_FAULTS = """
import resource, statistics, sys, torch
from vit_hf.modeling.freed_memory import keep_freed_memory

if sys.argv[1] == "keep":
    print(keep_freed_memory())

def take(num_bytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(num_bytes, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# Not all of the later ones: what others take between them can be in the way of one or two.
first, *later = (take(100 * 2**20) for _ in range(16))
print(first > 1000, statistics.median(later) > 1000)
"""

RESIDENT = """
import psutil, torch
from vit_hf.modeling.freed_memory import give_back_freed_memory, keep_freed_memory

def resident():
    return psutil.Process().memory_info().rss

keep_freed_memory()
before = resident()
torch.ones(100 * 2**20, dtype=torch.uint8)
kept = resident()
give_back_freed_memory()
print(kept - before > 90 * 2**20, resident() - before < 10 * 2**20)
"""


def run(program, *arguments, **environment):
    """Returns the words that a program prints in a process whose glibc nobody has told anything."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=own | environment
    )
    return done.stdout.split()


@pytest.mark.slow
def test_what_is_freed_is_kept():
    """It prints whether glibc was told, and whether pages are asked for at first, and later."""
    assert run(NUM_FAULTS, "keep") == ["True", "True", "False"]
    assert run(NUM_FAULTS, "leave") == ["True", "True"]  # the system is asked again and again


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, value",
    [
        ("MALLOC_MMAP_THRESHOLD_", "1000000"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1000000"),
    ],
)
def test_an_environment_that_says_otherwise_is_obeyed(name, value):
    assert run(NUM_FAULTS, "keep", **{name: value}) == ["False", "True", "True"]


@pytest.mark.slow
def test_what_is_kept_is_given_back_on_request():
    assert run(RESIDENT) == ["True", "True"]
