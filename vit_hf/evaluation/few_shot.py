# SPDX-License-Identifier: Apache-2.0
"""Few-shot linear evaluation: how well a regularised least-squares classifier does on the frozen
representation (section 4.1).

The closed form, its constants and the choice of seeds are those of the authors' research code: each
feature z-scored, a constant column of 100, targets in {-1, 1}, `l2 = 2^10`. They resize images to
256 pixels and crop the central 224.

Shapes: `N` training images, `M` test images, `R` width of the representation, `D = R + 1`,
`K` classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import one_hot, pad
from torch.utils.data import DataLoader, Subset
from transformers import PreTrainedModel

from .features import (
    collect_features,
    collect_labels,
    num_images_of,
    stream_features,
    sum_over_processes,
)

SHOTS = (1, 5, 10, 25)  # training images of each class
SEEDS = (0, 1, 2)
L2 = 2.0**10
BIAS = 100.0  # the constant column; so large that the bias is hardly regularised
EPSILON = 1e-5  # added to the deviation of each feature
BLOCK_SIZE = 4096  # images that are in float64 at once


def choose_shots(labels: torch.Tensor, *, shots: int, seed: int) -> torch.Tensor:
    """Chooses as many training images of each class.

    Fewer shots are a part of more shots of the same seed.

    Args:
        labels: `(N,)`; images with -1 are left out.
        shots: images of each class.
        seed: of the choice.

    Returns:
        Places in `labels`, `(K, shots)`, in the order of the classes.

    Raises:
        ValueError: where a class has fewer images, or there is only one.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order] >= 0]
    order = order[labels[order].argsort(stable=True)]  # by class, at random within each
    classes, counts = labels[order].unique(return_counts=True)
    few = [f"{count} of class {name}" for name, count in zip(classes, counts) if count < shots]
    if few or shots < 1 or len(classes) < 2:
        only = f", only {', '.join(few[:5])}" if few else ""
        raise ValueError(
            f"got {shots} shots and images of {len(classes)} classes{only}, "
            "allowed: 1 shot or more, 2 classes or more, and at least as many images of each class "
            "as there are shots; take fewer shots, or leave the class out"
        )
    starts = counts.cumsum(0) - counts
    return order[starts.unsqueeze(1) + torch.arange(shots)]


@dataclass(frozen=True)
class LinearClassifier:
    """Classes as a linear function of features.

    Attributes:
        weight: `(R, K)` in float64.
        bias: `(K,)` in float64.
        classes: the label of each column, `(K,)`.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    classes: torch.Tensor

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the labels `(M,)` of features `(M, R)`."""
        return self.classes[(features.double() @ self.weight + self.bias).argmax(1)]


def fit_least_squares(
    features: torch.Tensor, labels: torch.Tensor, *, l2: float = L2
) -> LinearClassifier:
    """Fits a linear classifier to targets in {-1, 1} in closed form, in float64.

    With `X` the z-scored features and the constant column, the weights are
    `(X'X + l2)^-1 X'Y = X' (XX' + l2)^-1 Y`; whichever of the two matrices is smaller is decomposed
    into its eigenvectors. Features that are many are read in blocks.

    Args:
        features: `(N, R)`.
        labels: `(N,)`.
        l2: of the regularisation.
    """
    num_images, width = features.shape
    classes, columns = labels.unique(return_inverse=True)
    blocks = [*zip(features.split(BLOCK_SIZE), columns.split(BLOCK_SIZE))]
    mean = torch.stack([block.double().sum(0) for block, _ in blocks]).sum(0) / num_images
    squares = torch.stack([(block.double() - mean).square().sum(0) for block, _ in blocks])
    deviation = (squares.sum(0) / num_images).sqrt() + EPSILON

    def inputs_of(block: torch.Tensor) -> torch.Tensor:
        return pad((block.double() - mean) / deviation, (0, 1), value=BIAS)  # (N, D)

    def targets_of(block: torch.Tensor) -> torch.Tensor:
        return 2.0 * one_hot(block, len(classes)).double() - 1  # (N, K)

    if num_images >= width + 1:
        gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        moments = torch.zeros(width + 1, len(classes), dtype=torch.float64)
        for block, some_columns in blocks:
            inputs = inputs_of(block)
            gram += inputs.T @ inputs
            moments += inputs.T @ targets_of(some_columns)
        weights = solve_ridge(gram, moments, l2=l2)  # (D, K)
    else:
        inputs = inputs_of(features)
        weights = inputs.T @ solve_ridge(inputs @ inputs.T, targets_of(columns), l2=l2)
    weight = weights[:-1] / deviation.unsqueeze(1)
    return LinearClassifier(weight, BIAS * weights[-1] - mean @ weight, classes)


