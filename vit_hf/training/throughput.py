# SPDX-License-Identifier: Apache-2.0
"""How fast a training goes, and what holds it up: images a second, waiting for input, MFU, memory.

The clock runs from the moment a step begins to fetch its batches until it ends. What happens
between steps (evaluation, checkpoints, probes) does not count. Nothing waits for the device but a
log.
"""

import contextlib
import time

import psutil
import torch

GIB = 2**30
NUM_TOKENS_ON_CPU = 256  # of the measured matrix product: as many as it takes to be at its fastest
NUM_TOKENS_ON_ACCELERATOR = 8192
NUM_PRODUCTS = 4  # between two waits for the device


class Throughput:
    """Measures between the logs of a training.

    Args:
        model_flops_per_image: of forward and backward; `None` leaves out what is made from it.
        device: that this process trains on.
        num_devices: how many train together.
        limit: the FLOP/s that one of them reaches at best, see `measured_limit`; `None` leaves out
            `mfu`.
    """

    def __init__(
        self,
        *,
        model_flops_per_image: float | None = None,
        device: torch.device,
        num_devices: int = 1,
        limit: float | None = None,
    ):
        self.model_flops_per_image, self.limit = model_flops_per_image, limit
        self.device, self.num_devices = device, num_devices
        self.is_between_steps = True
        self.start_anew()

    def start_anew(self):
        """Forgets what was measured, and of a step under way what was so far."""
        self.num_images, self.seconds, self.seconds_waited = 0, 0.0, 0.0
        self.marked = time.perf_counter()  # until here the time is counted

    @contextlib.contextmanager
    def waiting(self):
        """Goes around the fetching of batches, once or several times a step."""
        started = time.perf_counter()
        if self.is_between_steps:
            self.marked, self.is_between_steps = started, False
        try:
            yield
        finally:
            self.seconds_waited += time.perf_counter() - started

    def step(self, num_images: int):
        """Ends a step.

        Args:
            num_images: of the step, over all processes.
        """
        self.num_images += num_images
        self.count_time()
        self.is_between_steps = True

    def count_time(self):
        """Counts the time until now."""
        now = time.perf_counter()
        self.seconds, self.marked = self.seconds + now - self.marked, now

    def input_wait_share(self) -> float:
        """Returns the share of the time until now that was spent waiting for images."""
        self.count_time()
        return self.seconds_waited / self.seconds

    def log_entries(self) -> dict[str, float]:
        """Returns what was measured since the last log, and starts anew.

        Returns:
            `images_per_second` over all processes; `input_wait_share` of the time, as the program
            waits, which on an accelerator may have work queued meanwhile; `model_tflops_per_second`
            and, of the limit where it is not above it, `mfu` of one device; `peak_memory_gib` of an
            accelerator's tensors, or else `resident_memory_gib` of this process without its
            workers. Nothing where no step ended.
        """
        if not self.num_images:
            return {}
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        share = self.input_wait_share()  # the device's last step ended just now
        images_per_second = self.num_images / self.seconds
        entries = {"images_per_second": images_per_second, "input_wait_share": share}
        if self.model_flops_per_image is not None:
            flops_per_second = images_per_second * self.model_flops_per_image / self.num_devices
            entries["model_tflops_per_second"] = flops_per_second / 1e12
            # Above the limit, it was measured while the machine had other work: no share of it.
            if self.limit is not None and flops_per_second <= self.limit:
                entries["mfu"] = flops_per_second / self.limit
        self.start_anew()
        return {**entries, **memory_entries(self.device)}


def memory_entries(device: torch.device) -> dict[str, float]:
    """Returns the memory in GiB: an accelerator's peak since the last call, or what this process
    has resident.
    """
    module = torch.get_device_module(device)
    if not hasattr(module, "max_memory_allocated"):
        return {"resident_memory_gib": psutil.Process().memory_info().rss / GIB}
    peak = module.max_memory_allocated(device)
    module.reset_peak_memory_stats(device)
    return {"peak_memory_gib": peak / GIB}


def measured_limit(
    *, width: int, dtype: torch.dtype, device: torch.device, seconds: float = 0.2
) -> float:
    """Measures the FLOP/s of the product of a matrix of tokens and the model's widest kernel.

    What MFU is a share of: no table of devices is needed, and it holds for any type and device.

    Args:
        width: of the model, `D`; the kernel is `(D, 4 D)`, as in the MLP.
        dtype: that the training computes in.
        device: to measure.
        seconds: to go on for, after a first product that warms the device up.
    """
    num_tokens = NUM_TOKENS_ON_CPU if device.type == "cpu" else NUM_TOKENS_ON_ACCELERATOR
    generator = torch.Generator(device).manual_seed(0)  # leaves the global one alone
    tokens, kernel = (
        torch.randn(shape, generator=generator, device=device).to(dtype)
        for shape in ((num_tokens, width), (width, 4 * width))
    )
    flops = NUM_PRODUCTS * 2 * num_tokens * width * 4 * width
    time_of_products(tokens, kernel)
    end = time.perf_counter() + seconds
    fastest = time_of_products(tokens, kernel)
    while time.perf_counter() < end:
        fastest = min(fastest, time_of_products(tokens, kernel))
    return flops / fastest


@torch.no_grad()
def time_of_products(tokens: torch.Tensor, kernel: torch.Tensor) -> float:
    """Returns the seconds that some products of `(N, D)` and `(D, M)` take."""
    started = time.perf_counter()
    for _ in range(NUM_PRODUCTS):
        torch.mm(tokens, kernel)
    if tokens.device.type != "cpu":
        torch.accelerator.synchronize(tokens.device)
    return time.perf_counter() - started
