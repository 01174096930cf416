# SPDX-License-Identifier: Apache-2.0
"""The peak of memory: of an accelerator's tensors, or else what this process has resident, with the
interpreter and its libraries, and without the processes that load its data.
"""

from pathlib import Path

import torch

from ..modeling.freed_memory import give_back_freed_memory

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux
RESET_PEAK = "5"  # what resets the peak of resident memory, see proc(5)


class PeakMemory:
    """Begins a new peak, where the system keeps one.

    Args:
        device: whose memory it is; of a CPU, this process's.
    """

    def __init__(self, device: torch.device):
        self.device, self.module = device, torch.get_device_module(device)
        self.is_of_tensors = hasattr(self.module, "max_memory_allocated")
        if self.is_of_tensors:
            self.module.reset_peak_memory_stats(device)
            return
        give_back_freed_memory()  # kept for what ran before
        try:
            CLEAR.write_text(RESET_PEAK)
        except OSError:
            self.is_kept = False
        else:
            self.is_kept = "VmHWM" in STATUS.read_text()

    def num_bytes(self) -> int | None:
        """Returns the peak since it began; `None` where the system does not tell."""
        if self.is_of_tensors:
            return self.module.max_memory_allocated(self.device)
        if not self.is_kept:
            return None
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
