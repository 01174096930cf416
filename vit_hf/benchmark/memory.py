# SPDX-License-Identifier: Apache-2.0
"""The peak of a contender's memory: an accelerator's tensors, or else what its process has
resident, with the interpreter and its libraries, and without the processes that load its data.
"""

from pathlib import Path

import torch

from ..modeling.freed_memory import give_back_freed_memory

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux
RESET_PEAK = "5"  # what resets the peak of resident memory, see proc(5)


def reset_peak(device: torch.device) -> None:
    """Begins a new peak, where the system keeps one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR.exists():
        give_back_freed_memory()  # kept for settings that were tried
        CLEAR.write_text(RESET_PEAK)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Returns the peak since `reset_peak`; `None` where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not CLEAR.exists():
        return None
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])
