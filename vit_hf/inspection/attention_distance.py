# SPDX-License-Identifier: Apache-2.0
"""Attention distance: how far away a head looks, in pixels, by layer (section 4.5, D.7; figure 7
right, figure 11).

A query's distances to all patches are averaged, weighted by the attention weights; then these are
averaged over queries and images.

Shapes: `N` patches, `T` tokens, `L` layers, `A` heads, `R` rows of a block, `C` channels, `H` and
`W` height and width of the image.
"""

from collections.abc import Iterable

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .attention_rows import LayerAttention, record_attention
from .overlays import FIGURE_WIDTH, FONT_SIZE


@torch.no_grad()
def attention_distance(model, pixel_values: Iterable[torch.Tensor]) -> torch.Tensor:
    """Returns the mean attention distance of each head, over images.

    Between the patches' centres. Class and register tokens have no place in the image: they are
    left out as queries and as keys, and the weights of the patches count by their share.

    Args:
        model: any of the package's models.
        pixel_values: `(B, C, H, W)`, or images `(C, H, W)` of one size that are made as they are
            asked for; one is held at a time. The paper has 128.

    Returns:
        `(L, A)`, in pixels of the images as the model gets them.

    Raises:
        ValueError: where there is no image.
    """
    total, num_images = torch.zeros(()), 0
    for image in pixel_values:
        record = record_attention(model, image[None])
        centers = patch_centers(record.grid, model.config.pixels_per_patch).to(model.device)
        total = total + torch.stack([distance_of(layer, centers) for layer in record.layers]).cpu()
        num_images += 1
    if not num_images:
        raise ValueError("got no images, allowed: at least one; the paper has 128")
    return total / num_images


def distance_of(layer: LayerAttention, centers: torch.Tensor) -> torch.Tensor:
    """Returns the mean distance `(A,)` of a layer's heads on a batch of one image."""
    num_patches = len(centers)
    num_prefix = layer.hidden_states.shape[1] - num_patches
    total = torch.zeros((), device=centers.device)
    for place, rows in layer.blocks(num_prefix):
        queries = centers[place.start - num_prefix : place.stop - num_prefix]
        distances = torch.cdist(queries, centers, compute_mode="donot_use_mm_for_euclid_dist")
        weights = rows[0, :, :, num_prefix:]  # (A, R, N)
        weighted = (weights * distances).sum(-1) / weights.sum(-1).clamp(min=1e-30)  # (A, R)
        total = total + weighted.sum(-1)
    return total / num_patches


def patch_centers(grid: tuple[int, int], patch_hw: tuple[int, int]) -> torch.Tensor:
    """Returns the centres `(N, 2)` of the patches, in pixels, row by row."""
    down, right = (
        (torch.arange(count, dtype=torch.float32) + 0.5) * side
        for count, side in zip(grid, patch_hw, strict=True)
    )
    return torch.cartesian_prod(down, right)


def uniform_distance(grid: tuple[int, int], patch_hw: tuple[int, int]) -> float:
    """Returns the mean distance in pixels of a head that looks everywhere alike."""
    rows, columns = (torch.arange(1 - count, count, dtype=torch.float64) for count in grid)
    # So many pairs of patches lie that far apart.
    pairs = (grid[0] - rows.abs())[:, None] * (grid[1] - columns.abs())
    distances = torch.hypot((rows * patch_hw[0])[:, None], columns * patch_hw[1])
    return float((pairs * distances).sum() / pairs.sum())


def draw_attention_distance(
    distance: torch.Tensor, *, num_images: int, uniform: float | None = None
) -> Figure:
    """Draws a dot for each head of each layer.

    Args:
        distance: `(L, A)` in pixels, see `attention_distance`.
        num_images: how many images it is the mean of.
        uniform: what a head that looks everywhere alike has, `uniform_distance`.
    """
    num_layers, num_heads = distance.shape
    figure = Figure(figsize=(FIGURE_WIDTH, 3.8), layout="constrained")
    axis = figure.subplots()
    layers = torch.arange(1, num_layers + 1)
    axis.plot(layers, distance.mean(1), color="black", linewidth=1.2, label="mean of heads")
    axis.scatter(
        layers.repeat_interleave(num_heads),
        distance.flatten(),
        color="#3b528b",  # of viridis, dark enough for grey printing
        s=22,
        alpha=0.75,
        linewidths=0,
        zorder=3,
        label="a head",
    )
    if uniform is not None:
        axis.axhline(uniform, color="0.45", linestyle="--", linewidth=1, label="uniform attention")
    axis.set_xlabel("network depth (layer)", fontsize=FONT_SIZE)
    axis.set_ylabel("mean attention distance (pixels)", fontsize=FONT_SIZE)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_xlim(0.5, num_layers + 0.5)
    axis.set_ylim(0, 1.08 * max(float(distance.max()), uniform or 0.0))
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=FONT_SIZE - 1)
    figure.legend(loc="outside lower center", ncols=3, fontsize=FONT_SIZE - 1, frameon=False)
    images = "1 image" if num_images == 1 else f"{num_images} images"
    figure.suptitle(f"Attention distance over {images}", fontsize=FONT_SIZE + 1)
    return figure
