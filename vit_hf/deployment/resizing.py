# SPDX-License-Identifier: Apache-2.0
"""Resizing as two matrix products, with Pillow's kernels, inside a graph whose image has any size.

A resampling filter is separable: `out = rows @ image @ columns^T`. Both matrices are functions of
two numbers, the side that there is and the side wanted, so that a graph computes them from the
shape of its input. Every exporter knows these operations; not every one knows an antialiased
resize of a size that is not known beforehand.

Shapes: `B` batch, `C` channels, `H` and `W` height and width of the raw image, `h` and `w` those of
the result.
"""

import math
from collections.abc import Callable

import torch

BRIGHTEST = 255


def triangle(x: torch.Tensor) -> torch.Tensor:
    """Bilinear interpolation's kernel."""
    return (1 - x.abs()).clamp(min=0)


def cubic(x: torch.Tensor) -> torch.Tensor:
    """Bicubic interpolation's kernel, with Pillow's slope of -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = -0.5 * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def sinc(x: torch.Tensor) -> torch.Tensor:
    """The sine of pi x over pi x."""
    angle = torch.where(x == 0, torch.ones_like(x), x * math.pi)
    return torch.where(x == 0, torch.ones_like(x), angle.sin() / angle)


def lanczos(x: torch.Tensor) -> torch.Tensor:
    """The sinc under the middle lobe of one three times as wide."""
    return torch.where(x.abs() < 3, sinc(x) * sinc(x / 3), torch.zeros_like(x))


KERNELS = {"lanczos": lanczos, "bilinear": triangle, "bicubic": cubic}


def resize_weights(
    side: int, *, resized: torch.Tensor, window: int, kernel: Callable
) -> torch.Tensor:
    """Returns the matrix `(window, side)` that resizes a side, and crops it from the centre.

    Args:
        side: pixels that there are; may be symbolic.
        resized: `()`, pixels after resizing.
        window: pixels kept, from the middle of the resized ones; those beyond its ends are black.
        kernel: one of `KERNELS`; it widens where the image is made smaller, so that no pixel is
            left out.
    """
    pixels = torch.arange(side) + 0.5  # their middles
    scale = pixels.new_ones(side).sum() / resized  # `side` as a tensor, whatever it is at export
    start = torch.div(resized - window, 2, rounding_mode="floor")
    places = torch.arange(window) + start
    centers = (places + 0.5) * scale
    weights = kernel((pixels - centers[:, None]) / scale.clamp(min=1))
    weights = weights / weights.sum(dim=1, keepdim=True)
    inside = (places >= 0) & (places < resized)
    return torch.where(inside[:, None], weights, torch.zeros_like(weights))


def resize(
    image: torch.Tensor, *, rows: torch.Tensor, columns: torch.Tensor, rows_first: torch.Tensor
) -> torch.Tensor:
    """Resizes images as Pillow does, each of the two passes rounded to whole levels.

    As rounding and cutting off come between the passes, their order shows. A graph cannot choose
    what it computes, so it computes both; beside a model that is little.

    Args:
        image: `(B, C, H, W)`, levels from 0 to 255 in a floating dtype.
        rows: `(h, H)`, see `resize_weights`.
        columns: `(w, W)`.
        rows_first: `()`, the order, see `are_rows_first`.

    Returns:
        `(B, C, h, w)`.
    """
    columns = columns.transpose(0, 1)
    after_columns = to_levels(rows @ to_levels(image @ columns))  # (B, C, h, w)
    after_rows = to_levels(to_levels(rows @ image) @ columns)
    return torch.where(rows_first, after_rows, after_columns)


def are_rows_first(
    height: torch.Tensor, width: torch.Tensor, *, resized: list[torch.Tensor]
) -> torch.Tensor:
    """Returns whether Pillow 13 begins with the rows: where these shrink by more than twice the
    pixels that the columns do.

    Found by trying sizes, as it is not documented; `tests/deployment` holds it against the Pillow
    that is installed.

    Args:
        height, width: `()`, of the raw image.
        resized: height and width, `()` each, after resizing.
    """
    fewer_rows, fewer_columns = height - resized[0], width - resized[1]
    return (fewer_rows > 0) & (fewer_rows > 2 * fewer_columns)


def to_levels(image: torch.Tensor) -> torch.Tensor:
    """Rounds to the nearest of the levels that a byte holds, halves up."""
    return (image + 0.5).floor().clamp(0, BRIGHTEST)
