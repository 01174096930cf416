# SPDX-License-Identifier: Apache-2.0
"""What a pass over a dataset costs: images a second through the model, and the peak of memory."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..modeling.freed_memory import give_back_freed_memory
from .features import sum_over_processes

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux
RESET_PEAK = "5"  # what resets the peak of resident memory, see proc(5)


class Meter:
    """Measures the forward passes between `around` and the reading of its numbers.

    Decoding and collating do not count: `images_per_second` is the model's alone, with the first
    batch run once more beforehand, to warm up.

    Args:
        device: that the model is on.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.num_images, self.seconds = 0, 0.0
        self.is_warm = False
        self.module = torch.get_device_module(device)
        self.has_peak = reset_peak(self.module)

    def around(self, forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
        """Returns the forward pass, measured."""

        def measured(pixel_values: torch.Tensor) -> torch.Tensor:
            if not self.is_warm:
                forward(pixel_values)
                self.is_warm = True
            self.wait()
            started = time.perf_counter()
            outputs = forward(pixel_values)
            self.wait()
            self.seconds += time.perf_counter() - started
            self.num_images += len(pixel_values)
            return outputs

        return measured

    def wait(self) -> None:
        """Waits until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def images_per_second(self) -> float:
        """Returns the sum of all processes' images a second; each must call it."""
        own = torch.tensor(self.num_images / self.seconds if self.seconds else 0.0)
        return float(sum_over_processes(own, device=self.device))

    def peak_memory_bytes(self) -> int | None:
        """Returns the peak of this process: an accelerator's tensors, or else its resident memory.

        `None` where the system does not tell.
        """
        if not self.has_peak:
            return None
        if hasattr(self.module, "max_memory_allocated"):
            return self.module.max_memory_allocated(self.device)
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])


def reset_peak(module) -> bool:
    """Begins a new peak of memory; returns whether the system keeps one.

    Args:
        module: torch's, of the device.
    """
    if hasattr(module, "max_memory_allocated"):
        module.reset_peak_memory_stats()
        return True
    give_back_freed_memory()  # kept for another resolution, or by a training
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:
        return False
    return "VmHWM" in STATUS.read_text()
