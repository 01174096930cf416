# SPDX-License-Identifier: Apache-2.0
"""Memory that a pass on a CPU frees, kept for the next one.

PyTorch takes a CPU's tensors from the C library. glibc gives large blocks that are freed back to
the system, which hands them out again page by page, filled with zeros: in training several hundred
megabytes a step, and at batches of 32 every tensor of the MLP (docs/speed.md has what that costs).
"""

import ctypes
import os
import sys
from typing import Any

# Of `mallopt(3)`: parameters, and a value that stands for "never".
TRIM_THRESHOLD, MMAP_THRESHOLD, NEVER = -1, -3, -1
# Bytes of a block that comes from the system all the same; older versions take the second at most.
LARGEST_BLOCKS = (2**30, 2**25)


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed, blocks of up to 1 GiB, for what is asked for next.

    It holds for the main thread and, in blocks of less than 64 MiB, for others. The process stays
    as large as it once was, until `give_back_freed_memory`. Other C libraries, and a glibc that was
    told otherwise by the environment (`MALLOC_TRIM_THRESHOLD_` and its like, `GLIBC_TUNABLES`), are
    left as they are.

    Returns:
        Whether it was so told.
    """
    mallopt = function_of_glibc("mallopt")
    if mallopt is None or is_told_by_environment():
        return False
    takes_blocks = any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST_BLOCKS)
    return takes_blocks and bool(mallopt(TRIM_THRESHOLD, NEVER))


def give_back_freed_memory():
    """Has glibc give back what is kept now, as where the resident memory is to be told."""
    trim = function_of_glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def function_of_glibc(name: str) -> Any:
    """Returns a function of the C library, `None` where it has no such function."""
    if sys.platform != "linux":
        return None
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except OSError:  # an interpreter that is linked statically
        return None


def is_told_by_environment() -> bool:
    """Whether the environment says how glibc's allocator is to behave."""
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        f"MALLOC_{name}_" in os.environ
        for name in ("TRIM_THRESHOLD", "MMAP_THRESHOLD", "MMAP_MAX", "TOP_PAD")
    )
