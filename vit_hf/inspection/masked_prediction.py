# SPDX-License-Identifier: Apache-2.0
"""Masked patch prediction in pictures: the image, what was masked, what was predicted (appendix
B.1.2).
"""

import torch
from matplotlib.figure import Figure

from .attention_rollout import as_picture

MASK_GREY = 0.0  # of a masked patch, in [-1, 1]


def draw_masked_prediction(
    images: torch.Tensor,
    prediction: torch.Tensor,
    *,
    bool_masked_pos: torch.Tensor,
    grid: tuple[int, int],
) -> Figure:
    """Draws images, the same with corrupted patches grey, and with their predictions put in.

    Args:
        images: `(B, C, H, W)` in [-1, 1].
        prediction: `(B, C, H, W)` in [-1, 1], what `MaskedPatchPredictionOutput.to_picture((H, W))`
            gives.
        bool_masked_pos: `(B, N)`, true at corrupted patches.
        grid: patches `(rows, columns)`.
    """
    corrupted = bool_masked_pos.float().reshape(-1, 1, *grid).cpu()
    corrupted = torch.nn.functional.interpolate(
        corrupted, size=images.shape[2:]
    ).bool()  # (B, 1, H, W)
    rows = {
        "image": images,
        "corrupted": torch.where(corrupted, torch.full_like(images, MASK_GREY), images),
        "predicted": torch.where(corrupted, prediction.cpu(), images),
    }
    count = len(images)
    figure = Figure(figsize=(1.3 * count + 0.6, 4.6), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for row, (name, pictures) in enumerate(rows.items()):
        axes[row, 0].set_ylabel(name)
        for column in range(count):
            axes[row, column].imshow(as_picture(pictures[column]), interpolation="nearest")
            axes[row, column].set_xticks([])
            axes[row, column].set_yticks([])
    figure.suptitle("Masked patch prediction")
    return figure
