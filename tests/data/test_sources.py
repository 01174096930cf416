# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from vit_hf.data import load_images


def make_folder(folder, *, counts: dict[str, int]):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Pictures.new("RGB", (10, 8), (index, 0, 0)).save(folder / name / f"{index}.png")
    return str(folder)


def test_the_digits_are_split_by_class_and_seed():
    images = load_images(seed=3)
    assert (len(images["train"]), len(images["test"])) == (1437, 360)
    counts = np.bincount(images["test"]["label"])
    assert len(counts) == 10 and counts.min() >= 34 and counts.max() <= 37
    assert images["test"]["label"][:50] == load_images(seed=3)["test"]["label"][:50]
    assert images["test"]["label"][:50] != load_images(seed=4)["test"]["label"][:50]
    assert np.asarray(images["train"][0]["image"]).max() == 255


def test_a_folder_of_class_folders(tmp_path):
    images = load_images(make_folder(tmp_path, counts={"cat": 10, "dog": 10}))
    assert images["train"].features["label"].names == ["cat", "dog"]
    assert (len(images["train"]), len(images["test"])) == (16, 4)


def test_a_test_split_of_the_sources_own_is_kept(tmp_path):
    make_folder(tmp_path / "train", counts={"cat": 4, "dog": 4})
    make_folder(tmp_path / "test", counts={"cat": 1, "dog": 2})
    images = load_images(str(tmp_path))
    assert (len(images["train"]), len(images["test"])) == (8, 3)


def test_columns_are_found_by_type_or_asked_for(tmp_path):
    picture = np.zeros((8, 8, 3), dtype="uint8")
    features = Features({"photo": Image(), "mask": Image(), "label": Value("string")})
    rows = {"photo": [picture] * 4, "mask": [picture] * 4, "label": ["a", "a", "b", "b"]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(
        ValueError, match="found 2 image columns; the columns are photo, mask, label"
    ):
        load_images(str(tmp_path))
    images = load_images(str(tmp_path), image_column="photo")
    assert images["train"].column_names == ["image", "label"]
    assert images["train"].features["label"].names == ["a", "b"]
    with pytest.raises(ValueError, match="got image_column='foto'"):
        load_images(str(tmp_path), image_column="foto")


def test_unreadable_images_are_named_before_anything_runs(tmp_path):
    folder = make_folder(tmp_path, counts={"cat": 6, "dog": 6})
    (tmp_path / "cat" / "3.png").write_text("not an image")
    whole = (tmp_path / "dog" / "2.png").read_bytes()
    (tmp_path / "dog" / "2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"got 2 images that cannot be read: .*3.png, .*2.png"):
        load_images(folder)


def test_a_flat_folder_is_told_what_it_lacks(tmp_path):
    for index in range(3):
        Pictures.new("RGB", (8, 8)).save(tmp_path / f"{index}.png")
    with pytest.raises(ValueError, match="one folder per class, two classes at least"):
        load_images(str(tmp_path))


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(
        ValueError, match="is no folder; give a folder of class folders, or a Hub id"
    ):
        load_images(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="got one image only of dog"):
        load_images(make_folder(tmp_path, counts={"cat": 3, "dog": 1}))
