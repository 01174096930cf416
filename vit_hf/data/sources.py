# SPDX-License-Identifier: Apache-2.0
"""Where images come from: a Hub dataset, a folder of class folders, parquet or WebDataset shards,
or the digits that scikit-learn ships.

Whatever the source, the columns are `image` (undecoded) and `label`, and the splits `train`, `test`
and `validation`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
)
from sklearn.datasets import load_digits

from .class_folders import open_class_folders
from .columns import Rows, find_columns, outer_column, read_values, select_columns, value_at
from .labels import encode_labels, find_classes, is_missing, refuse_untrained
from .splits import find_splits, split_off_test, split_off_validation

SHARD_FORMATS = {".parquet": "parquet", ".tar": "webdataset"}
PATTERN = set("*?[]")  # what datasets takes for a pattern in a path
NUM_SHARDS = 256  # of a stream that is made of images whose names are in memory


def load_images(
    dataset_name: str | None = None,
    *,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    validation_fraction: float = 0.0,
    streaming: bool = False,
    require_labels: bool = True,
) -> DatasetDict | IterableDatasetDict:
    """Loads images.

    Args:
        dataset_name: a Hub id, perhaps with a configuration (`id:configuration`); a folder of class
            folders, of parquet or of WebDataset shards; a shard or a pattern (`shards/*.tar`).
            `None` is the 1,797 handwritten digits of scikit-learn, 8x8 pixels each.
        seed: of the splits that are drawn.
        image_column: name of the image column, needed where there are several.
        label_column: name of the label column, likewise; `json.label` is one within another.
        label_names: the classes' names, in the order of their numbers, where the source does not
            say them: needed for streams whose labels are plain texts or numbers.
        train_split: name of the training split, where it is not called so.
        test_split: name of the test split, likewise.
        validation_fraction: share of the training images that is drawn for `validation`.
        streaming: whether the images are read as they come, without a copy in the cache.
        require_labels: whether images without labels are an error; else the labels are left out
            where there are none.

    Returns:
        The splits: `train`; `test`, the source's own or drawn by class, unless the source is a
        stream or has no labels; `validation` where asked for. Each has the columns `image`, rows of
        `bytes` and `path`, and `label`, a `ClassLabel` with the same names in every split.

    Raises:
        ValueError: where columns, labels or splits are not found, naming those that are there.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"got validation_fraction={validation_fraction}, allowed: from 0 to 1")
    opened = open_dataset(dataset_name, streaming=streaming)
    some = next((name for name in (train_split, "train") if name in opened), next(iter(opened)))
    columns = find_columns(
        opened[some].features or Features(),
        image_column=image_column,
        label_column=label_column,
        require_labels=require_labels,
    )
    found = find_splits(
        list(opened),
        train_split=train_split,
        test_split=test_split,
        is_labelled=lambda name: columns.label is None or has_labels(opened[name], columns.label),
    )
    images = {split: select_columns(opened[name], columns) for split, name in found.items()}
    if columns.label is not None:
        images = with_classes(images, label_names, require_labels=require_labels)
    streams = {name: rows for name, rows in images.items() if isinstance(rows, IterableDataset)}
    if streams and validation_fraction:
        raise ValueError(
            f"got validation_fraction={validation_fraction} of a stream, which cannot be split; "
            "hold images out as a split of the source, or load in memory without --streaming"
        )
    if not streams:
        images = {name: rows for name, rows in images.items() if isinstance(rows, Dataset)}
        images = draw_splits(images, validation_fraction, seed=seed)
        if not streaming:
            return DatasetDict({name: rows for name, rows in images.items()})
        streams = {name: as_stream(rows, seed=seed) for name, rows in images.items()}
    return IterableDatasetDict({name: rows for name, rows in streams.items()})


