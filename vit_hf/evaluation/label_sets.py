# SPDX-License-Identifier: Apache-2.0
"""Label sets: images for which several classes are right (Beyer et al. 2020, "Are we done with
ImageNet?", whose ReaL labels the paper reports in tables 2 and 5).

A prediction is right where it is in the image's set. Images with an empty set are left out, as no
class is right for them. An image that cannot be decoded is wrong.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from .predictions import Predictions

LabelSets = list[frozenset[int]]


def read_label_sets(path, *, num_images: int, classes: Mapping[str | int, int]) -> LabelSets:
    """Reads a JSON list that has, for each image, the list of its labels.

    Args:
        path: of the file; the authors' `real.json` has this form.
        num_images: how many images it must tell of, in the order of the dataset.
        classes: the model's class of each label that may stand there: numbers and names.

    Returns:
        The model's classes of each image.

    Raises:
        ValueError: for a file of another form, another number of images, and unknown labels.
    """
    form = "a JSON list with a list of labels for each image, such as [[0, 3], [], [7]]"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"got {path}, which is no JSON ({error}); give {form}") from error
    if not isinstance(content, list) or not all(isinstance(labels, list) for labels in content):
        raise ValueError(f"got {path} with other content; give {form}")
    if len(content) != num_images:
        raise ValueError(
            f"got {path} with labels of {len(content)} images for {num_images} images; give one "
            "list for each image of the split, in its order"
        )
    if not any(content):
        raise ValueError(f"got {path}, in which every image has no label; give some labels")
    for place, labels in enumerate(content):
        unknown = [label for label in labels if not is_known(label, classes)]
        if unknown:
            some = ", ".join(map(repr, list(classes)[:5]))
            raise ValueError(
                f"got {path} with the label {unknown[0]!r} for image {place}, allowed: {some}, ...,"
                f" {list(classes)[-1]!r}: numbers or names of the dataset's classes"
            )
    return [frozenset(classes[label] for label in labels) for labels in content]


def is_known(label, classes: Mapping[str | int, int]) -> bool:
    """Whether a label is one of the classes; JSON's `true` is not the number 1."""
    return isinstance(label, str | int) and not isinstance(label, bool) and label in classes


def label_set_hits(predictions: Predictions, label_sets: Sequence[frozenset[int]]) -> torch.Tensor:
    """Returns whether each image that has labels is right, `(M,)` with `M` of them."""
    best = predictions.top_classes[:, 0].tolist()
    readable = predictions.is_readable.tolist()
    return torch.tensor(
        [
            is_readable and guess in labels
            for guess, is_readable, labels in zip(best, readable, label_sets, strict=True)
            if labels
        ]
    )
