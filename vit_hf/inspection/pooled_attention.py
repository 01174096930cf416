# SPDX-License-Identifier: Apache-2.0
"""Last-layer maps: where the class token looks, head by head, or what takes its place.

Without a class token it is the mean of the patches' rows; with attention pooling, the probe's row.

Shapes: `B` batch, `A` heads, `C` channels, `H` and `W` height and width of the image.
"""

from collections.abc import Iterable

import torch
from matplotlib.figure import Figure

from .attention_rows import record_attention
from .overlays import Tile, draw_tiles
from .reading import READERS, reader_of, reader_rows

MAX_COLUMNS = 4


@torch.no_grad()
def pooled_attention(model, pixel_values: Iterable[torch.Tensor]) -> torch.Tensor:
    """Returns where what the head reads looks in the last layer.

    Args:
        model: any of the package's models.
        pixel_values: `(B, C, H, W)`, as the model gets them; one image is held at a time.

    Returns:
        `(B, A, rows, columns)`: the attention weights of the patches. What goes to class and
        register tokens is left out, so a head's weights sum to at most 1.
    """
    maps = []
    for image in pixel_values:
        record = record_attention(model, image[None])
        maps.append(reader_rows(model, record)[0].unflatten(-1, record.grid))
    return torch.stack(maps)


def draw_pooled_attention(
    image: torch.Tensor, maps: torch.Tensor, *, model, title: str = ""
) -> Figure:
    """Draws one image, then the same image with the mean of the heads and each head over it.

    Args:
        image: `(C, H, W)` in [-1, 1].
        maps: `(A, rows, columns)`, see `pooled_attention`.
        model: where they are from.
        title: the image's.
    """
    relative = maps * maps[0].numel()
    tiles = [Tile(image, title=title), Tile(image, relative.mean(0), "mean of heads")]
    tiles += [Tile(image, relative[head], f"head {head + 1}") for head in range(len(maps))]
    return draw_tiles(
        tiles,
        num_columns=min(MAX_COLUMNS, len(tiles)),
        patch_hw=model.config.pixels_per_patch,
        label="attention weight x patches (1 = uniform)",
        title=f"Last-layer attention of {READERS[reader_of(model)]}",
    )
