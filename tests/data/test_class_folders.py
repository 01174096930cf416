# SPDX-License-Identifier: Apache-2.0
"""Which folders are splits, and which are classes."""

from vit_hf.data.class_folders import make_splits


def split(*places: str) -> dict[str, list[str] | None]:
    """Returns the classes of each split of pictures at these places."""
    splits = make_splits([f"/pictures/{place}" for place in places], list(places))
    return {
        name: rows.features["label"].names if "label" in rows.features else None
        for name, rows in splits.items()
    }


def test_a_class_may_be_called_train(caplog):
    assert split("airplane/1.jpg", "bus/1.jpg", "train/1.jpg") == {
        "train": ["airplane", "bus", "train"]
    }
    assert "train, airplane, bus are taken for classes, not splits" in caplog.text


def test_a_split_has_class_folders_or_another_beside_it(caplog):
    places = [
        f"{name}/{label}/1.jpg" for name in ("train", "holdout") for label in ("bus", "train")
    ]
    assert split(*places) == {"train": ["bus", "train"], "holdout": ["bus", "train"]}
    assert not caplog.text
    assert split("train/1.jpg", "test/1.jpg", "bus/1.jpg") == dict.fromkeys(
        ["train", "bus", "test"]
    )
    assert "test, train, bus are taken for splits, not classes" in caplog.text
