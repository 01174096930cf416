# SPDX-License-Identifier: Apache-2.0
"""One image to `(3, H, W)` uint8: decoded, cropped, resized, and changed by RandAugment.

For evaluation this is what the image processor saved beside a model does, so that training and
serving see the same pixels. All else that happens to a picture, from mirroring to normalisation,
waits until the batch is on the device, see `mixing`.
"""

import math
from typing import Any

import numpy as np
import torch

from .decoding import decode_region
from .orientation import Box
from .randaugment import RandAugment
from .resizing import picture_of, planes_of

CROP_RATIO = (3 / 4, 4 / 3)  # width over height of an Inception crop (Szegedy et al. 2014, sec. 6)
CROP_ATTEMPTS = 100  # after which the whole image is taken; as in TensorFlow, which the authors use


def normalize(pixel_values: torch.Tensor) -> torch.Tensor:
    """Maps uint8 pixels to [-1, 1], as the authors do: `(x - 127.5) / 127.5` in float32."""
    return pixel_values.float().sub_(127.5).div_(127.5)


class ImageTransform:
    """An image, in any form that `decode_image` takes, to pixels.

    Args:
        image_hw: height and width in pixels.
        crop_area: for training, the least share of the image's area that a random crop keeps (an
            Inception crop; the authors' code has 0.05); `None`, for evaluation, squashes the whole
            image to the size, as the authors do.
        randaugment: for training, what changes the picture at random.
        exact_decoding: whether a JPEG is decoded at its full size and resized by Pillow, as serving
            does; training is faster without, and its pixels hardly differ, see `decode_region`.

    Raises:
        ValueError: for values that are not allowed.
    """

    def __init__(
        self,
        image_hw: tuple[int, int],
        *,
        crop_area: float | None = None,
        randaugment: RandAugment | None = None,
        exact_decoding: bool = False,
    ):
        if len(image_hw) != 2 or min(image_hw) < 1:
            raise ValueError(f"got image_hw={image_hw}, allowed: height and width, at least 1")
        if crop_area is not None and not 0 < crop_area <= 1:
            raise ValueError(
                f"got crop_area={crop_area}, allowed: above 0 and at most 1; None is no crop"
            )
        self.image_hw, self.crop_area = image_hw, crop_area
        self.randaugment, self.exact_decoding = randaugment, exact_decoding

    def __call__(self, source: Any, *, seed: int | None = None) -> np.ndarray:
        """Returns the pixels of one image.

        Args:
            source: the image.
            seed: a non-negative integer, of which crop and RandAugment are a function.

        Returns:
            `(3, H, W)` uint8, contiguous.

        Raises:
            UndecodableImage: see `decode_image`.
            ValueError: where something is random and no seed is given.
        """
        is_random = self.crop_area is not None or self.randaugment is not None
        if is_random and seed is None:
            raise ValueError(
                "got no seed for a random crop or RandAugment; give the sample's, or use a "
                "transform without them"
            )
        # The word keeps this stream of numbers apart from others that begin with the same seed.
        generator = np.random.default_rng([seed or 0, *b"transform"]) if is_random else None

        def choose_box(size: tuple[int, int]) -> Box | None:
            if self.crop_area is None or generator is None:
                return None
            return draw_crop(size, least_area=self.crop_area, generator=generator)

        pixels = decode_region(
            source, choose_box=choose_box, image_hw=self.image_hw, exact=self.exact_decoding
        )
        if self.randaugment is not None and generator is not None:
            pixels = planes_of(self.randaugment(picture_of(pixels), generator))
        return np.ascontiguousarray(pixels)  # (3, H, W)


def draw_crop(
    size: tuple[int, int], *, least_area: float, generator: np.random.Generator
) -> Box | None:
    """Draws an Inception crop (Szegedy et al. 2014, section 6).

    Its share of the area is uniform in [`least_area`, 1], width over height uniform in
    `CROP_RATIO`, its place uniform. What does not fit into the image is drawn again.

    Args:
        size: width and height of the image.
        least_area: above 0, at most 1.
        generator: what it is drawn from.

    Returns:
        The box, or `None`, the whole image, where nothing fitted.
    """
    width, height = size
    for _ in range(CROP_ATTEMPTS):
        area = width * height * generator.uniform(least_area, 1)
        ratio = generator.uniform(*CROP_RATIO)
        crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if crop_width <= width and crop_height <= height:
            left = generator.uniform(0, width - crop_width)
            top = generator.uniform(0, height - crop_height)
            return left, top, min(left + crop_width, width), min(top + crop_height, height)
    return None
