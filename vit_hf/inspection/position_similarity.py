# SPDX-License-Identifier: Apache-2.0
"""Similarity of the position embeddings: rows and columns show that 2-D structure was learned
(figure 7, centre).
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from .overlays import FIGURE_WIDTH, FONT_SIZE

MAX_TILES = 24  # a side; of larger grids every second, third ... patch is drawn
MAX_TICKS = 8
GAP = 0.08  # between tiles, as a share of their side


@torch.no_grad()
def position_similarity(model) -> torch.Tensor:
    """Returns the cosine similarities of the position embeddings of every two patches.

    Where positions enter at every layer, those of the first layer.

    Args:
        model: any of the package's models with absolute positions.

    Returns:
        `(rows, columns, rows, columns)` in [-1, 1].

    Raises:
        ValueError: for positions that are relative or none, which are no vectors per patch.
    """
    config, positions = model.config, model.base_model.positions
    if config.position_embedding in ("relative", "none"):
        raise ValueError(
            f"got position_embedding={config.position_embedding!r}; allowed: learned_1d, "
            "learned_2d, sincos_2d, which have a vector for each patch"
        )
    rows, columns = config.grid
    nothing = torch.zeros(
        1, config.num_prefix_tokens + rows * columns, config.hidden_size, device=model.device
    )
    table, _ = positions(nothing, config.grid, layer=0)
    table = table[0, config.num_prefix_tokens :]  # (N, D)
    table = torch.nn.functional.normalize(table.float(), dim=-1)
    return (table @ table.T).reshape(rows, columns, rows, columns)


def draw_position_similarity(model) -> Figure:
    """Draws one tile per patch: the similarity of its position embedding with every other's."""
    similarity = position_similarity(model).cpu().numpy()
    rows, columns = similarity.shape[:2]
    step = -(-max(rows, columns) // MAX_TILES)
    similarity = similarity[::step, ::step]
    mosaic, tile, gap = lay_out(similarity)
    height = (FIGURE_WIDTH - 0.7) * mosaic.shape[0] / mosaic.shape[1] + 1.5
    figure = Figure(figsize=(FIGURE_WIDTH, height), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(mosaic, vmin=-1, vmax=1, cmap="viridis", interpolation="nearest")
    for which, count, side, set_ticks in (
        ("row", similarity.shape[0], tile[0], axis.set_yticks),
        ("column", similarity.shape[1], tile[1], axis.set_xticks),
    ):
        every = -(-count // MAX_TICKS)
        places = np.arange(0, count, every)
        set_ticks(places * (side + gap) + (side - 1) / 2, places * step + 1)
        getattr(axis, f"set_{'y' if which == 'row' else 'x'}label")(
            f"patch {which}", fontsize=FONT_SIZE
        )
    axis.tick_params(length=0, labelsize=FONT_SIZE - 1)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(
        image, ax=axis, orientation="horizontal", ticks=[-1, -0.5, 0, 0.5, 1], aspect=40, pad=0.02
    )
    bar.set_label("cosine similarity", fontsize=FONT_SIZE)
    bar.ax.tick_params(labelsize=FONT_SIZE - 1)
    some = f" (a tile for every {step} x {step} patches)" if step > 1 else ""
    figure.suptitle(f"Position embedding similarity{some}", fontsize=FONT_SIZE + 1)
    return figure


def lay_out(similarity: np.ndarray) -> tuple[np.ndarray, tuple[int, int], int]:
    """Lays tiles `(rows, columns, height, width)` out as one picture, with empty gaps between them.

    Returns:
        The picture, the height and width of a tile, and the gap.
    """
    rows, columns, height, width = similarity.shape
    gap = max(1, round(GAP * min(height, width))) if rows * columns > 1 else 0
    picture = np.full((rows * (height + gap), columns * (width + gap)), np.nan, dtype=np.float32)
    tiles = picture.reshape(rows, height + gap, columns, width + gap)
    tiles[:, :height, :, :width] = similarity.transpose(0, 2, 1, 3)
    return picture[: len(picture) - gap, : picture.shape[1] - gap], (height, width), gap
