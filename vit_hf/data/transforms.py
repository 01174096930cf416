# SPDX-License-Identifier: Apache-2.0
"""One image to `(3, H, W)` uint8: upright, RGB, resized; cropped and flipped at random for
training.

For evaluation this is what the image processor saved beside a model does, so that training and
serving see the same pixels. Normalisation waits until the batch is on the device.
"""

import contextlib
import math

import numpy as np
import torch
from PIL import Image, ImageOps

CROP_RATIO = (3 / 4, 4 / 3)  # width over height of an Inception crop


def normalize(pixel_values: torch.Tensor) -> torch.Tensor:
    """Maps uint8 pixels to [-1, 1], as the authors do: `(x - 127.5) / 127.5` in float32."""
    return pixel_values.float().sub_(127.5).div_(127.5)


class ImageTransform:
    """A batch of dataset rows to rows of uint8 pixels, for `Dataset.with_transform`.

    Args:
        image_hw: height and width in pixels.
        crop_area: for training, the least share of the image's area that a random crop keeps (an
            Inception crop); `None`, for evaluation, squashes the whole image to the size, as the
            authors do.
        flip: for training, whether half of the images are mirrored.
    """

    def __init__(
        self, image_hw: tuple[int, int], *, crop_area: float | None = None, flip: bool = False
    ):
        self.image_hw, self.crop_area, self.flip = image_hw, crop_area, flip

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        """Maps the columns `image` and `label` to `pixel_values` `(3, H, W)` and `labels`."""
        return {
            "pixel_values": [self.pixels(image) for image in rows["image"]],
            "labels": rows["label"],
        }

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Returns the pixels `(3, H, W)` in uint8 of one image."""
        image = upright_rgb(image)
        height, width = self.image_hw
        box = None if self.crop_area is None else random_box(image.size, self.crop_area)
        image = image.resize((width, height), resample=Image.Resampling.BILINEAR, box=box)
        pixels = np.asarray(image).transpose(2, 0, 1)
        if self.flip and torch.rand(()) < 0.5:
            pixels = pixels[:, :, ::-1]
        return np.ascontiguousarray(pixels)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Returns the image in RGB, turned as its EXIF says; a broken EXIF block is left aside."""
    with contextlib.suppress(OSError, SyntaxError, ValueError, KeyError, TypeError):
        image = ImageOps.exif_transpose(image)
    return image.convert("RGB")


def random_box(size: tuple[int, int], least_area: float) -> tuple[float, float, float, float]:
    """Draws an Inception crop: a share of the area from `least_area` to 1, width over height in
    `CROP_RATIO`.
    """
    width, height = size
    area = width * height * torch.empty(()).uniform_(least_area, 1).item()
    ratio = math.exp(
        torch.empty(()).uniform_(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])).item()
    )
    crop_width, crop_height = (
        min(width, math.sqrt(area * ratio)),
        min(height, math.sqrt(area / ratio)),
    )
    left, top = (torch.rand(2) * torch.tensor([width - crop_width, height - crop_height])).tolist()
    return left, top, left + crop_width, top + crop_height
