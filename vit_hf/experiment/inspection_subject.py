# SPDX-License-Identifier: Apache-2.0
"""What is inspected: a model, and photos as its own image processor prepares them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import ProcessorTransform, UndecodableImage
from ..data.class_folders import PICTURES


@dataclass
class Photo:
    """A photo as a model gets it.

    Args:
        name: of its file.
        pixels: `(3, H, W)`, as the image processor normalises them.
        picture: the same in [-1, 1], to be looked at.
    """

    name: str
    pixels: torch.Tensor
    picture: torch.Tensor


class Photos:
    """The photos of an inspection, read when they are asked for.

    Args:
        files: all that there are.
        processor: the checkpoint's image processor.
        config: the model's configuration.
    """

    def __init__(self, files: Sequence[Path], processor, config):
        if files and config.num_channels != 3:
            raise ValueError(
                f"got --images for a model of {config.num_channels} channels; photos have 3. "
                "Leave --images out, for the figures that need none"
            )
        self.files, self.unreadable = files, []
        self.transform = ProcessorTransform(processor)
        mean, deviation = processor.image_mean, processor.image_std
        if not processor.do_normalize:
            mean, deviation = [0.0], [1.0]
        self.mean, self.deviation = (
            torch.tensor(list(values)).view(-1, 1, 1) for values in (mean, deviation)
        )

    def read(self, count: int) -> Iterator[Photo]:
        """Yields `count` photos at most, evenly spaced among all; those unreadable are noted."""
        count = min(count, len(self.files))
        for place in range(count):
            file = self.files[place * len(self.files) // count]
            try:
                pixels = torch.from_numpy(np.asarray(self.transform(str(file)), dtype=np.float32))
            except UndecodableImage:
                self.unreadable.append(file)
                continue
            yield Photo(file.name, pixels, (pixels * self.deviation + self.mean) * 2 - 1)


@dataclass
class Subject:
    """What is inspected: a model, the photos that are shown, and all of them."""

    model: Any
    shown: list[Photo]
    photos: Photos
    num_images: int


def find_photos(given: Sequence[str]) -> list[Path]:
    """Returns the files that are named, and the pictures in the folders that are named."""
    files = []
    for name in given:
        path = Path(name).expanduser()
        if path.is_file():
            files.append(path)
        elif path.is_dir():
            found = sorted(each for each in path.rglob("*") if each.suffix.lower() in PICTURES)
            if not found:
                raise ValueError(
                    f"got --images {name}, a folder without pictures; allowed: {some(PICTURES)}"
                )
            files += found
        else:
            raise ValueError(f"got --images {name}, which is no file and no folder")
    return files


def some(names) -> str:
    """Returns the commonest endings of pictures in words."""
    common = [name for name in (".jpeg", ".jpg", ".png", ".webp") if name in names]
    return f"{', '.join(common)} and others that Pillow reads"
