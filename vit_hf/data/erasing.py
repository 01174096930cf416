# SPDX-License-Identifier: Apache-2.0
"""Random erasing: a box of an image becomes noise (Zhong et al. 2017).

The numbers are those of timm's `RandomErasing` in the mode "pixel", which DeiT uses: a share of 2 %
to a third of the area, height over width from 0.3 to 1 / 0.3, noise that is normal in normalised
pixels.

Shapes: `B` batch, `C` channels, `H` height, `W` width.
"""

import math

import numpy as np
import torch

from .boxes import NO_BOX, PixelBox, inside

AREA = (0.02, 1 / 3)  # share of the image's
RATIO = (0.3, 1 / 0.3)  # height over width; its logarithm is uniform
ATTEMPTS = 10  # to find a box smaller than the image in both directions


def draw_erasing_box(image_hw: tuple[int, int], generator: np.random.Generator) -> PixelBox:
    """Draws the box to erase; no box where none fitted, as in an image of one pixel."""
    height, width = image_hw
    for _ in range(ATTEMPTS):
        area = height * width * generator.uniform(*AREA)
        ratio = math.exp(generator.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        box_height, box_width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_height < height and 0 < box_width < width:
            top = int(generator.integers(height - box_height + 1))
            left = int(generator.integers(width - box_width + 1))
            return top, left, top + box_height, left + box_width
    return NO_BOX


def erase(pixel_values: torch.Tensor, boxes: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Puts noise into boxes.

    Args:
        pixel_values: `(B, C, H, W)`, normalised.
        boxes: `(B, 4)`, see `boxes`.
        keys: `(B,)` int32, of which each image's noise is a function.
    """
    noise = normal_noise(keys, pixel_values.shape[1:]).to(pixel_values.dtype)
    return torch.where(inside(boxes, pixel_values.shape[-2:]), noise, pixel_values)


def normal_noise(keys: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Returns noise `(B, *shape)` in float32, from a normal distribution of mean 0 and deviation 1.

    It is a function of the keys `(B,)` and the place alone: generators of devices have one state
    for a whole batch, and on each device another stream. So the places are numbered, and each
    number is scrambled with the key to a random one.
    """
    place = torch.arange(shape.numel(), dtype=torch.int32, device=keys.device)  # (CHW,)
    bits = scramble(place ^ keys[:, None])  # (B, CHW)
    uniform = ((bits >> 8).float() + 0.5) * 2**-23  # in (-1, 1), without its ends
    return (math.sqrt(2) * torch.erfinv(uniform)).view(-1, *shape)


def scramble(bits: torch.Tensor) -> torch.Tensor:
    """Maps int32 one to one to int32 that look random: a hash found by C. Wellons' prospector."""
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 0x21F0AAAD  # the mask makes the shift unsigned
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * (0xD35A2D97 - 2**32)
    return bits ^ ((bits >> 15) & 0x1FFFF)
