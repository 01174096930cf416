# SPDX-License-Identifier: Apache-2.0
"""The numbers of a classifier: top-1, top-5, each class, calibration, label sets, loss."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.labels import listed
from ..evaluation.calibration import NUM_BINS, calibration_error
from ..evaluation.intervals import by_bootstrap, of_share
from ..evaluation.label_sets import label_set_hits, read_label_sets
from ..evaluation.metrics import NUM_TOP_CLASSES
from ..evaluation.predictions import Predictions, collect_predictions
from ..hub.results import Metric
from ..modeling.losses import score_kind
from .results import measured
from .subject import Subject


def measure_classifier(
    subject: Subject, *, split: str, label_sets: str | None
) -> tuple[list[Metric], Predictions]:
    """Measures a classifier on a split.

    Args:
        subject: the classifier and its images.
        split: of the images.
        label_sets: a file of acceptable labels, see `evaluation.label_sets`.

    Returns:
        The metrics, and what they were made from.
    """
    config, names = subject.model.config, subject.names()
    classes = classes_of(names, config.id2label)
    sets = None
    if label_sets is not None:
        own = {**config.label2id, **dict(zip(names, classes)), **dict(enumerate(classes))}
        sets = read_label_sets(label_sets, num_images=len(subject.images[split]), classes=own)
    found = collect_predictions(
        subject.model,
        subject.loader(split),
        classes=classes,
        autocast=subject.autocast,
        progress=subject.bar(f"accuracy on {split}"),
    )
    on_all: dict[str, Any] = {"split": split, "num_images": len(found.labels)}
    parts = by_class(found, subject.labels(split), names=names)
    metrics = [measured("accuracy", share(found.is_right()), **on_all, by_class=parts)]
    if config.num_labels > NUM_TOP_CLASSES:  # of five classes it says nothing
        metrics.append(measured("top5_accuracy", share(found.is_right(NUM_TOP_CLASSES)), **on_all))
    if label_sets is not None and sets is not None:
        hits = label_set_hits(found, sets)
        digest = hashlib.sha256(Path(label_sets).read_bytes()).hexdigest()
        told = {"file": Path(label_sets).name, "sha256": digest}
        about: dict[str, Any] = {"split": split, "num_images": len(hits), "settings": told}
        metrics.append(measured("label_set_accuracy", share(hits), **about))
    return [*metrics, *over_readable(found, config, split=split)], found


def over_readable(found: Predictions, config: Any, *, split: str) -> list[Metric]:
    """Returns what is measured on the images that could be decoded alone."""
    readable = found.is_readable
    if not readable.any():
        return []
    about: dict[str, Any] = {"split": split, "num_images": int(readable.sum())}
    confidences = found.confidences[readable].double().nan_to_num(0).numpy()
    is_right = found.is_right()[readable].numpy()
    losses = found.losses[readable].double().numpy()
    return [
        measured(
            "expected_calibration_error",
            calibration_error(confidences, is_right),
            **about,
            interval=by_bootstrap(calibration_error, confidences, is_right),
            settings={"bins": NUM_BINS, "confidence": score_kind(config)},
        ),
        measured("loss", losses.mean(), **about, interval=by_bootstrap(np.mean, losses)),
    ]


def by_class(
    found: Predictions, labels: Sequence[int], *, names: list[str]
) -> dict[str, dict[str, Any]]:
    """Returns the accuracy of each class that has images, by name, unreadable images included.

    Args:
        found: the predictions.
        labels: the dataset's own label of each image.
        names: of the dataset's classes.
    """
    counts = {label: [0, 0] for label in sorted(set(labels))}
    for label, is_right in zip(labels, found.is_right().tolist(), strict=True):
        counts[label][0] += is_right
        counts[label][1] += 1
    parts = {}
    for label, (num_right, num_images) in counts.items():
        interval = of_share(num_right, num_images)
        parts[names[label]] = {
            "value": num_right / num_images,
            "num_images": num_images,
            "confidence_interval": [interval.low, interval.high],
        }
    return parts


def share(is_right) -> float:
    """Returns the share of images `(N,)` that are right."""
    return float(is_right.double().mean())


def classes_of(names: list[str], id2label: dict[int, str]) -> list[int]:
    """Returns the model's class of each class of the dataset, by name.

    Names that the model does not have are an error, except where its classes have no names of
    their own and are as many: then they are taken in order. So are names that are the model's own
    one for one, which may then stand for two classes, as "crane" does in ImageNet.
    """
    if names == [id2label[index] for index in sorted(id2label)]:
        return sorted(id2label)
    own = {label: index for index, label in id2label.items()}
    if set(names) <= set(own):
        counts = Counter(id2label.values())
        refuse_ambiguous([name for name in names if counts[name] > 1])
        return [own[name] for name in names]
    nameless = all(label == f"LABEL_{index}" for index, label in id2label.items())
    if nameless and len(names) == len(id2label):
        return list(range(len(names)))
    unknown = [name for name in names if name not in own]
    raise ValueError(
        f"got a dataset with {len(names)} classes, of which the model does not know "
        f"{listed(unknown)}; its {len(own)} classes are {listed(list(own))}. "
        "Give a dataset with its classes, or fine-tune it on these, or measure its features: "
        "--metrics few_shot knn logistic"
    )


def refuse_ambiguous(names: Sequence[str]) -> None:
    """Raises a `ValueError` where there are names that two classes of the model have."""
    if names:
        raise ValueError(
            f"got a dataset with the classes {listed(names)}, each of which is the name of several "
            "of the model's; give it all of the model's classes in their order, or the model's "
            "id2label names that differ"
        )
