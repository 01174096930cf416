# SPDX-License-Identifier: Apache-2.0
"""A local folder of pictures, whose folders say the splits and the classes.

`folder/cat/1.jpg` is of class cat; `folder/train/cat/1.jpg` and `folder/test/cat/2.jpg` are in two
splits. Pictures may lie deeper, as in `folder/train/cat/images/1.jpg`: the class is the first
folder. With fewer than two class folders there are no labels. A folder `train` is a split where it
has class folders, or where another split lies beside it; in `folder/train/1.jpg` beside
`folder/bus/2.jpg` it is a class.

`datasets` reads such folders too, but guesses splits from parts of names: of the class folders
`bullet_train` and `car` it reads the first alone, without labels. It streams them as one shard, and
takes brackets in the path for a pattern.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from transformers.utils import logging

from .labels import listed
from .splits import TEST_SPLITS, TRAIN_SPLITS

logger = logging.get_logger(__name__)

PICTURES = frozenset(ImageFolder.EXTENSIONS)
SHARDS = frozenset({".parquet", ".arrow", ".tar"})
TABLES = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})


def open_class_folders(folder: Path) -> dict[str, Dataset] | None:
    """Opens a folder of pictures; only names are read.

    Returns:
        By split, `image` (undecoded) and, where there are two classes at least, `label`, which is
        `None` for pictures beside the class folders. `None` for a folder that holds mainly shards,
        no pictures, or a table that describes them: that is for `datasets`.
    """
    files = list(walk(str(folder)))
    kinds = Counter(os.path.splitext(file)[1].lower() for file in files)
    num_pictures = sum(count for kind, count in kinds.items() if kind in PICTURES)
    has_table = any(os.path.basename(file) in TABLES for file in files)
    if has_table or num_pictures <= sum(kinds[kind] for kind in SHARDS):
        return None
    pictures = [file for file in files if os.path.splitext(file)[1].lower() in PICTURES]
    return make_splits(pictures, [os.path.relpath(file, folder) for file in pictures])


def make_splits(pictures: list[str], places: list[str]) -> dict[str, Dataset]:
    """Makes the splits of pictures from their places, the paths within the folder."""
    parents = [place.split(os.sep)[:-1] for place in places]
    has_splits = are_splits(parents)
    splits: dict[str, dict[str, list]] = {}
    for picture, parent in zip(pictures, parents, strict=True):
        if has_splits and not parent:
            continue  # beside the folder train: in no split
        split, *parent = parent if has_splits else ["train", *parent]
        rows = splits.setdefault(split, {"image": [], "label": []})
        rows["image"].append(os.path.abspath(picture))
        rows["label"].append(parent[0] if parent else None)
    classes = {name for rows in splits.values() for name in rows["label"]} - {None}
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=sorted(classes))})
    if len(classes) < 2:
        del features["label"]
    return {
        name: Dataset.from_dict({column: rows[column] for column in features}, features=features)
        for name, rows in sorted(splits.items(), key=lambda split: not is_train(split[0]))
    }


def are_splits(parents: list[list[str]]) -> bool:
    """Whether the first folders are splits, not classes; warns where they could be either.

    Args:
        parents: the folders, from the first on, that each picture lies in.
    """
    folders = {parent[0] for parent in parents if parent}
    train = {name for name in folders if is_train(name)}
    if not train:
        return False
    usual = {name for name in folders if name.lower() in TRAIN_SPLITS + TEST_SPLITS}
    classes = {parent[1] for parent in parents if len(parent) > 1 and parent[0] in train}
    has_splits = len(usual) > 1 or len(classes) > 1
    others = sorted({parent[0] for parent in parents if len(parent) == 1} - usual)
    if others:
        kind = "splits, not classes" if has_splits else "classes, not splits"
        logger.warning(
            f"the folders {listed([*sorted(usual), *others])} are taken for {kind}; the pictures "
            "of splits lie in one folder per class: train/cat/1.jpg, test/cat/2.jpg"
        )
    return has_splits


def is_train(folder: str) -> bool:
    """Whether a folder's name is one that training splits have."""
    return folder.lower() in TRAIN_SPLITS


def walk(folder: str) -> Iterator[str]:
    """Yields the files below a folder in the order of their names, leaving out hidden ones."""

    def refuse(error: OSError):
        raise error  # or a folder that cannot be read would be one without pictures

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = sorted(name for name in folders if is_visible(name))
        refuse_loops(parent, folders)
        yield from (os.path.join(parent, name) for name in sorted(files) if is_visible(name))


def refuse_loops(parent: str, folders: list[str]):
    """Raises a `ValueError` where one of the folders is a link to one that it lies in."""
    for path in (os.path.join(parent, name) for name in folders):
        target = os.path.realpath(path) if os.path.islink(path) else None
        if target is not None and Path(os.path.realpath(parent)).is_relative_to(target):
            raise ValueError(f"got {path}, a link to a folder that it lies in; remove it")


def is_visible(name: str) -> bool:
    """Whether a file or folder is a user's own; `.cache` and `__MACOSX` are not."""
    return not name.startswith((".", "__"))
