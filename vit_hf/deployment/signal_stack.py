# SPDX-License-Identifier: Apache-2.0
"""The stack on which a thread's signals are handled, which OpenVINO's CPU plugin replaces."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

SS_DISABLE = 2  # signals are then handled on the thread's own stack


class SignalStack(ctypes.Structure):
    """`stack_t` of Linux, see sigaltstack(2)."""

    _fields_ = [
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    ]


def signal_stack() -> SignalStack:
    """Returns the alternate signal stack of this thread."""
    stack = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack


@contextlib.contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Gives this thread its alternate signal stack back when the block ends (on Linux).

    Each opening of OpenVINO's CPU plugin puts a stack of its own there, and its end takes that out
    of memory and puts back what it found. Of two that end in the order in which they began, the
    second puts back the first's, which is no more: the next signal that Python handles, as that of
    a data loader's worker that ends, then kills the process without a word. A stack that is not in
    use when its plugin ends does no harm.
    """
    if sys.platform != "linux":
        yield
        return
    before = signal_stack()
    try:
        yield
    finally:
        put = ctypes.CDLL(None).sigaltstack
        if put(ctypes.byref(before), None) != 0:  # too small for registers that came into use
            put(ctypes.byref(SignalStack(flags=SS_DISABLE)), None)
