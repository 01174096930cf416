# SPDX-License-Identifier: Apache-2.0
"""The native image size of a checkpoint that stores a row per position but no size.

A count of rows says a square grid, or nothing: what it does not say is asked for by name.
"""

from math import isqrt

from ..modeling.configuration_vision_transformer import VisionTransformerConfig

Size = int | tuple[int, int] | list[int]


def find_native_size(
    settings: dict,
    num_patches: int,
    *,
    given: Size | None,
    hints: tuple[Size | None, ...] = (),
    source: str,
) -> Size:
    """Returns the image size whose patches are the `num_patches` rows of a position table.

    Args:
        settings: settings of the configuration that fix the patch size and the stem.
        num_patches: rows of the table, the prefix tokens' left out.
        given: the size that the caller gave, which must fit.
        hints: sizes that the checkpoint mentions; the first that fits is taken.
        source: the file and the key of the table, for errors.

    Raises:
        ValueError: where the size given does not fit, or none was and the count is not square.
    """
    if given is not None:
        rows, columns = grid_of(settings, given)
        if rows * columns != num_patches:
            raise ValueError(
                f"got native_image_size={given}, which has {rows}x{columns} patches; {source} has "
                f"{num_patches} positions. Pass the size that the checkpoint was trained at (the "
                "size you want is image_size)"
            )
        return given
    for hint in hints:
        if hint is not None and num_patches == count_patches(settings, hint):
            return hint
    side = isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(
            f"{source} has {num_patches} positions, which is no square number, so the grid cannot "
            "be told: pass native_image_size=(height, width), the size in pixels that the "
            "checkpoint was trained at"
        )
    height, width = (side * pixels for pixels in pixels_per_patch(settings))
    return height if height == width else (height, width)


def pixels_per_patch(settings: dict) -> tuple[int, int]:
    """Returns the height and width in pixels that one patch token stands for."""
    return VisionTransformerConfig(**{**settings, "image_size": 1 << 20}).pixels_per_patch


def grid_of(settings: dict, size: Size) -> tuple[int, int]:
    """Returns the patches `(rows, columns)` of an image of `size`; a `ValueError` where there are
    none.
    """
    return VisionTransformerConfig(**{**settings, "image_size": size}).grid


def count_patches(settings: dict, size: Size) -> int:
    """Returns the number of patches of an image of `size`, 0 where it is smaller than one."""
    try:
        rows, columns = grid_of(settings, size)
    except ValueError:
        return 0
    return rows * columns
