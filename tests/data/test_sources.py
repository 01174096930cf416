# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value
from PIL import Image as Pictures

from vit_hf.data import load_images
from vit_hf.data.class_folders import walk

PICTURE = np.zeros((8, 8, 3), dtype="uint8")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture_bytes(shade: int) -> bytes:
    stream = io.BytesIO()
    Pictures.new("RGB", (10, 8), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def shade_of(image: dict) -> int:
    opened = Pictures.open(io.BytesIO(image["bytes"]) if image["bytes"] else image["path"])
    return opened.getpixel((0, 0))[0]


def make_folder(folder, *, counts: dict[str, int]):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{index}.png").write_bytes(picture_bytes(index))
    return str(folder)


def counted(images) -> dict[str, int]:
    names = images.features["label"].names
    labels = [names[row["label"]] for row in images]
    return {name: labels.count(name) for name in names}


def make_shard(path, rows: list[dict[str, bytes]]):
    with tarfile.open(path, "w") as archive:
        for index, row in enumerate(rows):
            for extension, data in row.items():
                member = tarfile.TarInfo(f"{path.stem}_{index:03}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def make_webdataset(folder) -> str:
    folder.mkdir()
    for split, num_shards in (("train", 3), ("test", 1)):
        for shard in range(num_shards):
            rows = [
                {
                    "png": picture_bytes(10 * shard + index),
                    "cls": str(index % 2).encode(),
                    "json": json.dumps({"label": 1 - index % 2}).encode(),
                }
                for index in range(6)
            ]
            make_shard(folder / f"{split}-{shard:04}.tar", rows)
    return str(folder)


def make_parquet(folder, *, features: dict, **splits: dict[str, list]) -> str:
    """Writes one shard a split; the pictures are numbered by their shade."""
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        count = len(next(iter(rows.values())))
        images = [{"bytes": picture_bytes(shade), "path": None} for shade in range(count)]
        Dataset.from_dict(
            {"image": images, **rows}, features=Features({"image": Image(), **features})
        ).to_parquet(folder / f"{split}-00000.parquet")
    return str(folder)


def test_the_digits_are_split_by_class_and_seed():
    images = load_images(seed=3)
    assert (len(images["train"]), len(images["test"])) == (1437, 360)
    counts = np.bincount(images["test"]["label"])
    assert len(counts) == 10 and counts.min() >= 34 and counts.max() <= 37
    assert images["test"]["label"][:50] == load_images(seed=3)["test"]["label"][:50]
    assert images["test"]["label"][:50] != load_images(seed=4)["test"]["label"][:50]
    pixels = np.asarray(Pictures.open(io.BytesIO(images["train"][0]["image"]["bytes"])))
    assert pixels.shape == (8, 8) and pixels.max() == 255


def test_a_folder_of_class_folders(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "pets", counts={"cat": 10, "dog": 10})
    images = load_images(folder)
    assert images["train"].features == Features(
        {"image": Image(decode=False), "label": ClassLabel(names=["cat", "dog"])}
    )
    assert (len(images["train"]), len(images["test"])) == (16, 4)
    for row in images["train"]:
        assert Path(row["image"]["path"]).parent.name == ["cat", "dog"][row["label"]]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("pets", "./pets", "~/pets"):
        assert list(load_images(name)["test"]) == list(images["test"])


def test_a_test_split_of_the_sources_own_is_kept(tmp_path):
    make_folder(tmp_path / "train", counts={"cat": 4, "dog": 4})
    make_folder(tmp_path / "test", counts={"cat": 1, "dog": 2})
    images = load_images(str(tmp_path))
    assert (len(images["train"]), len(images["test"])) == (8, 3)
    assert counted(images["test"]) == {"cat": 1, "dog": 2}


def test_names_that_datasets_would_take_for_splits_and_patterns(tmp_path):
    make_folder(tmp_path / "v1", counts={"car": 5, "plane": 5})
    folder = make_folder(tmp_path / "v[1]", counts={"bullet_train": 5, "car": 5, "test-tube": 5})
    images = load_images(folder)
    assert counted(images["train"]) == {"bullet_train": 4, "car": 4, "test-tube": 4}
    (tmp_path / "w[1]").mkdir()
    (tmp_path / "w[1]" / "train.parquet").touch()
    with pytest.raises(ValueError, match="would be taken for a pattern; rename it"):
        load_images(str(tmp_path / "w[1]"))


def test_pictures_may_lie_deeper_and_hidden_ones_are_left_out(tmp_path):
    for name in ("cat/images", "cat/more", "dog/images", ".cache/fish", "__MACOSX/cat"):
        make_folder(tmp_path / "train" / name, counts={"": 2})
    (tmp_path / "preview.png").write_bytes(picture_bytes(1))  # beside the folder train
    assert counted(load_images(str(tmp_path))["train"]) == {"cat": 3, "dog": 1}
    (tmp_path / "train" / "loop").symlink_to(tmp_path / "train")
    with pytest.raises(ValueError, match="loop, a link to a folder that it lies in"):
        load_images(str(tmp_path))


def test_links_to_other_folders_are_followed(tmp_path):
    make_folder(tmp_path / "elsewhere", counts={"cat": 5})
    make_folder(tmp_path / "pets", counts={"dog": 5})
    (tmp_path / "pets" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    assert counted(load_images(str(tmp_path / "pets"))["train"]) == {"cat": 4, "dog": 4}


def test_a_folder_that_cannot_be_read_is_not_an_empty_one():
    with pytest.raises(FileNotFoundError):
        list(walk("nowhere"))


def test_columns_are_found_by_type_or_asked_for(tmp_path):
    features = Features({"photo": Image(), "mask": Image(), "label": Value("string")})
    rows = {"photo": [PICTURE] * 4, "mask": [PICTURE] * 4, "label": ["a", "a", "b", "b"]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(
        ValueError, match="found 2 image columns, photo, mask; the columns are photo, mask, label"
    ):
        load_images(str(tmp_path))
    images = load_images(str(tmp_path), image_column="photo")
    assert images["train"].column_names == ["image", "label"]
    assert images["train"].features["label"].names == ["a", "b"]
    with pytest.raises(ValueError, match=r"got image_column='foto'.*--image_column"):
        load_images(str(tmp_path), image_column="foto")
    with pytest.raises(ValueError, match="got the label column 'mask' of type Image"):
        load_images(str(tmp_path), image_column="photo", label_column="mask")


def test_several_label_columns_are_asked_for(tmp_path):
    names = ["oak", "elm", "cod"]
    features = {
        "fine_label": ClassLabel(names=names),
        "coarse_label": ClassLabel(2),
    }
    rows = {"fine_label": [0, 1, 2] * 2, "coarse_label": [0, 0, 1] * 2}
    folder = make_parquet(tmp_path, features=features, train=rows)
    with pytest.raises(ValueError, match=r"2 label columns, fine_label, coarse_label.*--label_col"):
        load_images(folder)
    images = load_images(folder, label_column="fine_label")
    assert images["train"].features["label"].names == names
    assert load_images(folder, require_labels=False)["train"].column_names == ["image"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("type_", [Value("binary"), {"bytes": Value("binary")}], ids=str)
def test_images_in_plain_parquet_are_found_by_name(tmp_path, streaming, type_):
    pictures = [picture_bytes(shade) for shade in range(10)]
    rows = {
        "jpg": pictures if isinstance(type_, Value) else [{"bytes": data} for data in pictures],
        "label": [shade % 2 for shade in range(10)],
    }
    features = Features({"jpg": type_, "label": Value("int64")})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    images = load_images(str(tmp_path), streaming=streaming, label_names=["even", "odd"])
    rows = list(images["train"])
    assert len(rows) == (10 if streaming else 8)
    assert all(shade_of(row["image"]) % 2 == row["label"] for row in rows)


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset_shards(tmp_path, streaming):
    folder = make_webdataset(tmp_path / "shards")
    names = ["even", "odd"]
    images = load_images(folder, streaming=streaming, label_names=names)
    assert list(images) == ["train", "test"]
    assert images["train"].features["label"].names == names
    rows = list(images["train"])
    assert [shade_of(row["image"]) for row in rows] == [
        10 * shard + index for shard in range(3) for index in range(6)
    ]
    assert [row["label"] for row in rows] == [0, 1] * 9
    assert rows[7]["image"]["path"] == "train-0001_001.png"
    within = load_images(folder, streaming=streaming, label_names=names, label_column="json.label")
    assert [row["label"] for row in within["train"]] == [1, 0] * 9
    with pytest.raises(ValueError, match=r"are png, cls, json\.label, __key__, __url__"):
        load_images(folder, streaming=streaming, label_column="json.class")
    some = load_images(str(tmp_path / "shards" / "train-*.tar"), streaming=True, label_names=names)
    assert list(some) == ["train"] and some["train"].num_shards == 3


def test_names_in_another_order_are_no_new_names(tmp_path):
    labels = {"label": ClassLabel(names=["dog", "cat", "ant"])}
    folder = make_parquet(tmp_path, features=labels, train={"label": [0, 1, 2] * 5})
    said = "have cat, dog at other places than the source, whose classes are.* dog, cat, ant; give"
    for names in (["cat", "dog", "ant"], ["cat", "dog", "bird"]):
        with pytest.raises(ValueError, match=said):
            load_images(folder, label_names=names)
    for names in (["dog", "cat", "ant"], ["Hund", "Katze", "Ameise"], ["dog", "cat", "bee"]):
        images = load_images(folder, label_names=names)
        assert images["train"].features["label"].names == names


def test_classes_that_nobody_names(tmp_path):
    folder = make_webdataset(tmp_path / "shards")
    assert load_images(folder)["train"].features["label"].names == ["0", "1"]
    with pytest.raises(ValueError, match=r"type int64 and do not say their classes.*--label_names"):
        load_images(folder, streaming=True)
    assert load_images(folder, streaming=True, require_labels=False)["train"].column_names == [
        "image"
    ]
    one = load_images(folder, streaming=True, label_names=["even"])
    with pytest.raises(ValueError, match="got the labels 1 in the split 'train', allowed: 0;"):
        list(one["train"])


def test_a_stream_of_parquet_is_what_is_in_memory(tmp_path):
    labels = {"label": ClassLabel(names=["a", "b"])}
    rows = {"label": [0, 1] * 5}
    folder = make_parquet(tmp_path, features=labels, train=rows, test=rows)
    streams, images = load_images(folder, streaming=True), load_images(folder)
    for split in ("train", "test"):
        assert isinstance(streams[split], IterableDataset)
        assert streams[split].features == images[split].features
        assert list(streams[split]) == list(images[split])
    with pytest.raises(ValueError, match=r"=0.1 of a stream.*without --streaming"):
        load_images(folder, streaming=True, validation_fraction=0.1)


def test_a_stream_of_a_folder_has_the_same_splits(tmp_path):
    folder = make_folder(tmp_path, counts={"cat": 20, "dog": 20})
    options = {"seed": 1, "validation_fraction": 0.25}
    images, streams = load_images(folder, **options), load_images(folder, streaming=True, **options)
    for split, size in (("train", 24), ("test", 8), ("validation", 8)):
        in_memory, streamed = list(images[split]), list(streams[split])
        assert len(streamed) == size == streams[split].num_shards
        by_path = {row["image"]["path"]: row["label"] for row in in_memory}
        assert {row["image"]["path"]: row["label"] for row in streamed} == by_path


def test_a_stream_of_a_folder_mixes_its_classes(tmp_path):
    make_folder(tmp_path / "train", counts={"cat": 20, "dog": 20})
    make_folder(tmp_path / "test", counts={"cat": 2, "dog": 2})
    rows = list(load_images(str(tmp_path), streaming=True)["train"])
    assert rows != list(load_images(str(tmp_path), streaming=True, seed=1)["train"])
    assert 5 <= sum(row["label"] for row in rows[:20]) <= 15


def test_splits_are_found_or_asked_for(tmp_path):
    labels = {"label": ClassLabel(names=["a", "b"])}
    rows, two = {"label": [0, 1] * 3}, {"label": [0, 1]}
    folder = make_parquet(tmp_path / "a", features=labels, train=rows, validation=two)
    assert len(load_images(folder)["test"]) == 2
    folder = make_parquet(tmp_path / "b", features=labels, test=two)
    with pytest.raises(ValueError, match=r"no train split; the splits are test: .*--train_split"):
        load_images(folder)
    images = load_images(folder, train_split="test", require_labels=False)
    assert len(images["train"]) == 2 and "test" not in images


def test_secret_test_labels_are_passed_over(tmp_path):
    labels = {"label": ClassLabel(names=["a", "b"])}
    rows, secret, known = {"label": [0, 1] * 3}, {"label": [-1, -1]}, {"label": [1, 0]}
    folder = make_parquet(tmp_path, features=labels, train=rows, test=secret, validation=known)
    for streaming in (False, True):
        images = load_images(folder, streaming=streaming)
        assert [row["label"] for row in images["test"]] == [1, 0]
    with pytest.raises(ValueError, match="without a label in the split 'test': row 0, row 1"):
        load_images(folder, test_split="test")


def test_classes_that_are_never_trained(tmp_path):
    make_folder(tmp_path / "train", counts={"cat": 3, "dog": 3})
    make_folder(tmp_path / "test", counts={"cat": 1, "fox": 1})
    with pytest.raises(ValueError, match="got the classes fox in the test split"):
        load_images(str(tmp_path))


def test_images_without_labels(tmp_path):
    (tmp_path / "flat").mkdir()
    for index in range(6):
        (tmp_path / "flat" / f"{index}.png").write_bytes(picture_bytes(index))
    folder = str(tmp_path / "flat")
    with pytest.raises(ValueError, match="one folder per class, two classes at least"):
        load_images(folder)
    images = load_images(folder, require_labels=False, validation_fraction=0.3)
    assert {split: rows.num_rows for split, rows in images.items()} == {"train": 4, "validation": 2}
    assert images["train"].features == Features({"image": Image(decode=False)})
    make_folder(tmp_path / "flat", counts={"cat": 2, "dog": 2})
    with pytest.raises(ValueError, match=r"got 6 images without a label .*0.png"):
        load_images(folder)
    assert len(load_images(folder, require_labels=False)["train"]) == 10


def test_labels_are_kept_where_they_are_so_that_the_test_split_is_one(tmp_path):
    folder = make_folder(tmp_path, counts={"cat": 10, "dog": 10})
    with_labels = load_images(folder)
    assert list(load_images(folder, require_labels=False)["test"]) == list(with_labels["test"])


def test_unreadable_images_are_left_to_those_who_decode(tmp_path):
    folder = make_folder(tmp_path, counts={"cat": 6, "dog": 6})
    (tmp_path / "cat" / "3.png").write_text("not an image")
    images = load_images(folder)
    assert len(images["train"]) + len(images["test"]) == 12


def test_what_is_not_there_is_said(tmp_path):
    said = (
        "is no folder; give a folder of images (with a folder per class where labels are needed), "
        "or a Hub id"
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        load_images(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="got one image only of dog"):
        load_images(make_folder(tmp_path, counts={"cat": 3, "dog": 1}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="could not open the dataset"):
        load_images(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="any data files; give a folder of images, one folder per"):
        load_images(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"validation_fraction=1.5, allowed"):
        load_images(validation_fraction=1.5)


def test_a_test_folder_with_a_stray_picture_is_not_passed_over(tmp_path):
    make_folder(tmp_path / "train", counts={"cat": 3, "dog": 3})
    make_folder(tmp_path / "test", counts={"cat": 1})
    (tmp_path / "test" / "0.png").write_bytes(picture_bytes(0))
    with pytest.raises(ValueError, match=r"without a label in the split 'test': .*0.png"):
        load_images(str(tmp_path))


@pytest.mark.slow
def test_processes_that_start_together_offline_draw_the_same(tmp_path):
    labels = {"label": ClassLabel(names=["a", "b"])}
    folder = make_parquet(tmp_path / "data", features=labels, train={"label": [0, 1] * 50})
    code = (
        "import sys; from vit_hf.data import load_images\n"
        "images = load_images(sys.argv[1], validation_fraction=0.1)\n"
        "print({name: [row['image']['bytes'] for row in rows] for name, rows in images.items()})"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, folder],
            env={
                **os.environ,
                "HF_HOME": str(tmp_path / "home"),  # an empty cache, which both fill
                "HF_HUB_OFFLINE": "1",
                "HF_DATASETS_OFFLINE": "1",
                "PYTHONHASHSEED": str(hash_seed),
            },
            stdout=subprocess.PIPE,
        )
        for hash_seed in (1, 2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0] == said[1] and said[0].count(b"PNG") == 100
