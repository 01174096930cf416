# SPDX-License-Identifier: Apache-2.0
"""Samples to a batch for the classifier: uint8 pixels, labels, and what the augmentation decided.

The batch's pixels are flipped, erased, mixed and normalised on the device, see `mixing.augment`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import default_data_collator

from .mixing import BatchAugmentation


class ImageCollator:
    """Samples of `ImageDataset` to a batch.

    Args:
        augmentation: what happens to the batch on the device in training; `None` is nothing.
    """

    def __init__(self, augmentation: BatchAugmentation | None = None):
        self.augmentation = augmentation

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns `pixel_values` `(B, 3, H, W)` uint8, `labels` `(B,)` where there are any,
        `is_undecodable` `(B,)`, `undecodable` names, `augmentation`: the decisions, as tensors,
        `places` of the lanes of a stream. Samples of another dataset are put together as
        transformers' `default_data_collator` does.

        Raises:
            ValueError: for samples without pixels, and for an augmentation of those of another
                dataset, which bring no seeds for it.
        """
        if "pixel_values" not in samples[0]:
            raise ValueError(
                f"got samples of {', '.join(samples[0])}, allowed: with pixel_values (and labels). "
                "ImageDataset(rows, ImageTransform((224, 224))) makes them of rows with an image "
                "and a label; with_transform of `datasets` can, too"
            )
        if "undecodable" not in samples[0]:
            if self.augmentation is not None:
                raise ValueError(
                    "got a BatchAugmentation for samples that are not those of an ImageDataset or "
                    "ImageStream, which bring the seeds that it needs; allowed for others: "
                    "ImageCollator() alone"
                )
            return default_data_collator(list(samples))
        batch = stack_pixels(samples, self.augmentation)
        if "labels" in samples[0]:
            batch["labels"] = torch.tensor([sample["labels"] for sample in samples])
        return batch


def stack_pixels(
    samples: Sequence[Mapping[str, Any]], augmentation: BatchAugmentation | None
) -> dict[str, Any]:
    """Returns what every kind of batch holds, see `ImageCollator`."""
    pixel_values = torch.from_numpy(np.stack([sample["pixel_values"] for sample in samples]))
    is_training = "seed" in samples[0]
    decisions = {}
    if augmentation is not None and is_training:
        seeds = [sample["seed"] for sample in samples]
        height, width = pixel_values.shape[-2:]
        decisions = augmentation.draw(seeds, (height, width))
    names = [sample["undecodable"] for sample in samples]
    return {
        "pixel_values": pixel_values,
        "augmentation": decisions,
        "undecodable": [name for some in names for name in some],
        # In training they were replaced by others.
        "is_undecodable": torch.tensor([bool(some) and not is_training for some in names]),
        "places": dict(sample["place"] for sample in samples if "place" in sample),
    }
