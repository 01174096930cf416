# SPDX-License-Identifier: Apache-2.0
"""The columns `image` and `label`: found by type and by the usual names, and renamed.

Images stay undecoded, as `bytes` and `path`, and are not copied.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo")
LABEL_NAMES = ("label", "labels", "cls", "class", "target", "category")
IMAGE_TYPES = ("binary", "large_binary", "string", "large_string")  # bytes, or a path
LABEL_TYPES = ("string", "large_string", "bool")  # and integers
Rows = Dataset | IterableDataset


class Columns(NamedTuple):
    """The names of the two columns; `label` may lie within another, as `json.label`."""

    image: str
    label: str | None


def find_columns(
    features: Features,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    require_labels: bool = True,
) -> Columns:
    """Finds the image and the label column.

    Raises:
        ValueError: where there is none or more than one, and none is named.
    """
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    images = images or [name for name in IMAGE_NAMES if holds_bytes(features.get(name))]
    labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    labels = labels or [name for name in LABEL_NAMES if is_label(features.get(name))]
    image = pick(image_column, images, features, kind="image")
    if not is_image(features[image]):
        raise wrong_type(image, features[image], kind="image", allowed="images, bytes or paths")
    if label_column is None and len(labels) != 1 and not require_labels:
        return Columns(image, None)
    label = pick(label_column, labels, features, kind="label")
    if not is_label(feature_at(features, label)):
        allowed = "class labels, texts or integers"
        raise wrong_type(label, feature_at(features, label), kind="label", allowed=allowed)
    return Columns(image, label)


def pick(name: str | None, candidates: list[str], features: Features, *, kind: str) -> str:
    """Returns the column named, or the only candidate; otherwise a `ValueError` lists them."""
    if name is None and len(candidates) == 1:
        return candidates[0]
    if name is not None and feature_at(features, name) is not None:
        return name
    columns = f"the columns are {', '.join(names_of(features))}"
    if name is None and not candidates:
        raise ValueError(
            f"found no {kind} column; {columns}: name one with --{kind}_column. A folder needs "
            "images in one folder per class, two classes at least: folder/cat/1.jpg, "
            "folder/dog/1.jpg"
        )
    if name is not None:
        raise ValueError(f"got {kind}_column={name!r}; {columns}: name one with --{kind}_column")
    raise ValueError(
        f"found {len(candidates)} {kind} columns, {', '.join(candidates)}; {columns}: "
        f"name one with --{kind}_column"
    )


def wrong_type(name: str, feature: Any, *, kind: str, allowed: str) -> ValueError:
    """Returns the error for a column that was named but cannot be it."""
    return ValueError(
        f"got the {kind} column {name!r} of type {feature}, allowed: {allowed}; "
        f"name another with --{kind}_column"
    )


def names_of(features: Mapping[str, Any]) -> list[str]:
    """Returns the names of all columns, of those within others as `json.label`."""
    return [
        name if inner is None else f"{name}.{inner}"
        for name, feature in features.items()
        for inner in ([None] if not isinstance(feature, dict) else names_of(feature))
    ]


def feature_at(features: Any, name: str) -> Any:
    """Returns the feature of a column, or of one within it (`json.label`); `None` for none."""
    if name in features:
        return features[name]
    outer, _, inner = name.partition(".")
    nested = features.get(outer)
    return feature_at(nested, inner) if isinstance(nested, dict) and inner else None


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """Returns the value of a column, or of one within it."""
    if name in row:
        return row[name]
    outer, _, inner = name.partition(".")
    return None if row[outer] is None else value_at(row[outer], inner)


def outer_column(images: Rows, name: str) -> str:
    """Returns the column that is, or holds, a column."""
    return name if name in (images.column_names or ()) else name.partition(".")[0]


def is_image(feature: Any) -> bool:
    """Whether a column of this type can be an image."""
    is_named = isinstance(feature, Value) and feature.dtype in IMAGE_TYPES
    return isinstance(feature, Image) or is_named or holds_bytes(feature)


def holds_bytes(feature: Any) -> bool:
    """Whether a column of this type holds images as plain parquet files do."""
    if isinstance(feature, dict):
        return {"bytes"} <= set(feature) <= {"bytes", "path"}
    return isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")


def is_label(feature: Any) -> bool:
    """Whether a column of this type can be a label."""
    if not isinstance(feature, Value):
        return isinstance(feature, ClassLabel)
    return feature.dtype in LABEL_TYPES or feature.dtype.startswith(("int", "uint"))


def select_columns(images: Rows, columns: Columns) -> Rows:
    """Leaves the columns `image`, undecoded, and `label`, as the source has it."""
    if isinstance(images, IterableDataset):
        features = Features({"image": Image(decode=False)})
        if columns.label is not None:
            features["label"] = feature_at(images.features, columns.label)
        images = images.cast_column(columns.image, Image(decode=False))
        return images.map(
            RenameColumns(columns), remove_columns=images.column_names, features=features
        )
    labels = None if columns.label is None else read_values(images, columns.label)
    feature = None if columns.label is None else feature_at(images.features, columns.label)
    images = images.select_columns([columns.image])
    if columns.image != "image":
        images = images.rename_column(columns.image, "image")
    images = images.cast_column("image", Image(decode=False))
    return images if labels is None else images.add_column("label", labels, feature=feature)


class RenameColumns:
    """A stream's rows to rows of `image` and `label`; a class, so that workers can be sent it."""

    def __init__(self, columns: Columns):
        self.columns = columns

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a row's image and label."""
        renamed = {"image": row[self.columns.image]}
        if self.columns.label is not None:
            renamed["label"] = value_at(row, self.columns.label)
        return renamed


def read_values(images: Dataset, name: str) -> list:
    """Reads one column, or one within another, at once: one by one takes minutes for a million."""
    outer = outer_column(images, name)
    return [value_at({outer: value}, name) for value in images.select_columns([outer])[outer][:]]
