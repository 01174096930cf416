# SPDX-License-Identifier: Apache-2.0
"""Cuts images into patches."""

import torch


def cut_patches(
    images: torch.Tensor, grid: tuple[int, int], patch_hw: tuple[int, int]
) -> torch.Tensor:
    """Cuts images `(B, C, H, W)` into patches `(B, N, C, h, w)`, row by row; what is below and to
    the right of the grid is left out.

    Args:
        images: at least as large as the grid of patches.
        grid: rows and columns of patches, `N` in all.
        patch_hw: height and width of a patch.
    """
    (rows, columns), (height, width) = grid, patch_hw
    images = images[:, :, : rows * height, : columns * width]
    images = images.unflatten(3, (columns, width)).unflatten(2, (rows, height))
    return images.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