def open_dataset(dataset_name: str | None, *, streaming: bool = False) -> dict[str, Rows]:
    """Opens a source, with its own splits and columns; a `ValueError` says what is missing.

    A folder of pictures and the digits are never streams: their images' names fit in memory.
    """
    if dataset_name is None:
        return {"train": digits()}
    path = Path(dataset_name).expanduser()
    is_shard = path.suffix in SHARD_FORMATS
    looks_local = dataset_name.startswith((".", "/", "~")) or path.exists() or is_shard
    looks_local |= dataset_name.count("/") > 1  # a Hub id has one at most
    if looks_local and not path.is_dir() and not is_shard:
        raise ValueError(
            f"got {dataset_name}, which is no folder; give a folder of images (with a folder "
            "per class where labels are needed), or a Hub id"
        )
    if path.is_dir() and (pictures := open_class_folders(path)) is not None:
        return {**pictures}
    if looks_local and PATTERN & set(str(path.parent if is_shard else path)):
        raise ValueError(
            f"got {dataset_name}, a folder with one of {' '.join(sorted(PATTERN))} in its path, "
            "which would be taken for a pattern; rename it"
        )
    try:
        if is_shard and not path.is_dir():
            shards = {"train": dataset_name if "://" in dataset_name else str(path)}
            module = SHARD_FORMATS[path.suffix]
            opened = load_dataset(module, data_files=shards, streaming=streaming)
        elif looks_local:
            opened = load_dataset(str(path), streaming=streaming)
        else:
            name, _, configuration = dataset_name.partition(":")
            opened = load_dataset(name, configuration or None, streaming=streaming)
    except Exception as error:  # the loaders raise many kinds, all of which mean this
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        here = "" if looks_local else "; there is no folder of that name here either"
        if looks_local and isinstance(error, FileNotFoundError):
            here = "; give a folder of images, one folder per class, or of parquet or tar shards"
        raise ValueError(
            f"could not open the dataset {dataset_name!r}: {error}{cause}{here}"
        ) from error
    return {str(name): images for name, images in opened.items()}


def has_labels(images: Rows, label_column: str) -> bool:
    """Whether a split has labels; of a stream, whether its first image has one."""
    if isinstance(images, Dataset):
        return not all(map(is_missing, read_values(images, label_column)))
    labels = images.select_columns([outer_column(images, label_column)])
    return not any(is_missing(value_at(row, label_column)) for row in labels.take(1))


def with_classes(
    images: dict[str, Rows], label_names: Sequence[str] | None, *, require_labels: bool
) -> dict[str, Rows]:
    """Makes the labels of all splits a `ClassLabel` of the training images' classes."""
    if not require_labels and not are_labelled(images):
        return {split: rows.remove_columns("label") for split, rows in images.items()}
    classes = find_classes(images["train"], label_names)
    images = {split: encode_labels(rows, classes, split=split) for split, rows in images.items()}
    train, test = images["train"], images.get("test")
    if isinstance(train, Dataset) and isinstance(test, Dataset):
        refuse_untrained(train, test)
    return images


def are_labelled(images: dict[str, Rows]) -> bool:
    """Whether all images have labels, by which a test split can be drawn where there is none."""
    counts = Counter()
    for rows in images.values():
        if isinstance(rows, IterableDataset):
            return False  # nobody knows before it is read
        counts.update(read_values(rows, "label"))
    return not any(map(is_missing, counts)) and ("test" in images or min(counts.values()) > 1)


def draw_splits(
    images: dict[str, Dataset], validation_fraction: float, *, seed: int
) -> dict[str, Dataset]:
    """Draws the splits that the source lacks: `test` of labelled images, and `validation`."""
    train = images["train"]
    if "test" not in images and "label" in train.column_names:
        train, images["test"] = split_off_test(train, seed=seed)
    if validation_fraction:
        train, images["validation"] = split_off_validation(train, validation_fraction, seed=seed)
    return {**images, "train": train}


def as_stream(images: Dataset, *, seed: int) -> IterableDataset:
    """Makes a stream of images in memory, in a seeded order: folders list them class by class."""
    shuffled = images.shuffle(seed=seed, keep_in_memory=True, load_from_cache_file=False)
    shuffled = shuffled.flatten_indices(keep_in_memory=True)
    return shuffled.to_iterable_dataset(num_shards=min(NUM_SHARDS, len(images)))


def digits() -> Dataset:
    """scikit-learn's handwritten digits (UCI, Alpaydin and Kaynak 1998): 8x8 pixels, 17 greys."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype("uint8")
    names = ClassLabel(names=[str(digit) for digit in range(10)])
    rows = {"image": list(images), "label": labels.tolist()}
    return Dataset.from_dict(rows, features=Features({"image": Image(), "label": names}))
