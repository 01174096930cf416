# SPDX-License-Identifier: Apache-2.0
"""The images of a study, decoded once for all arms."""

from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset

from ..data import UndecodableImage, decode_image
from ..data.fingerprint import fingerprint
from ..data.splits import share_of_each_class
from ..experiment.arguments import DataArguments
from ..experiment.inputs import load_named_images

ROOM = 2 * 2**30  # bytes of decoded pictures that are kept; further ones are decoded each time
PLACE = "place"  # column with the number of a row in its split


class Pictures(TorchDataset):
    """Rows of a dataset for `ImageDataset`, whose images are decoded when first read, and kept."""

    def __init__(self, rows: Dataset):
        self.rows, self.room = rows, ROOM
        self.kept: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a row; one that cannot be decoded as it is stored."""
        if index in self.kept:
            return self.kept[index]
        row = self.rows[index]
        try:
            pixels = np.asarray(decode_image(row["image"]))
        except UndecodableImage:
            return row
        row = {**row, "image": pixels}
        if pixels.nbytes <= self.room:
            self.room -= pixels.nbytes
            self.kept[index] = row
        return row


class StudyImages:
    """The images of a study.

    Args:
        data: the flags that name them.
        num_test_images: test images to measure, by class.
    """

    def __init__(self, data: DataArguments, *, num_test_images: int):
        images = load_named_images(data)
        train, test = (with_places(images[split]) for split in ("train", "test"))
        self.num_test_in_all = len(test)
        if num_test_images < len(test):
            test = share_of_each_class(test, num_test_images / len(test), seed=data.split_seed)
        self.name, self.train, self.test = data.dataset_name, train, test
        self.pictures = {"train": Pictures(train), "test": Pictures(test)}
        self.fingerprint = fingerprint(train)
        self.class_names: list[str] = train.features["label"].names

    def share(self, fraction: float, *, seed: int) -> tuple[Dataset, Any]:
        """Returns a share of the training images of every class, as rows and as pictures."""
        if fraction == 1:
            return self.train, self.pictures["train"]
        rows = share_of_each_class(self.train, fraction, seed=seed)
        return rows, Subset(self.pictures["train"], rows[PLACE][:])


def with_places(rows: Dataset) -> Dataset:
    """Numbers the rows."""
    return rows.add_column(PLACE, list(range(len(rows))))  # pyright: ignore[reportCallIssue]
