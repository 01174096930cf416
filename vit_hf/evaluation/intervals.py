# SPDX-License-Identifier: Apache-2.0
"""95 % intervals: of a share of images, over seeds, and by drawing images again."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
NUM_RESAMPLES = 1000  # of a bootstrap
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Interval:
    """An interval, and how it was found, in words.

    Attributes:
        low: its lower end.
        high: its upper end.
        method: such as "Wilson score, over images".
    """

    low: float
    high: float
    method: str


def of_share(num_right: int, num_images: int) -> Interval:
    """Returns the Wilson score interval of a share of images."""
    found = stats.binomtest(num_right, num_images).proportion_ci(LEVEL, method="wilson")
    return Interval(float(found.low), float(found.high), "Wilson score, over images")


def over_seeds(is_right: np.ndarray) -> Interval:
    """Returns the interval of a mean accuracy over other seeds and other test images.

    Half of its width is the root of the sum of two squares: that of Student's t interval over the
    seeds, and that of the normal interval over the images, whose accuracy is the mean over the
    seeds. Combining halves so is known as MOVER (Zou and Donner 2008).

    Args:
        is_right: `(S, N)`, whether image `N` is right with seed `S`; two seeds or more.
    """
    num_seeds, num_images = is_right.shape
    by_seed = stats.sem(is_right.mean(1)) * stats.t.ppf((1 + LEVEL) / 2, num_seeds - 1)
    by_image = is_right.mean(0).std() / np.sqrt(num_images) * stats.norm.ppf((1 + LEVEL) / 2)
    mean, reach = is_right.mean(), np.hypot(by_seed, by_image)
    low, high = float(max(0.0, mean - reach)), float(min(1.0, mean + reach))
    return Interval(low, high, f"Student's t, over {num_seeds} seeds, and over images")


def by_bootstrap(statistic: Callable[..., float], *columns: np.ndarray) -> Interval | None:
    """Returns the percentile interval over images that are drawn again, `None` for one image.

    Args:
        statistic: from the columns to a number.
        *columns: `(N,)` each, of the same images.
    """
    if len(columns[0]) < 2:
        return None
    found = stats.bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=NUM_RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    method = f"bootstrap, {NUM_RESAMPLES:,} draws of the images, seed {BOOTSTRAP_SEED}"
    return Interval(float(found.low), float(found.high), method)
