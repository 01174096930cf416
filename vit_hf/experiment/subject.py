# SPDX-License-Identifier: Apache-2.0
"""What is evaluated: a checkpoint, and images prepared as its own image processor prepares them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import DatasetDict
from torch.utils.data import DataLoader

from ..converters import load_image_processor
from ..converters.image_processors import build, crop_settings
from ..data import ImageCollator, ImageDataset, ProcessorTransform
from ..data.columns import read_values

# The authors' few-shot evaluation: resized to 256 pixels, whatever the shape, then the central 224.
FEW_SHOT_CROP = 224 / 256


@dataclass
class Subject:
    """A model and the images that it is measured on.

    Attributes:
        source: the checkpoint, as it was named.
        model: on the device that it is measured on.
        images: the splits.
        preprocessing: "checkpoint" or "few_shot", see `EvaluationArguments`.
        batch_size: images at once.
        num_workers: decoding processes.
        autocast: the type to compute in; `None` is the weights' own.
        has_bars: whether progress bars are shown.
    """

    source: str
    model: Any
    images: DatasetDict
    preprocessing: str
    batch_size: int
    num_workers: int
    autocast: torch.dtype | None
    has_bars: bool

    def processor(self, image_hw: tuple[int, int] | None = None):
        """Returns the image processor, for another size than the model's where one is given."""
        hw = image_hw or self.model.config.image_hw
        own = load_image_processor(self.source, image_size=hw)
        if self.preprocessing == "checkpoint":
            return own
        kept = {name: getattr(own, name) for name in ("resample", "image_mean", "image_std")}
        return build(
            kept | crop_settings(hw, FEW_SHOT_CROP), hw, num_channels=self.model.config.num_channels
        )

    def loader(self, split: str, image_hw: tuple[int, int] | None = None) -> DataLoader:
        """Returns the images of a split, with the dataset's own labels."""
        return DataLoader(
            ImageDataset(self.images[split], ProcessorTransform(self.processor(image_hw))),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=ImageCollator(),
        )

    def labels(self, split: str) -> Sequence[int]:
        """Returns the labels of a split."""
        return read_values(self.images[split], "label")

    def names(self) -> list[str]:
        """Returns the names of the dataset's classes."""
        return self.images["train"].features["label"].names

    def bar(self, words: str) -> str | None:
        """Returns what a progress bar is called, `None` where there are none."""
        return words if self.has_bars else None
