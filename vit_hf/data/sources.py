# SPDX-License-Identifier: Apache-2.0
"""Where images come from: a Hub dataset, a folder of class folders, or the digits that scikit-learn
ships.

Whatever the source, the columns are `image` and `label`, and the splits `train` and `test`.
"""

import math
from collections import Counter
from io import BytesIO
from pathlib import Path

import PIL.Image
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset
from sklearn.datasets import load_digits

TEST_FRACTION = 0.2  # of a dataset that has no test split of its own
TEST_SPLITS = ("test", "validation", "valid", "val")


def load_images(
    dataset_name: str | None = None,
    *,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
) -> DatasetDict:
    """Loads labelled images.

    Args:
        dataset_name: a Hub id, or a folder: of class folders, or of parquet files. `None` is the
            1,797 handwritten digits of scikit-learn, 8x8 pixels each, which need no download.
        seed: of the stratified split, where the source has no test split.
        image_column: name of the image column, needed where there are several.
        label_column: name of the label column, likewise.

    Returns:
        The splits `train` and `test`, each with the columns `image` and `label` (a `ClassLabel`).

    Raises:
        ValueError: where columns, labels or splits are not found, naming those that are there.
    """
    splits = (
        DatasetDict({"train": digits()}) if dataset_name is None else open_dataset(dataset_name)
    )
    if "train" not in splits:
        raise ValueError(
            f"got {dataset_name} with the splits {', '.join(map(str, splits))}; it needs 'train'"
        )
    splits = name_columns(splits, image_column=image_column, label_column=label_column)
    refuse_unreadable(splits)
    test_split = next((name for name in TEST_SPLITS if name in splits), None)
    if test_split is not None:
        return DatasetDict({"train": splits["train"], "test": splits[test_split]})
    return split_by_class(splits["train"], seed=seed)


def split_by_class(images: Dataset, *, seed: int) -> DatasetDict:
    """Splits images at random, so that train and test hold every class in the same share."""
    label = images.features["label"]
    counts = Counter(images["label"])
    rare = [label.int2str(index) for index in sorted(counts) if counts[index] < 2]
    if rare:
        raise ValueError(
            f"got one image only of {', '.join(rare)}; a stratified test split needs two a class"
        )
    num_test = max(len(counts), math.ceil(TEST_FRACTION * len(images)))
    return images.train_test_split(num_test, stratify_by_column="label", seed=seed)


def open_dataset(dataset_name: str) -> DatasetDict:
    """Opens a Hub dataset or a folder; a `ValueError` says what is missing."""
    looks_local = dataset_name.startswith((".", "/", "~")) or Path(dataset_name).exists()
    if looks_local and not Path(dataset_name).expanduser().is_dir():
        raise ValueError(
            f"got {dataset_name}, which is no folder; give a folder of class folders, or a Hub id"
        )
    try:
        return load_dataset(str(Path(dataset_name).expanduser()) if looks_local else dataset_name)
    except Exception as error:  # the loaders raise many kinds, all of which mean this
        here = "" if looks_local else "; there is no folder of that name here either"
        raise ValueError(f"could not open the dataset {dataset_name!r}: {error}{here}") from error


def refuse_unreadable(splits: DatasetDict):
    """Raises a `ValueError` that names the images that cannot be decoded."""
    unreadable = []
    for name, images in splits.items():
        for index, row in enumerate(images.cast_column("image", Image(decode=False))):
            stored = row["image"]
            try:
                with PIL.Image.open(
                    BytesIO(stored["bytes"]) if stored["bytes"] else stored["path"]
                ) as image:
                    image.load()
            except (OSError, SyntaxError, ValueError):
                unreadable.append(stored["path"] or f"row {index} of {name}")
    if unreadable:
        some = ", ".join(unreadable[:3]) + (", ..." if len(unreadable) > 3 else "")
        raise ValueError(
            f"got {len(unreadable)} images that cannot be read: {some}; remove or replace them"
        )


def name_columns(
    splits: DatasetDict, *, image_column: str | None, label_column: str | None
) -> DatasetDict:
    """Finds the image and the label column, by type, and names them `image` and `label`."""
    features = splits["train"].features
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    labels = labels or [name for name in ("label", "labels") if name in features]
    image = pick(image_column, images, features, kind="image")
    label = pick(label_column, labels, features, kind="label")
    splits = splits.select_columns([image, label])
    for old, new in ((image, "image"), (label, "label")):
        splits = splits if old == new else splits.rename_column(old, new)
    is_class_label = isinstance(splits["train"].features["label"], ClassLabel)
    return splits if is_class_label else splits.class_encode_column("label")


def pick(name: str | None, candidates: list[str], features, *, kind: str) -> str:
    """Returns the column named, or the only candidate; otherwise a `ValueError` lists them."""
    if name is None and len(candidates) == 1:
        return candidates[0]
    if name is not None and name in features:
        return name
    if name is None and not candidates:
        raise ValueError(
            f"found no {kind} column; the columns are {', '.join(features)}. A folder needs images "
            "in one folder per class, two classes at least: folder/cat/1.jpg, folder/dog/1.jpg"
        )
    said = f"got {kind}_column={name!r}" if name else f"found {len(candidates)} {kind} columns"
    raise ValueError(
        f"{said}; the columns are {', '.join(features)}: name one with --{kind}_column"
    )


def digits() -> Dataset:
    """scikit-learn's handwritten digits (UCI, Alpaydin and Kaynak 1998): 8x8 pixels, 17 greys."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype("uint8")
    names = ClassLabel(names=[str(digit) for digit in range(10)])
    rows = {"image": list(images), "label": labels.tolist()}
    return Dataset.from_dict(rows, features=Features({"image": Image(), "label": names}))
