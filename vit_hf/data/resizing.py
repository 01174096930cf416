# SPDX-License-Identifier: Apache-2.0
"""Antialiased bilinear resizing of a picture's box: by Pillow, or by PyTorch's kernel for uint8.

PyTorch's takes a fraction of the time, and its pixels are Pillow's but for one level; a box that is
not one of whole pixels it cannot have, and such edges are rounded.

Shapes: `H` and `W` height and width wanted, `C` channels, 3 or for grey 1.
"""

import numpy as np
import pyarrow
import torch
from PIL import Image
from torch.nn import functional

from .orientation import Box


def resize_exactly(image: Image.Image, box: Box | None, *, target: tuple[int, int]) -> np.ndarray:
    """Resizes a box of a picture as serving does.

    Args:
        image: in RGB or grey (`"L"`).
        box: left, top, right, bottom; `None` is the whole picture.
        target: width and height wanted.

    Returns:
        `(C, H, W)` uint8.
    """
    return planes_of(image.resize(target, Image.Resampling.BILINEAR, box=box))


def resize_fast(image: Image.Image, box: Box, *, target: tuple[int, int]) -> np.ndarray:
    """Resizes a box, its edges rounded to whole pixels, in a fraction of the time.

    Args:
        image: in RGB or grey (`"L"`).
        box: left, top, right, bottom.
        target: width and height wanted.

    Returns:
        `(C, H, W)` uint8.

    Raises:
        ValueError: for a box that is not inside the picture.
    """
    box = whole_pixels(box, image.size)
    if box != (0, 0, *image.size):
        image = image.crop(box)
    resized = functional.interpolate(
        pixels_of(image), size=target[::-1], mode="bilinear", antialias=True, align_corners=False
    )
    return resized.numpy()[0, : len(image.getbands())]


def pixels_of(image: Image.Image) -> torch.Tensor:
    """Returns a picture's pixels `(1, C, H, W)` uint8, channels last in memory as the kernel wants
    them; of RGB with a fourth channel of nothing.

    They are Pillow's own memory, which it hands out as Arrow arrays. A large picture it has in
    pieces, and older versions do not hand it out: those are copied.
    """
    try:
        values = pyarrow.array(image)
        pixels = torch.from_dlpack(values if image.mode == "L" else values.values)
    except (ValueError, TypeError):
        pixels = torch.from_numpy(np.array(image))
    height, width = image.height, image.width
    channels = pixels.numel() // (height * width)
    # One operation, as a view, its axes in another order and one more are three.
    return pixels.as_strided(
        (1, channels, height, width), (pixels.numel(), 1, width * channels, channels)
    )


def whole_pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Rounds a box to at least one whole pixel of a picture of `size` (width, height)."""
    rounded = []
    for start, stop, length in zip(box[:2], box[2:], size, strict=True):
        if not -1e-3 <= start < stop <= length + 1e-3:
            raise ValueError(f"got the box {box} of a picture of {size}, allowed: inside it")
        first = min(max(round(start), 0), length - 1)
        rounded.append((first, min(max(round(stop), first + 1), length)))
    (left, right), (top, bottom) = rounded
    return left, top, right, bottom


def planes_of(picture: Image.Image) -> np.ndarray:
    """Returns a picture's pixels `(C, H, W)` uint8."""
    pixels = np.asarray(picture)  # (H, W) or (H, W, C)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def picture_of(planes: np.ndarray) -> Image.Image:
    """Returns the picture, grey or RGB, of pixels `(C, H, W)` uint8."""
    parts = [Image.fromarray(plane) for plane in planes]
    return parts[0] if len(parts) == 1 else Image.merge("RGB", parts)
