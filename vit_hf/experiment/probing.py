# SPDX-License-Identifier: Apache-2.0
"""Probes of a checkpoint's frozen features: few-shot (section 4.1), neighbours, logistic."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.labels import listed
from ..evaluation.features import collect_features
from ..evaluation.few_shot import (
    L2,
    SEEDS,
    SHOTS,
    LinearClassifier,
    choose_shots,
    find_right,
    fit_few_shot,
    fit_least_squares,
)
from ..evaluation.intervals import over_seeds
from ..evaluation.probes import (
    INVERSE_REGULARIZATION,
    NUM_NEIGHBORS,
    TEMPERATURE,
    Table,
    knn_hits,
    logistic_hits,
)
from ..hub.results import Metric
from .arguments import EvaluationArguments
from .results import measured
from .subject import Subject

PROBES = ("few_shot", "knn", "logistic")


def measure_probes(subject: Subject, flags: EvaluationArguments) -> tuple[list[Metric], Table]:
    """Fits probes to features of the training images, and measures them on the test images.

    Few-shot alone looks at no more training images than it chooses.

    Args:
        subject: the model and its images.
        flags: which probes, and their settings.

    Returns:
        The metrics, and features and labels of the test images.

    Raises:
        ValueError: where a class has fewer training images than shots, by its name.
    """
    shots, seeds = flags.shots or SHOTS, flags.seeds or SEEDS
    if "few_shot" in flags.metrics:
        refuse_rare(subject, most=max(shots))
    train = None
    if {"knn", "logistic"} & set(flags.metrics):
        train = features_of(subject, "train")
    test = features_of(subject, "test")
    metrics = []
    if "few_shot" in flags.metrics:
        tasks = [(number, seed) for number in shots for seed in seeds]
        classifiers = few_shot_classifiers(subject, train, tasks=tasks)
        is_right = torch.stack([find_right(some, *test) for some in classifiers])
        is_right = is_right.unflatten(0, (len(shots), len(seeds))).numpy()
        metrics += [few_shot_metric(n, some, seeds) for n, some in zip(shots, is_right)]
    about: dict[str, Any] = {"split": "test", "num_images": len(test[1])}
    if "knn" in flags.metrics and train is not None:
        count = NUM_NEIGHBORS if flags.neighbors is None else flags.neighbors
        told = {"neighbors": count, "similarity": "cosine", "temperature": TEMPERATURE}
        right = knn_hits(train, test, num_neighbors=count)
        metrics.append(measured("knn_accuracy", right.mean(), **about, settings=told))
    if "logistic" in flags.metrics and train is not None:
        c = INVERSE_REGULARIZATION if flags.logistic_c is None else flags.logistic_c
        right, is_converged = logistic_hits(train, test, inverse_regularization=c)
        told = {"C": c, "converged": is_converged}
        metrics.append(measured("logistic_accuracy", right.mean(), **about, settings=told))
    return metrics, test


def features_of(subject: Subject, split: str) -> Table:
    """Returns features `(N, R)` and labels `(N,)` of a split."""
    return collect_features(
        subject.model,
        subject.loader(split),
        autocast=subject.autocast,
        progress=subject.bar(f"features of {split}"),
    )


def few_shot_classifiers(
    subject: Subject, train: Table | None, *, tasks: Sequence[tuple[int, int]]
) -> list[LinearClassifier]:
    """Returns the classifier of each number of shots and seed.

    Args:
        subject: the model and its images.
        train: features and labels of all training images, where they are there already.
        tasks: shots and seed of each classifier.
    """
    if train is None:
        return fit_few_shot(
            subject.model,
            subject.loader("train"),
            tasks=tasks,
            train_labels=torch.tensor(subject.labels("train")),
            autocast=subject.autocast,
            progress=subject.bar("few-shot features of train"),
        )
    features, labels = train
    chosen = [choose_shots(labels, shots=number, seed=seed).flatten() for number, seed in tasks]
    return [fit_least_squares(features[rows], labels[rows]) for rows in chosen]


def few_shot_metric(shots: int, is_right: np.ndarray, seeds: Sequence[int]) -> Metric:
    """Returns the mean over the seeds.

    Args:
        shots: images of each class.
        is_right: `(S, M)`, whether each test image is right with each seed.
        seeds: of the choice of training images.
    """
    return measured(
        f"few_shot_{shots}_accuracy",
        is_right.mean(),
        split="test",
        num_images=is_right.shape[1],
        interval=over_seeds(is_right) if len(seeds) > 1 else None,
        seeds=list(seeds),
        values=is_right.mean(1).tolist(),
        settings={"shots": shots, "l2": L2},
    )


def refuse_rare(subject: Subject, *, most: int) -> None:
    """Raises a `ValueError` where a class has fewer training images than shots are asked for."""
    names, counts = subject.names(), Counter(subject.labels("train"))
    rare = [
        f"{counts[label]} of {names[label]}" for label in sorted(counts) if counts[label] < most
    ]
    if rare:
        fewest = min(counts.values())
        raise ValueError(
            f"got --shots {most}, but of training images only {listed(rare)}; give --shots of at "
            f"most {fewest}, or more images of these classes"
        )
