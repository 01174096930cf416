# SPDX-License-Identifier: Apache-2.0
"""What a pass over a dataset costs: images a second through the model, and the peak of memory."""

import time
from collections.abc import Callable

import torch

from .features import sum_over_processes
from .peak_memory import PeakMemory


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
        self.peak_memory = PeakMemory(device)

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
        return self.peak_memory.num_bytes()
