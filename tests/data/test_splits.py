# SPDX-License-Identifier: Apache-2.0
import logging
from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from vit_hf.data import load_images
from vit_hf.data.splits import (
    find_splits,
    share_of_each_class,
    split_off_test,
    split_off_validation,
)

NAMES = ["a", "b", "c"]


def numbered(*, counts: dict[int, int]) -> Dataset:
    labels = [label for label, count in counts.items() for _ in range(count)]
    features = Features({"number": Value("int64"), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"number": range(len(labels)), "label": labels}, features=features)


def find(*names, unlabelled=(), **options) -> dict[str, str]:
    return find_splits(names, is_labelled=lambda name: name not in unlabelled, **options)


def test_splits_are_found_by_the_usual_names(caplog):
    assert find("test", "train", "extra") == {"train": "train", "test": "test"}
    assert find("training", "val") == {"train": "training", "test": "val"}
    assert find("Train", "Test") == {"train": "Train", "test": "Test"}
    assert find("train", "validation", "test") == {"train": "train", "test": "test"}
    assert not caplog.text
    assert find("train", "validation", "test", unlabelled=["test"])["test"] == "validation"
    assert "'test' has no labels and is passed over; the test split is validation" in caplog.text
    assert find("train", "test", unlabelled=["test"]) == {"train": "train"}


def test_splits_are_named():
    named = find("train", "small", "test", "real", train_split="small", test_split="real")
    assert named == {"train": "small", "test": "real"}
    assert find("train", "test", train_split="test") == {"train": "test"}
    with pytest.raises(ValueError, match="test_split='tset'; the splits are train, test"):
        find("train", "test", test_split="tset")
    with pytest.raises(ValueError, match=r"no train split; the splits are a, b: .*--train_split"):
        find("a", "b")
    with pytest.raises(ValueError, match="'train' for training and testing"):
        find("train", "test", train_split="train", test_split="train")


def test_a_validation_split_has_every_class_in_its_share():
    images = numbered(counts={0: 100, 1: 50, 2: 10})
    train, validation = split_off_validation(images, 0.1, seed=0)
    assert Counter(validation["label"]) == {0: 10, 1: 5, 2: 1}
    assert sorted([*train["number"], *validation["number"]]) == list(range(160))
    assert validation["number"][:] == split_off_validation(images, 0.1, seed=0)[1]["number"][:]
    assert validation["number"][:] != split_off_validation(images, 0.1, seed=1)[1]["number"][:]


@pytest.mark.parametrize(
    ("counts", "fraction"), [({0: 50, 1: 1}, 0.1), ({0: 10, 1: 10, 2: 10}, 0.05)]
)
def test_too_few_images_for_a_validation_split_by_class_are_said(counts, fraction, caplog):
    images = numbered(counts=counts)
    with caplog.at_level(logging.WARNING):
        train, validation = split_off_validation(images, fraction, seed=0)
    assert "they are drawn at random" in caplog.text
    assert sorted([*train["number"], *validation["number"]]) == list(range(len(images)))
    assert len(validation) == -(-len(images) * fraction // 1)


def test_the_validation_images_come_from_the_training_images():
    images, plain = load_images(validation_fraction=0.1, seed=2), load_images(seed=2)
    assert {name: len(rows) for name, rows in images.items()} == {
        "train": 1293,
        "test": 360,
        "validation": 144,
    }
    assert images["test"][:] == plain["test"][:]
    held_out = {row["image"]["bytes"] for row in images["validation"]}
    assert held_out <= {row["image"]["bytes"] for row in plain["train"]}
    assert not held_out & {row["image"]["bytes"] for row in images["train"]}


def test_a_validation_split_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match=r"validation_fraction=0.9 of 2 images, which leaves none"):
        split_off_validation(numbered(counts={0: 2}), 0.9, seed=0)


def test_a_test_split_needs_two_images_a_class():
    with pytest.raises(ValueError, match="one image only of b; a stratified"):
        split_off_test(numbered(counts={0: 9, 1: 1}), seed=0)
    train, test = split_off_test(numbered(counts={0: 2, 1: 2, 2: 2}), seed=0)
    assert Counter(train["label"]) == Counter(test["label"]) == {0: 1, 1: 1, 2: 1}


def test_a_share_is_that_of_the_decimal_number():
    images = numbered(counts={0: 100})
    assert len(share_of_each_class(images, 0.07, seed=0)) == 7  # 0.07 * 100 is above 7
    assert len(split_off_validation(images, 0.07, seed=0)[1]) == 7


def test_a_share_of_each_class():
    images = numbered(counts={0: 100, 1: 50, 2: 3})
    some = share_of_each_class(images, 0.1, seed=0)
    assert Counter(some["label"]) == {0: 10, 1: 5, 2: 1}
    assert some["number"][:] == sorted(some["number"]) != list(range(16))
    assert some["number"][:] != share_of_each_class(images, 0.1, seed=1)["number"][:]
    assert share_of_each_class(images, 1, seed=0)["number"][:] == list(range(153))
    with pytest.raises(ValueError, match="got a fraction of 0, allowed: above 0, to 1"):
        share_of_each_class(images, 0, seed=0)
