# SPDX-License-Identifier: Apache-2.0
"""The splits: found by the usual names, or drawn from the training images with a seed.

What is drawn depends on the order of the images and the seed alone, so every process draws the
same. Classes have the same share in both parts.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from datasets import Dataset
from sklearn.model_selection import train_test_split
from transformers.utils import logging

from .columns import read_values
from .labels import listed

logger = logging.get_logger(__name__)

TEST_FRACTION = 0.2  # of a dataset that has no test split of its own
TRAIN_SPLITS = ("train", "training")
TEST_SPLITS = ("test", "testing", "eval", "evaluation", "validation", "valid", "val", "dev")


def find_splits(
    names: Sequence[str],
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    is_labelled: Callable[[str], bool],
) -> dict[str, str]:
    """Finds the splits `train` and `test`.

    Args:
        names: the source's splits.
        train_split: the name of the training split, where it is not a usual one.
        test_split: likewise; else the first of the usual names that has labels is taken, as the
            labels of many a test split are kept secret.
        is_labelled: whether a split of the source has labels.

    Returns:
        The source's names for `train` and, where there is one, `test`.

    Raises:
        ValueError: where there is no such split.
    """
    usual = {name.lower(): name for name in names if name != train_split}
    train = train_split or next((usual[name] for name in TRAIN_SPLITS if name in usual), None)
    candidates = [usual[name] for name in TEST_SPLITS if name in usual]
    test = test_split or next(filter(is_labelled, candidates), None)
    if not test_split and test != next(iter(candidates), None):
        logger.warning(
            f"the split {candidates[0]!r} has no labels and is passed over; the test split is "
            f"{test or 'to be drawn from the training images'}"
        )
    found = {"train": train, "test": test}
    for split, name in found.items():
        if name not in names and (name is not None or split == "train"):
            said = f"no {split} split" if name is None else f"{split}_split={name!r}"
            raise ValueError(
                f"got {said}; the splits are {', '.join(names)}: name one with --{split}_split"
            )
    if train == test:
        raise ValueError(f"got the split {train_split!r} for training and testing; name two")
    return {split: name for split, name in found.items() if name is not None}


def split_off_test(images: Dataset, *, seed: int) -> tuple[Dataset, Dataset]:
    """Draws a test split from labelled images.

    Raises:
        ValueError: where a class has one image only.
    """
    counts = Counter(read_values(images, "label"))
    names = images.features["label"].names
    rare = [names[index] for index in sorted(counts) if counts[index] < 2]
    if rare:
        raise ValueError(
            f"got one image only of {listed(rare)}; a stratified test split needs "
            "two a class: add images, leave the class out, or name a test split (--test_split)"
        )
    num_test = max(len(counts), share_of(TEST_FRACTION, len(images)))
    return draw(images, num_test, seed=seed, by_class=True)


def split_off_validation(images: Dataset, fraction: float, *, seed: int) -> tuple[Dataset, Dataset]:
    """Draws a validation split, by class where every class has enough images, else at random."""
    num_validation = share_of(fraction, len(images))
    if num_validation >= len(images):
        raise ValueError(
            f"got validation_fraction={fraction} of {len(images)} images, which leaves none to "
            "train on; allowed: a smaller one"
        )
    if "label" not in images.column_names:
        return draw(images, num_validation, seed=seed, by_class=False)
    counts = Counter(read_values(images, "label"))
    by_class = min(counts.values()) > 1 and len(counts) <= min(
        num_validation, len(images) - num_validation
    )
    if not by_class:
        logger.warning(
            f"{num_validation} of {len(images)} images are too few for a validation split with "
            f"each of the {len(counts)} classes in its share; they are drawn at random"
        )
    return draw(images, num_validation, seed=seed, by_class=by_class)


def share_of_each_class(images: Dataset, fraction: float, *, seed: int) -> Dataset:
    """Returns a share of the images, by class, rounded up: 10 % of the labels, for example.

    Raises:
        ValueError: for a share outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"got a fraction of {fraction}, allowed: above 0, to 1")
    labels = read_values(images, "label") if "label" in images.column_names else [0] * len(images)
    wanted = {label: share_of(fraction, count) for label, count in Counter(labels).items()}
    taken: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(images)).tolist():
        if wanted[labels[index]] > 0:
            wanted[labels[index]] -= 1
            taken.append(index)
    return images.select(sorted(taken), keep_in_memory=True)


def share_of(fraction: float, count: int) -> int:
    """Returns a share of `count` things, rounded up: 7 of 100 are 0.07, which in binary is more."""
    return math.ceil(Fraction(str(fraction)) * count)


def draw(images: Dataset, num_drawn: int, *, seed: int, by_class: bool) -> tuple[Dataset, Dataset]:
    """Draws images; returns the rest and those drawn."""
    rest, drawn = train_test_split(
        np.arange(len(images)),
        test_size=num_drawn,
        random_state=seed,
        stratify=read_values(images, "label") if by_class else None,
    )
    return images.select(rest, keep_in_memory=True), images.select(drawn, keep_in_memory=True)
