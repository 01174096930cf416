# SPDX-License-Identifier: Apache-2.0
"""A dataset examined before training: what there is, what cannot be read, what is there twice.

Every split of the source is examined as it is.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np
from datasets import Features

from .columns import find_columns
from .duplicates import SIMILARITY, find_near, find_same, group
from .examination import BROKEN, Examined, examine_split
from .findings import find_troubles
from .sources import open_dataset


def examine(
    dataset_name: str | None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    patch_size: int = 16,
    similarity: float = SIMILARITY,
    streaming: bool = False,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Examines a dataset.

    Args:
        dataset_name: as for `load_images`.
        image_column: name of the image column, where there are several.
        label_column: name of the label column, likewise.
        patch_size: pixels a side; smaller images are reported.
        similarity: of near copies, from 0 to 1, see `duplicates.find_near`.
        streaming: whether shards are read as they come, without a copy in the cache.
        num_workers: processes that read images; 0 reads them in this one.

    Returns:
        A report that can be written as JSON, see `report_on`.

    Raises:
        ValueError: where the dataset cannot be opened, or its image column is not found.
    """
    if not 0 < similarity <= 1:
        raise ValueError(f"got similarity={similarity}, allowed: above 0, to 1")
    if streaming and num_workers:
        raise ValueError(
            f"got num_workers={num_workers} with streaming, allowed: 0; a stream is read in order"
        )
    splits = open_dataset(dataset_name, streaming=streaming)
    features = next(iter(splits.values())).features or Features()
    why_unlabelled = None
    try:
        columns = find_columns(features, image_column=image_column, label_column=label_column)
    except ValueError as error:
        if label_column is not None:
            raise
        columns = find_columns(features, image_column=image_column, require_labels=False)
        why_unlabelled = str(error)
    examined = [
        image
        for split, images in splits.items()
        for image in examine_split(split, images, columns, num_workers=num_workers)
    ]
    return report_on(
        examined,
        dataset_name=dataset_name,
        patch_size=patch_size,
        similarity=similarity,
        why_unlabelled=why_unlabelled,
    )


def report_on(
    examined: Sequence[Examined],
    *,
    dataset_name: str | None,
    patch_size: int,
    similarity: float,
    why_unlabelled: str | None = None,
) -> dict[str, Any]:
    """Reports on the images of a dataset.

    Args:
        examined: all images, split by split.
        dataset_name: for the record.
        patch_size: pixels a side; smaller images are reported.
        similarity: of near copies, see `duplicates.find_near`.
        why_unlabelled: why no label column was read.

    Returns:
        `dataset`, `patch_size`, `similarity`; `splits`: images, classes; `sizes`, `modes`,
        `formats`, `orientations`; `broken_exif`, `unreadable`, `too_small`: the images; `copies`:
        groups of images; `findings`; `is_sound`: whether none of these is an error.
    """
    readable = [image for image in examined if image.error is None]
    report: dict[str, Any] = {
        "dataset": dataset_name,
        "patch_size": patch_size,
        "similarity": similarity,
        "splits": {
            split: count_classes([image for image in examined if image.split == split])
            for split in dict.fromkeys(image.split for image in examined)
        },
        "sizes": {
            "width": spread([image.size[0] for image in readable]),
            "height": spread([image.size[1] for image in readable]),
            "shorter_side": spread([min(image.size) for image in readable]),
        },
        "modes": count(image.mode for image in readable),
        "formats": count(image.format for image in readable),
        "orientations": count(image.orientation for image in readable),
        "broken_exif": [place(image) for image in readable if image.orientation == BROKEN],
        "unreadable": [
            {**place(image), "error": image.error} for image in examined if image.error is not None
        ],
        "too_small": [
            {**place(image), "size": image.size}
            for image in readable
            if min(image.size) < patch_size
        ],
        "copies": find_copies(readable, similarity=similarity),
    }
    findings = find_troubles(report, why_unlabelled)
    report["findings"] = [finding._asdict() for finding in findings]
    report["is_sound"] = all(finding.level != "error" for finding in findings)
    return report


def place(image: Examined) -> dict[str, Any]:
    """Says where an image is."""
    return {"split": image.split, "row": image.row, "name": image.name}


def count(values: Iterable[Any]) -> dict[str, int]:
    """Counts values, the most frequent first."""
    counts = Counter("none" if value is None else str(value) for value in values)
    return dict(counts.most_common())


def count_classes(images: Sequence[Examined]) -> dict[str, Any]:
    """Counts the images of a split, by class."""
    counts = Counter(image.label for image in images)
    return {
        "num_images": len(images),
        "num_without_label": counts.pop(None, 0),
        "num_by_class": dict(sorted(counts.items())),
    }


def spread(values: Sequence[int]) -> dict[str, float] | None:
    """Returns the least, the median and the largest value."""
    if not values:
        return None
    return {"least": min(values), "median": median(values), "largest": max(values)}


def find_copies(images: Sequence[Examined], *, similarity: float) -> list[dict[str, Any]]:
    """Finds the groups of images that are copies of each other.

    Returns:
        For each group its `kind`, `same` (the same pixels) or `near`, and its `images`. A near copy
        of one image of a group need not be one of all.
    """
    same = find_same([image.digest for image in images])
    others = np.delete(np.arange(len(images)), same[:, 1])
    signatures = np.array([images[index].signature for index in others.tolist()])
    near = others[find_near(signatures, similarity=similarity)] if len(others) else same
    return [
        {
            "kind": "same" if len({images[index].digest for index in indices}) == 1 else "near",
            "images": [{**place(images[index]), "label": images[index].label} for index in indices],
        }
        for indices in group(np.concatenate([same, near]))
    ]
