# SPDX-License-Identifier: Apache-2.0
"""Probes of frozen features that use all training images: nearest neighbours and logistic
regression. scikit-learn does the solving.

The paper's own probe is the few-shot one, see `few_shot`; these two are what others report beside
it.

Shapes: `N` training images, `M` test images, `R` width of the representation.
"""

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NUM_NEIGHBORS = 20
TEMPERATURE = 0.07  # of the votes; Wu et al. 2018 (section 3.4), as Caron et al. 2021 have it
INVERSE_REGULARIZATION = 1.0  # scikit-learn's C
MAX_ITERATIONS = 1000

Table = tuple[torch.Tensor, torch.Tensor]  # features (N, R) and labels (N,)


def knn_hits(train: Table, test: Table, *, num_neighbors: int = NUM_NEIGHBORS) -> np.ndarray:
    """Classifies by the votes of the nearest training images, by cosine similarity.

    A neighbour of similarity `s` has the weight `exp(s / 0.07)` (Wu et al. 2018).

    Args:
        train: features `(N, R)` and labels `(N,)`; images with -1 are left out.
        test: features `(M, R)` and labels `(M,)`; images with -1 count as wrong.
        num_neighbors: how many vote.

    Returns:
        Whether each test image is right, `(M,)`.

    Raises:
        ValueError: where there are fewer training images than neighbours, or one class only.
    """
    features, labels = training_table(train)
    if not 1 <= num_neighbors <= len(labels):
        raise ValueError(
            f"got {num_neighbors} neighbours of {len(labels)} training images, allowed: 1 to "
            f"{len(labels)}; give --neighbors"
        )
    weights: Any = votes_of
    classifier = KNeighborsClassifier(num_neighbors, weights=weights, metric="cosine")
    return hits(classifier.fit(features, labels), test)


def votes_of(distances: np.ndarray) -> np.ndarray:
    """Returns the weights `(M, num_neighbors)` of neighbours at cosine distances, at most 1."""
    nearest = distances.min(axis=1, keepdims=True)
    return np.exp((nearest - distances) / TEMPERATURE)


def logistic_hits(
    train: Table, test: Table, *, inverse_regularization: float = INVERSE_REGULARIZATION
) -> tuple[np.ndarray, bool]:
    """Classifies by logistic regression (softmax, L2, L-BFGS) on features that are z-scored.

    Args:
        train: as for `knn_hits`.
        test: as for `knn_hits`.
        inverse_regularization: scikit-learn's `C`.

    Returns:
        Whether each test image is right, `(M,)`, and whether the solver converged.

    Raises:
        ValueError: where the training images have one class only, or `C` is not above 0.
    """
    features, labels = training_table(train)
    if inverse_regularization <= 0:
        raise ValueError(f"got C={inverse_regularization:g}, allowed: above 0; give --logistic_c")
    regression = LogisticRegression(C=inverse_regularization, max_iter=MAX_ITERATIONS)
    classifier = make_pipeline(StandardScaler(), regression)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is returned
        classifier.fit(features, labels)
    return hits(classifier, test), bool((regression.n_iter_ < MAX_ITERATIONS).all())


def training_table(train: Table) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training images that could be decoded; a `ValueError` where one class is left."""
    features, labels = (values.numpy() for values in train)
    readable = labels >= 0
    num_classes = len(np.unique(labels[readable]))
    if num_classes < 2:
        raise ValueError(
            f"got training images of {num_classes} classes, allowed: 2 or more; give images of "
            "several classes"
        )
    return features[readable], labels[readable]


def hits(classifier, test: Table) -> np.ndarray:
    """Returns whether each test image is right, `(M,)`; an image with the label -1 is not."""
    features, labels = (values.numpy() for values in test)
    return (classifier.predict(features) == labels) & (labels >= 0)