def solve_ridge(matrix: torch.Tensor, right: torch.Tensor, *, l2: float) -> torch.Tensor:
    """Returns `(matrix + l2)^-1 right` of a symmetric matrix, by its eigenvectors."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ ((vectors.T @ right) / (values + l2).unsqueeze(1))


def few_shot_accuracy(
    train_features: torch.Tensor,
    train_labels: torch.Tensor,
    test_features: torch.Tensor,
    test_labels: torch.Tensor,
    *,
    shots: int,
    seed: int,
    l2: float = L2,
) -> float:
    """Returns the accuracy of the classifier that a few images of each class make.

    Args:
        train_features: `(N, R)`, of which the shots are chosen.
        train_labels: `(N,)`.
        test_features: `(M, R)`.
        test_labels: `(M,)`; images with -1 count as wrong.
        shots: images of each class.
        seed: of their choice.
        l2: of the regularisation.

    Raises:
        ValueError: where a class has fewer images than shots, or no training image at all.
    """
    rows = choose_shots(train_labels, shots=shots, seed=seed).flatten()
    classifier = fit_least_squares(train_features[rows], train_labels[rows], l2=l2)
    return count_right(classifier, test_features, test_labels) / len(test_labels)


def count_right(classifier: LinearClassifier, features: torch.Tensor, labels: torch.Tensor) -> int:
    """Counts the features `(M, R)` whose label `(M,)` the classifier finds, see `find_right`."""
    return int(find_right(classifier, features, labels).sum())


def find_right(
    classifier: LinearClassifier, features: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Returns whether the classifier finds each label `(M,)` of features `(M, R)`; never -1.

    Raises:
        ValueError: for a label that was not trained.
    """
    unknown = labels[(labels >= 0) & ~torch.isin(labels, classifier.classes)]
    if len(unknown):
        raise ValueError(
            f"got a test image of class {int(unknown[0])}, of which there is no training image; "
            "give training and test images of the same classes"
        )
    return classifier.classify(features) == labels


def evaluate_few_shot(
    model: PreTrainedModel,
    train: DataLoader,
    test: DataLoader,
    *,
    train_labels: Sequence[int] | torch.Tensor | None = None,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    l2: float = L2,
    autocast: torch.dtype | None = None,
) -> dict[int, list[float]]:
    """Returns the few-shot accuracies of a model's frozen representation.

    Only the training images that are chosen go through the model; test features are used batch by
    batch and not kept. All processes share the work, and all get the same numbers.

    Args:
        model: one of this package's, with or without a head.
        train: the training images to choose from, as `features.stream_features` takes them.
        test: the test images.
        train_labels: see `fit_few_shot`.
        shots: numbers of images of each class.
        seeds: of their choice.
        l2: of the regularisation.
        autocast: the type to compute features in; `None` is the weights' own.

    Returns:
        For each number of shots the accuracy with each seed; see `mean_accuracies`.

    Raises:
        ValueError: see `few_shot_accuracy` and `features.num_images_of`.
    """
    tasks = [(number, seed) for number in shots for seed in seeds]
    classifiers = fit_few_shot(
        model, train, tasks=tasks, train_labels=train_labels, l2=l2, autocast=autocast
    )
    num_right = torch.zeros(len(tasks), dtype=torch.long)
    for _, some_features, some_labels in stream_features(model, test, autocast=autocast):
        num_right += torch.tensor(
            [count_right(classifier, some_features, some_labels) for classifier in classifiers]
        )
    num_right = sum_over_processes(num_right, device=model.device)
    accuracies = (num_right.double() / num_images_of(test)).reshape(len(shots), len(seeds)).tolist()
    return dict(zip(shots, accuracies))


def fit_few_shot(
    model: PreTrainedModel,
    train: DataLoader,
    *,
    tasks: Sequence[tuple[int, int]],
    train_labels: Sequence[int] | torch.Tensor | None = None,
    l2: float = L2,
    autocast: torch.dtype | None = None,
    progress: str | None = None,
) -> list[LinearClassifier]:
    """Returns the classifier of each choice of training images; only these are looked at.

    Args:
        model: as for `evaluate_few_shot`.
        train: likewise.
        tasks: shots and seed of each choice.
        train_labels: `(N,)`, the labels of the dataset of `train`, where they are known; otherwise
            they are read, with all of the images. An image that is chosen and cannot be decoded is
            replaced by another of its class.
        l2: of the regularisation.
        autocast: the type to compute features in; `None` is the weights' own.
        progress: what a progress bar is called; `None` is no bar.

    Raises:
        ValueError: see `choose_shots` and `features.num_images_of`.
    """
    if train_labels is None:
        train_labels = collect_labels(train, device=model.device)
    labels = torch.as_tensor(train_labels).clone()
    while True:
        places = [choose_shots(labels, shots=number, seed=seed).flatten() for number, seed in tasks]
        pool = torch.cat(places).unique()  # sorted
        chosen = subset_of(train, pool)
        features, pool_labels = collect_features(
            model, chosen, autocast=autocast, progress=progress
        )
        if not (pool_labels < 0).any():
            break
        labels[pool[pool_labels < 0]] = -1  # could not be decoded: others are chosen
    check_labels(pool_labels, labels[pool], places=pool)
    rows = [torch.searchsorted(pool, some_places) for some_places in places]
    return [fit_least_squares(features[some], pool_labels[some], l2=l2) for some in rows]


def subset_of(loader: DataLoader, places: torch.Tensor) -> DataLoader:
    """Returns a loader of some images of a loader's dataset."""
    return DataLoader(
        Subset(loader.dataset, places.tolist()),
        batch_size=loader.batch_size or getattr(loader.batch_sampler, "batch_size", None),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
    )


def check_labels(found: torch.Tensor, given: torch.Tensor, *, places: torch.Tensor):
    """Raises a `ValueError` where an image's label is not the one it was chosen by."""
    differ = found != given
    if differ.any():
        at, label, other = (int(values[differ][0]) for values in (places, found, given))
        raise ValueError(
            f"training image {at} has the label {label}, but train_labels has {other} for it; give "
            "the labels of the loader's dataset, -1 for images to leave out, or none at all"
        )


def mean_accuracies(accuracies: dict[int, list[float]]) -> dict[str, float]:
    """Returns the means over the seeds under names for a log, such as `few_shot_5_accuracy`."""
    return {
        f"few_shot_{shots}_accuracy": sum(values) / len(values)
        for shots, values in accuracies.items()
    }
