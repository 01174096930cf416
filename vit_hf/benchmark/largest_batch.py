# SPDX-License-Identifier: Apache-2.0
"""The largest batch that fits, by trying: doubled until one does not, then halfway between."""

from collections.abc import Callable

PRECISION = 1 / 64  # of the batch, to which it is found


def largest_batch(fits: Callable[[int], bool]) -> int:
    """Returns the largest number of images that fits, within a 64th; 0 where not even one does.

    Args:
        fits: whether so many images fit; of those that do, every smaller number does too.
    """
    fitting, failing = 0, 1
    while fits(failing):
        fitting, failing = failing, 2 * failing
    while failing - fitting > max(1, PRECISION * failing):
        middle = (fitting + failing) // 2
        if fits(middle):
            fitting = middle
        else:
            failing = middle
    return fitting
