# SPDX-License-Identifier: Apache-2.0
"""A model that takes raw images: its image processor's arithmetic before it, in one module.

What a client has to know of a ViT is then nothing: neither size, nor kernel, nor mean.

Shapes: `B` batch, `C = 3` channels, `H` and `W` height and width of the raw image, `h` and `w`
those that the model gets.
"""

import torch
from torch import nn
from transformers import ViTImageProcessorPil

from ..converters.image_processors import RESAMPLING
from .resizing import KERNELS, are_rows_first, resize, resize_weights


class Preprocessing(nn.Module):
    """What an image processor does, for raw images of any size: resize, crop, rescale, normalise.

    Args:
        processor: one of transformers' ViT processors.

    Raises:
        ValueError: for settings that leave images of several sizes, or that are none of a ViT's.
    """

    def __init__(self, processor):
        super().__init__()
        self.edge, self.resized_hw, self.window = sizes_of(processor)
        self.kernel = kernel_of(processor)
        self.factor = processor.rescale_factor if processor.do_rescale else 1.0
        mean = processor.image_mean if processor.do_normalize else [0.0] * 3
        deviation = processor.image_std if processor.do_normalize else [1.0] * 3
        self.mean = nn.Buffer(torch.tensor(mean).view(-1, 1, 1))
        self.deviation = nn.Buffer(torch.tensor(deviation).view(-1, 1, 1))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Maps `(B, C, H, W)` uint8 to `(B, C, h, w)` float32, as the processor does."""
        # The sides as tensors: a comparison of two that are unknown could not be exported.
        sides = [torch.ones(side).sum().long() for side in pixel_values.shape[2:]]
        resized = self.resized_sides(*sides)
        rows, columns = (
            resize_weights(side, resized=target, window=window, kernel=self.kernel)
            for side, target, window in zip(pixel_values.shape[2:], resized, self.window)
        )
        order = are_rows_first(*sides, resized=resized)
        image = resize(pixel_values.float(), rows=rows, columns=columns, rows_first=order)
        return (image * self.factor - self.mean) / self.deviation

    def resized_sides(self, height: torch.Tensor, width: torch.Tensor) -> list[torch.Tensor]:
        """Returns height and width, `()` each, after resizing and before the crop."""
        if self.resized_hw is not None:
            return [torch.full_like(height, side) for side in self.resized_hw]
        if self.edge is None:
            return [height, width]
        shortest = torch.minimum(height, width)
        return [
            torch.div(self.edge * side, shortest, rounding_mode="floor") for side in (height, width)
        ]


def kernel_of(processor):
    """Returns the kernel that a processor resizes with; see `Preprocessing` for the errors."""
    name = next(name for name, number in RESAMPLING.items() if number == processor.resample)
    if name not in KERNELS:
        raise ValueError(
            f"got an image processor with resample={name}, allowed in a graph: "
            f"{', '.join(KERNELS)}; change the checkpoint's preprocessor_config.json"
        )
    return KERNELS[name]


def sizes_of(processor) -> tuple[int | None, tuple[int, int] | None, tuple[int, int]]:
    """Returns what a processor makes of a size: the shortest edge or the size that it resizes to,
    and the window that it keeps; see `Preprocessing` for the errors.
    """
    size = {name: value for name, value in dict(processor.size).items() if value is not None}
    crop = dict(processor.crop_size or {}) if processor.do_center_crop else {}
    edge = resized_hw = None
    if processor.do_resize and set(size) == {"height", "width"}:
        resized_hw = (size["height"], size["width"])
    elif processor.do_resize and set(size) == {"shortest_edge"}:
        edge = size["shortest_edge"]
    elif processor.do_resize:
        raise ValueError(
            f"got an image processor with size={size}, allowed in a graph: height and width, or "
            "the shortest edge; change the checkpoint's preprocessor_config.json"
        )
    if crop:
        return edge, resized_hw, (crop["height"], crop["width"])
    if resized_hw is None:
        raise ValueError(
            f"got an image processor that leaves images of several sizes (do_resize="
            f"{processor.do_resize}, size={size}, no centre crop), allowed in a graph: one that "
            "resizes to a height and width, or crops; give --image_size, or change the "
            "checkpoint's preprocessor_config.json"
        )
    return edge, resized_hw, resized_hw


class RawImageModel(nn.Module):
    """A model behind its preprocessing.

    Args:
        model: any of the package's models.
        processor: its image processor.
    """

    def __init__(self, model, processor):
        super().__init__()
        self.config = model.config
        self.preprocessing = Preprocessing(processor)
        self.model = model

    def forward(self, pixel_values: torch.Tensor):
        """Maps raw images `(B, C, H, W)` uint8 to what the model returns."""
        return self.model(self.preprocessing(pixel_values))


def raw_image_processor() -> ViTImageProcessorPil:
    """Returns the image processor of a graph: any picture to `(C, H, W)` uint8, and no more."""
    return ViTImageProcessorPil(
        do_resize=False,
        do_rescale=False,
        do_normalize=False,
        do_convert_rgb=True,
    )
