# SPDX-License-Identifier: Apache-2.0
"""RandAugment: a few operations on a picture, drawn at random, all of one magnitude.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space"
(2019), section 3. The magnitude is on AutoAugment's scale, where 10 is full strength; beyond, the
ranges go on. There are three sets of operations in use: the paper's, that of the authors of ViT
(`randaug` in big_vision's `pp/autoaugment.py`, for AugReg), and timm's (`rand-m9-mstd0.5-inc1`, for
DeiT). This is timm's, which is the authors' without the cutout (random erasing does its work, see
`erasing`); the paper has identity in the place of invert and solarize-add.

Magnitudes are "increasing", as timm calls it: more changes more. In the authors' code posterize and
solarize change less as the magnitude grows, and color, contrast, brightness and sharpness go from
weaker to stronger, with no change at 5; here it is chance whether they weaken or strengthen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

FULL_MAGNITUDE = 10.0  # of AutoAugment's scale
GREY = (128, 128, 128)  # stands where an operation uncovers what lies beyond the picture


@dataclass(frozen=True)
class RandAugment:
    """Applies random operations to a picture.

    The paper has `magnitude_deviation=0` and `operation_probability=1`, and so have the authors;
    DeiT has 2 operations of magnitude 9, a deviation of 0.5 and a probability of 0.5 (timm's).

    Attributes:
        num_operations: operations drawn for a picture, with replacement (the paper's N).
        magnitude: their strength (the paper's M), 10 is full; the authors of ViT use 10, 15 and 20.
        magnitude_deviation: standard deviation of the magnitude, drawn anew for each operation and
            kept between 0 and the greater of 10 and `magnitude`.
        operation_probability: how likely an operation that was drawn is applied.

    Raises:
        ValueError: for values that are not allowed.
    """

    num_operations: int = 2
    magnitude: float = 9.0
    magnitude_deviation: float = 0.5
    operation_probability: float = 1.0

    def __post_init__(self):
        if self.num_operations < 1:
            raise ValueError(f"got num_operations={self.num_operations}, allowed: 1 and more")
        for name in ("magnitude", "magnitude_deviation"):
            if not 0 <= getattr(self, name) <= 3 * FULL_MAGNITUDE:
                raise ValueError(f"got {name}={getattr(self, name)}, allowed: 0 to 30")
        if not 0 < self.operation_probability <= 1:
            raise ValueError(
                f"got operation_probability={self.operation_probability}, allowed: above 0 to 1"
            )

    def __call__(self, picture: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Returns another RGB picture of the same size; all that is random is drawn."""
        highest = max(FULL_MAGNITUDE, self.magnitude)
        for name in generator.choice(list(OPERATIONS), self.num_operations):
            if generator.random() >= self.operation_probability:
                continue
            magnitude = generator.normal(self.magnitude, self.magnitude_deviation)
            strength = min(max(magnitude, 0.0), highest) / FULL_MAGNITUDE
            sign = 1.0 if generator.random() < 0.5 else -1.0
            picture = OPERATIONS[name](picture, strength, sign)
        return picture


def rotate(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    """Turns the picture by up to 30 degrees."""
    return picture.rotate(sign * strength * 30, Image.Resampling.BILINEAR, fillcolor=GREY)


def posterize(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    """Keeps 4 bits of each channel at strength 0, at least 1 (timm goes down to 0: black)."""
    return ImageOps.posterize(picture, max(1, 4 - int(4 * strength)))


def solarize(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    """Inverts what is brighter than a threshold, which falls from 256 to 0."""
    return ImageOps.solarize(picture, max(0, 256 - int(256 * strength)))


def solarize_add(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    """Brightens what is darker than 128, by up to 110 levels."""
    added = int(110 * strength)
    table = [min(255, level + added) if level < 128 else level for level in range(256)]
    return picture.point(table * 3)


def enhance(enhancer: Callable[[Image.Image], Any]) -> Callable:
    """Returns the operation that weakens or strengthens a property, by a factor of 0.1 to 1.9."""

    def operation(picture: Image.Image, strength: float, sign: float) -> Image.Image:
        return enhancer(picture).enhance(max(0.1, 1 + sign * 0.9 * strength))

    return operation


def shift(
    *,
    shear_x: float = 0.0,
    shear_y: float = 0.0,
    translate_x: float = 0.0,
    translate_y: float = 0.0,
) -> Callable:
    """Returns the operation that shears (in pixels a pixel) or moves (in shares of the size)."""

    def operation(picture: Image.Image, strength: float, sign: float) -> Image.Image:
        amount = sign * strength
        along_x, along_y = translate_x * picture.width, translate_y * picture.height
        matrix = (1, amount * shear_x, amount * along_x, amount * shear_y, 1, amount * along_y)
        return picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            matrix,
            resample=Image.Resampling.BILINEAR,
            fillcolor=GREY,
        )

    return operation


# Each takes a picture, a strength (1 is full) and a sign (1.0 or -1.0).
OPERATIONS: dict[str, Callable[[Image.Image, float, float], Image.Image]] = {
    "auto_contrast": lambda picture, strength, sign: ImageOps.autocontrast(picture),
    "equalize": lambda picture, strength, sign: ImageOps.equalize(picture),
    "invert": lambda picture, strength, sign: ImageOps.invert(picture),
    "rotate": rotate,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "color": enhance(ImageEnhance.Color),
    "contrast": enhance(ImageEnhance.Contrast),
    "brightness": enhance(ImageEnhance.Brightness),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "shear_x": shift(shear_x=0.3),
    "shear_y": shift(shear_y=0.3),
    "translate_x": shift(translate_x=0.45),
    "translate_y": shift(translate_y=0.45),
}
