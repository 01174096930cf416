# SPDX-License-Identifier: Apache-2.0
"""Rows of a dataset to samples: decoded, transformed, and honest about images that cannot be read.

In training, an image that cannot be decoded is replaced by another; in evaluation it stays, black,
so that the denominator is honest, and counts as wrong.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from .decoding import UndecodableImage
from .draws import Draw, derive_seed

MAX_SUBSTITUTES = 100  # unreadable images in a row, after which something else must be wrong


class ImageDataset(Dataset):
    """A map-style dataset of samples.

    A sample holds `pixel_values` `(3, H, W)` uint8; `labels`, where the rows have one; `seed`, from
    which the batch's augmentation is drawn, where the image was drawn for training; `undecodable`,
    the names of the images that could not be read.

    Args:
        rows: `image` (undecoded: bytes, path) and perhaps `label`, by index.
        transform: `(image, *, seed) -> (3, H, W)` uint8, see `ImageTransform`.
    """

    def __init__(self, rows: Any, transform: Callable[..., np.ndarray]):
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | Draw) -> dict[str, Any]:
        """Returns the sample of an index, for evaluation, or of a `Draw`, for training."""
        if isinstance(item, Draw):
            return self.training_sample(item)
        try:
            return sample_of(self.rows[item], self.transform)
        except UndecodableImage:
            pixels = np.zeros((3, *self.transform.image_hw), dtype=np.uint8)
            names = [name_of(self.rows[item], item)]
            return labelled(self.rows[item], {"pixel_values": pixels, "undecodable": names})

    def training_sample(self, draw: Draw) -> dict[str, Any]:
        """Returns the sample of a draw; of another image where that one cannot be decoded."""
        undecodable = []
        index, seed = draw.index, draw.seed
        for attempt in range(MAX_SUBSTITUTES):
            row = self.rows[index]
            try:
                return sample_of(row, self.transform, seed=seed, undecodable=undecodable)
            except UndecodableImage:
                undecodable.append(name_of(row, index))
                index = derive_seed(seed, attempt) % len(self.rows)
        raise nothing_decodable(undecodable)


def nothing_decodable(names: Sequence[str]) -> UndecodableImage:
    """Returns the error for that many images in a row that cannot be decoded."""
    return UndecodableImage(
        f"got {len(names)} images in a row that cannot be decoded, the last of them "
        f"{names[-1]}; look at the dataset with `vit-hf doctor`"
    )


def sample_of(
    row: dict[str, Any],
    transform: Callable[..., np.ndarray],
    *,
    seed: int | None = None,
    undecodable: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the sample of one row; raises `UndecodableImage` where its image is none."""
    sample = {
        "pixel_values": transform(row["image"], seed=seed),
        "undecodable": list(undecodable),
        **({} if seed is None else {"seed": seed}),
    }
    return labelled(row, sample)


def labelled(row: dict[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
    """Adds the row's label to its sample, where it has one."""
    return {**sample, "labels": row["label"]} if "label" in row else sample


def name_of(row: dict[str, Any], index: int | str) -> str:
    """Returns what names a row's image to people: its path, or else its place."""
    image = row["image"]
    path = image.get("path") if isinstance(image, dict) else None
    return path or f"row {index}"
