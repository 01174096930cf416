# SPDX-License-Identifier: Apache-2.0
"""Labels as classes: texts and integers become a `ClassLabel`, with the same names everywhere."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value

from .columns import Rows, read_values

NO_LABEL = -1  # what datasets write where labels are kept secret


class Classes(NamedTuple):
    """The names of the classes, and the index of what a source calls each."""

    names: list[str]
    codes: dict[Any, int]


def find_classes(train: Rows, label_names: Sequence[str] | None) -> Classes:
    """Finds the classes of the training images.

    Args:
        train: with the column `label`.
        label_names: the classes' names, in the order of their numbers.

    Raises:
        ValueError: where the names do not fit, or a stream does not say them.
    """
    feature = (train.features or {})["label"]
    is_text = isinstance(feature, Value) and "string" in feature.dtype
    names = list(label_names or ())
    if len(set(names)) < len(names):
        raise ValueError(f"got label_names with repeated names: {', '.join(names)}")
    if isinstance(feature, ClassLabel):
        if names and len(names) != len(feature.names):
            raise ValueError(
                f"got {len(names)} label_names, allowed: {len(feature.names)}, one for each of "
                f"{', '.join(feature.names[:5])}, ..."
            )
        refuse_moved(names, feature.names)
        names = names or feature.names
    elif not names:
        if isinstance(train, IterableDataset):
            raise ValueError(
                f"got a stream whose labels are of type {feature.dtype} and do not say their "
                "classes; name these with --label_names, or load in memory without --streaming"
            )
        found = sorted({label for label in read_values(train, "label") if not is_missing(label)})
        return Classes([str(label) for label in found], {label: i for i, label in enumerate(found)})
    return Classes(names, {name if is_text else i: i for i, name in enumerate(names)})


def refuse_moved(names: Sequence[str], own: Sequence[str]):
    """Raises a `ValueError` where names put one of the source's own classes at another's place."""
    moved = [name for name, before in zip(names, own, strict=False) if name != before]
    moved = [name for name in moved if name in own]
    if moved:
        raise ValueError(
            f"got label_names that have {listed(moved)} at other places than the source, whose "
            f"classes are, in the order of their numbers, {listed(own)}; give new names in that "
            "order, or none to keep these"
        )


def is_missing(label: Any) -> bool:
    """Whether a row has no label."""
    return label is None or label == NO_LABEL


def encode_labels(images: Rows, classes: Classes, *, split: str) -> Rows:
    """Makes `label` a `ClassLabel` of these classes.

    Raises:
        ValueError: for images without a label, and for labels that are none of the classes; of a
            stream, when it is read.
    """
    feature = ClassLabel(names=classes.names)
    encode = EncodeLabels(classes, split)
    if isinstance(images, IterableDataset):
        return images.map(
            encode, features=Features({"image": Image(decode=False), "label": feature})
        )
    labels = read_values(images, "label")
    encode.check(labels, images)
    if images.features["label"] == feature:
        return images
    codes = [classes.codes[label] for label in labels]
    return images.remove_columns("label").add_column("label", codes, feature=feature)


class EncodeLabels:
    """A stream's rows to rows whose label is a class's index."""

    def __init__(self, classes: Classes, split: str):
        self.classes, self.split = classes, split

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the index of a row's label."""
        self.check([row["label"]], [row])
        return {"label": self.classes.codes[row["label"]]}

    def check(self, labels: Sequence, rows: Any):
        """Raises a `ValueError` where labels are missing or unknown."""
        missing = [index for index, label in enumerate(labels) if is_missing(label)]
        if missing:
            some = ", ".join(rows[i]["image"]["path"] or f"row {i}" for i in missing[:5])
            raise ValueError(
                f"got {len(missing)} images without a label in the split {self.split!r}: {some}"
                f"{', ...' if len(missing) > 5 else ''}; give each a label, or leave them out. A "
                "folder's images lie in one folder per class"
            )
        unknown = sorted({label for label in labels if label not in self.classes.codes}, key=str)
        if unknown:
            raise ValueError(
                f"got the labels {listed(unknown)} in the split {self.split!r}, allowed: "
                f"{listed(self.classes.codes)}; leave these images out, name other splits, or name "
                "the classes with --label_names"
            )


def refuse_untrained(train: Dataset, test: Dataset):
    """Raises a `ValueError` where the test split has classes that the training split lacks."""
    names = train.features["label"].names
    untrained = set(read_values(test, "label")) - set(read_values(train, "label"))
    if untrained:
        raise ValueError(
            f"got the classes {listed(names[index] for index in sorted(untrained))} in the test "
            "split, of which the training split has no image; leave them out, or name other "
            "splits with --train_split and --test_split"
        )


def listed(values: Iterable) -> str:
    """Returns the first few values and how many there are."""
    values = [str(value) for value in values]
    return ", ".join(values[:5]) + (f", ... ({len(values)} in all)" if len(values) > 5 else "")
