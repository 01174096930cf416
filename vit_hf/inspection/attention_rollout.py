# SPDX-License-Identifier: Apache-2.0
"""Attention rollout: how much each patch flows into what the head reads (figures 6 and 14; D.8).

The mean over heads of each layer's attention, with the identity added for the residual and rows
renormalised, multiplied across layers (Abnar and Zuidema, 2020). Of the product only what the head
reads is wanted, so a row vector goes back through the layers, the last one first.

Shapes: `B` batch, `C` channels, `H` and `W` height and width of the image, `T` tokens.
"""

from collections.abc import Iterable, Sequence

import torch
from matplotlib.figure import Figure

from .attention_rows import LayerAttention, record_attention
from .overlays import Tile, draw_tiles
from .reading import reader_shares

MAX_COLUMNS = 4


@torch.no_grad()
def attention_rollout(model, pixel_values: Iterable[torch.Tensor]) -> torch.Tensor:
    """Returns how much each patch flows into what the head reads.

    Args:
        model: any of the package's models. It reads its class token, the mean of its patch tokens,
            or what its attention pooling weighs; without pooling, the mean stands for every patch.
        pixel_values: `(B, C, H, W)`, as the model gets them; one image is held at a time.

    Returns:
        `(B, rows, columns)`, each image's shares scaled to a sum of 1 over its patches.
    """
    return torch.stack([rollout_of(model, image) for image in pixel_values])


def rollout_of(model, image: torch.Tensor) -> torch.Tensor:
    """Returns the rollout `(rows, columns)` of one image `(C, H, W)`."""
    record = record_attention(model, image[None])
    shares = reader_shares(model, record)  # (1, T)
    for layer in reversed(record.layers):
        shares = (flow_back(layer, shares) + shares) / 2  # rows of attention sum to 1
    shares = shares[0, model.config.num_prefix_tokens :]
    return (shares / shares.sum()).unflatten(0, record.grid)


def flow_back(layer: LayerAttention, shares: torch.Tensor) -> torch.Tensor:
    """Returns the shares `(B, T)` in a layer's inputs, from those `(B, T)` in its outputs.

    It is `shares @ map`, where the map is the mean over heads, without the map.
    """
    # Rows without a share need not be known: of the last layer, all but the class token's.
    wanted = shares.any(0).nonzero().flatten()
    total = torch.zeros_like(shares)
    for place, rows in layer.blocks(int(wanted[0]), int(wanted[-1]) + 1):
        total += torch.einsum("br,bart->bt", shares[:, place], rows) / rows.shape[1]
    return total


def draw_attention_rollout(
    images: torch.Tensor,
    rollout: torch.Tensor,
    *,
    titles: Sequence[str],
    patch_hw: tuple[int, int],
) -> Figure:
    """Draws images above the same images with their rollout laid over them.

    Args:
        images: `(B, C, H, W)` in [-1, 1].
        rollout: `(B, rows, columns)`, see `attention_rollout`.
        titles: one for each image.
        patch_hw: pixels `(height, width)` of a patch, `config.pixels_per_patch`.
    """
    num_columns, tiles = min(MAX_COLUMNS, len(images)), []
    for first in range(0, len(images), num_columns):
        chosen = range(first, min(first + num_columns, len(images)))
        empty: list[Tile | None] = [None] * (num_columns - len(chosen))
        tiles += [*(Tile(images[index], title=titles[index]) for index in chosen), *empty]
        relative = {index: rollout[index] * rollout[index].numel() for index in chosen}
        tiles += [*(Tile(images[index], relative[index]) for index in chosen), *empty]
    return draw_tiles(
        tiles,
        num_columns=num_columns,
        patch_hw=patch_hw,
        label="share of a patch (1 = uniform)",
        title="Attention rollout",
    )
