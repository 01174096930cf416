# SPDX-License-Identifier: Apache-2.0
"""The largest batch that fits, by trying: from a guess on, in growing steps, until one more and one
less are known, then halfway between.
"""

from collections.abc import Callable

import torch

PRECISION = 1 / 64  # of the batch, to which it is found
MOST_TIMES = 64  # a small batch, of which the largest one is tried at first


def largest_batch(fits: Callable[[int], bool], *, guess: int = 1) -> int:
    """Returns the largest number of images that fits, within a 64th; 0 where not even one does.

    Args:
        fits: whether so many images fit; of those that do, every smaller number does too.
        guess: the number that is tried first; a good one saves most of the others.
    """
    fitting, failing = 0, None
    trying, step = max(1, guess), max(1, int(PRECISION * guess))
    while failing is None or failing - fitting > max(1, PRECISION * failing):
        if fits(trying):
            fitting = trying
        else:
            failing = trying
        if failing is None:
            trying = fitting + step
        elif fitting == 0 and failing > step:
            trying = failing - step
        else:
            trying = (fitting + failing) // 2
        step *= 2
    return fitting


def guessed_batch(fits: Callable[[int], bool], few: int, *, device: torch.device) -> int:
    """Returns how many images will fit into a GPU, by the peaks of few images and of twice as many;
    1 where these do not.

    Args:
        fits: whether so many images fit.
        few: images.
        device: the GPU.
    """
    peaks = []
    for batch_size in (few, 2 * few):
        torch.cuda.reset_peak_memory_stats(device)
        if not fits(batch_size):
            return 1
        peaks.append(torch.cuda.max_memory_allocated(device))
    free, _ = torch.cuda.mem_get_info(device)
    capacity = free + torch.cuda.memory_reserved(device)
    return min(MOST_TIMES * few, extrapolated(few, (peaks[0], peaks[1]), capacity))


def extrapolated(few: int, peaks: tuple[int, int], capacity: int) -> int:
    """Returns how many images would fit, were the peak of memory a line.

    Args:
        few: images of the first peak; the second is of twice as many.
        peaks: bytes.
        capacity: bytes that there are.
    """
    per_image = max(1, peaks[1] - peaks[0]) / few
    return few + max(0, int((capacity - peaks[0]) / per_image))
