# SPDX-License-Identifier: Apache-2.0
"""Masked patch prediction in pictures: the image, what was masked, what was predicted (appendix
B.1.2).

Shapes: `B` batch, `C` channels, `H` and `W` height and width of the image, `N` patches, `h` and `w`
height and width of what the patches see of it.
"""

import torch
from matplotlib.figure import Figure

from .attention_rows import as_served
from .overlays import FIGURE_WIDTH, FONT_SIZE, as_picture

MASK_GREY = 0.0  # of a corrupted patch, in [-1, 1]
MAX_COLUMNS = 4
# What a prediction is for each patch, by the model's target.
PREDICTED = {
    "mean_color": "mean colour",
    "downsampled_color": "4x4 colours",
    "raw_pixels": "pixels",
}


@torch.no_grad()
def masked_prediction(
    model,
    pixel_values: torch.Tensor,
    bool_masked_pos: torch.Tensor,
    patch_replacement: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Returns images, the same with corrupted patches grey, and with their predictions put in.

    Args:
        model: a `VisionTransformerForMaskedPatchPrediction`.
        pixel_values: `(B, C, H, W)` in [-1, 1].
        bool_masked_pos: `(B, N)`, true at corrupted patches.
        patch_replacement: `(B, N)`, what stands there, see the model's `forward`.

    Returns:
        `"image"`, `"corrupted"`, `"predicted"`, each `(B, C, h, w)` in [-1, 1].

    Raises:
        ValueError: for a model of another task, and what the model refuses.
    """
    if not hasattr(model, "prediction_head"):
        raise ValueError(
            f"got {type(model).__name__}, allowed: VisionTransformerForMaskedPatchPrediction, "
            "which predicts patches"
        )
    given = (pixel_values, bool_masked_pos, patch_replacement)
    on_device = (None if each is None else each.to(model.device) for each in given)
    with as_served(model):
        outputs = model(*on_device)
    grid, patch_hw = outputs.grid[0].tolist(), model.config.pixels_per_patch
    height, width = (count * side for count, side in zip(grid, patch_hw, strict=True))
    seen = pixel_values[:, :, :height, :width].float().cpu()
    corrupted = bool_masked_pos.bool().cpu().unflatten(1, grid).unsqueeze(1)  # (B, 1, rows, cols)
    corrupted = corrupted.repeat_interleave(patch_hw[0], 2).repeat_interleave(patch_hw[1], 3)
    predicted = outputs.to_picture((height, width)).float().cpu()
    return {
        "image": seen,
        "corrupted": seen.masked_fill(corrupted, MASK_GREY),
        "predicted": torch.where(corrupted, predicted, seen),
    }


def draw_masked_prediction(
    pictures: dict[str, torch.Tensor], *, prediction_target: str | None = None
) -> Figure:
    """Draws what `masked_prediction` returns: a row for each entry, four images side by side.

    Args:
        pictures: what it returned.
        prediction_target: the configuration's, so that the predictions are named by it.
    """
    names = {name: name for name in pictures}
    if prediction_target is not None:
        names["predicted"] += f"\n{PREDICTED[prediction_target]}"
    count = len(pictures["image"])
    num_columns = min(MAX_COLUMNS, count)
    num_bands = -(-count // num_columns)
    height, width = pictures["image"].shape[2:]
    side = (FIGURE_WIDTH - 0.6) / MAX_COLUMNS
    num_rows = num_bands * len(pictures)
    figure = Figure(
        figsize=(
            max(side * num_columns + 0.6, FIGURE_WIDTH / 2),
            (side * height / width + 0.06) * num_rows + 0.5,
        ),
        layout="constrained",
    )
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    for index in range(count):
        band, column = divmod(index, num_columns)
        for row, (name, images) in enumerate(pictures.items()):
            axis = axes[band * len(pictures) + row, column]
            axis.imshow(as_picture(images[index]), interpolation="nearest")
            if column == 0:
                axis.set_ylabel(names[name], fontsize=FONT_SIZE)
    figure.suptitle("Masked patch prediction", fontsize=FONT_SIZE + 1)
    return figure
