# SPDX-License-Identifier: Apache-2.0
"""Maps over patches, laid over the photos that they belong to.

Shapes: `C` channels, `H` and `W` height and width of the image.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
import torch
from matplotlib.figure import Figure

FONT_SIZE = 10  # readable on a phone, where a figure of 5.5 inches becomes 3.5
FIGURE_WIDTH = 5.5  # inches, a column of a paper
MIN_COLUMNS = 3  # that there is room for; a figure of fewer is narrower
LINE_LENGTH = 16  # characters above a tile
MAX_LINES = 3
BRIGHTEST = 99.5  # percentile of all values that gets the brightest colour


@dataclass
class Tile:
    """A photo, as it is or with a map over it.

    Args:
        image: `(C, H, W)` in [-1, 1].
        values: `(rows, columns)`, one for each patch; `None` shows the photo as it is.
        title: above it.
    """

    image: torch.Tensor
    values: torch.Tensor | None = None
    title: str = ""


def draw_tiles(
    tiles: Sequence[Tile | None],
    *,
    num_columns: int,
    patch_hw: tuple[int, int],
    label: str,
    title: str,
) -> Figure:
    """Draws photos and maps over photos, row by row, with one colour scale for all maps.

    Args:
        tiles: what to draw; `None` leaves a place empty.
        num_columns: tiles of a row.
        patch_hw: pixels `(height, width)` of a patch, `config.pixels_per_patch`. The image's
            remainder, which no patch sees, stays without colour.
        label: of the colour scale.
        title: of the figure.
    """
    num_rows = -(-len(tiles) // num_columns)
    height, width = next(tile for tile in tiles if tile is not None).image.shape[-2:]
    num_lines = [len(lines_of(tile.title)) if tile is not None else 0 for tile in tiles]
    title_lines = sum(
        max(num_lines[first : first + num_columns]) for first in range(0, len(tiles), num_columns)
    )
    side = FIGURE_WIDTH / max(MIN_COLUMNS, num_columns)
    figure = Figure(
        figsize=(
            max(side * num_columns, FIGURE_WIDTH / 2),
            side * height / width * num_rows + 0.16 * title_lines + 1.0,
        ),
        layout="constrained",
    )
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    brightest = highest(tile.values for tile in tiles if tile is not None)
    drawn = None
    for axis, tile in zip(axes.flat, tiles, strict=False):
        if tile is not None:
            drawn = draw_tile(axis, tile, patch_hw=patch_hw, brightest=brightest) or drawn
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(bool(axis.images))
    if drawn is not None:
        bar = figure.colorbar(
            drawn, ax=axes, orientation="horizontal", extend="max", aspect=40, pad=0.02
        )
        bar.set_label(label, fontsize=FONT_SIZE)
        bar.ax.tick_params(labelsize=FONT_SIZE - 1)
    figure.suptitle(title, fontsize=FONT_SIZE + 1)
    return figure


def draw_tile(axis, tile: Tile, *, patch_hw: tuple[int, int], brightest: float):
    """Draws one tile; returns the map that a colour scale can be made for, if it has one."""
    picture = as_picture(tile.image)
    height, width = picture.shape[:2]
    axis.set_title("\n".join(lines_of(tile.title)), fontsize=FONT_SIZE - 2, pad=3)
    if tile.values is None:
        axis.imshow(picture)
        return None
    axis.imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=1)
    rows, columns = tile.values.shape
    drawn = axis.imshow(
        tile.values.float().cpu().numpy(),
        cmap="inferno",
        alpha=0.65,
        vmin=0,
        vmax=brightest,
        interpolation="bilinear",
        extent=(-0.5, columns * patch_hw[1] - 0.5, rows * patch_hw[0] - 0.5, -0.5),
    )
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    return drawn


def lines_of(title: str) -> list[str]:
    """Returns a title in lines that fit above a tile, the last cut where it is very long."""
    return wrap(title, LINE_LENGTH, max_lines=MAX_LINES, placeholder="…")


def highest(maps: Iterable[torch.Tensor | None]) -> float:
    """Returns the value that gets the brightest colour: nearly the largest of all maps."""
    values = [each.float().flatten().cpu() for each in maps if each is not None]
    return float(np.percentile(torch.cat(values).numpy(), BRIGHTEST)) if values else 1.0


def as_picture(image: torch.Tensor) -> np.ndarray:
    """Returns `(H, W, 3)` in [0, 1] of an image `(C, H, W)` in [-1, 1], for matplotlib.

    Raises:
        ValueError: for channels that are no colours: allowed are 1, grey, and 3, RGB.
    """
    if len(image) not in (1, 3):
        raise ValueError(f"got {len(image)} channels, which are no picture; allowed: 1 or 3")
    picture = ((image.float().cpu() + 1) / 2).clamp(0, 1)
    return picture.expand(3, -1, -1).permute(1, 2, 0).numpy()
