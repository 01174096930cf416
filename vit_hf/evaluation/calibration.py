# SPDX-License-Identifier: Apache-2.0
"""Calibration: is a classifier right as often as it claims to be?

The expected calibration error of Guo et al. 2017 ("On Calibration of Modern Neural Networks",
section 2): images go into bins by the confidence of their prediction; the error is the mean, over
the images, of the distance between a bin's accuracy and its mean confidence. They take 15 bins of
equal width, and so does this.
"""

import numpy as np

NUM_BINS = 15


def calibration_error(
    confidences: np.ndarray, is_right: np.ndarray, *, num_bins: int = NUM_BINS
) -> float:
    """Returns the expected calibration error, from 0 to 1.

    Args:
        confidences: `(N,)`, the probability of the predicted class.
        is_right: `(N,)`, whether the prediction is right.
        num_bins: bins of equal width, `((m - 1) / num_bins, m / num_bins]`.

    Raises:
        ValueError: where there is no image, and for confidences outside 0 to 1.
    """
    confidences, is_right = np.asarray(confidences, float), np.asarray(is_right, float)
    if not len(confidences):
        raise ValueError("got no image to compute a calibration error of; give one or more")
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError(
            f"got confidences from {confidences.min():g} to {confidences.max():g}, allowed: "
            "probabilities, 0 to 1; a model whose logits are not finite has none"
        )
    bins = np.ceil(confidences * num_bins).clip(min=1).astype(int) - 1
    gaps = np.bincount(bins, is_right - confidences, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidences))
