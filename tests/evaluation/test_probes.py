# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours and logistic regression on features."""

import numpy as np
import pytest
import torch

from vit_hf.evaluation.probes import TEMPERATURE, knn_hits, logistic_hits


def table(num_images, *, seed=0, width=6, noise=0.6):
    """Features around a centre for each of three classes, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % 3
    centres = torch.eye(3, width)
    return centres[labels] + noise * torch.randn(num_images, width, generator=generator), labels


def test_neighbours_vote_by_their_similarity():
    train, (features, labels) = table(60), table(40, seed=1)
    got = knn_hits(train, (features, labels), num_neighbors=7)
    unit = torch.nn.functional.normalize
    similarity = unit(features).double() @ unit(train[0]).double().T  # (M, N)
    nearest = similarity.topk(7, dim=1)
    votes = torch.zeros(40, 3, dtype=torch.double)
    votes.scatter_add_(1, train[1][nearest.indices], (nearest.values / TEMPERATURE).exp())
    assert got.tolist() == (votes.argmax(1) == labels).tolist()
    assert 0.5 < got.mean() < 1


def test_a_near_neighbour_outvotes_two_far_ones():
    train = (torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.1, 1.0]]), torch.tensor([0, 1, 1]))
    test = (torch.tensor([[5.0, 0.1]]), torch.tensor([0]))
    assert knn_hits(train, test, num_neighbors=3).all()


def test_logistic_regression_is_found_and_says_whether_it_converged():
    train, test = table(90), table(60, seed=1)
    right, is_converged = logistic_hits(train, test)
    assert is_converged and 0.6 < right.mean() < 1
    # The size of a feature makes no difference: they are z-scored.
    scale = torch.tensor([1e3, 1, 1e-2, 1, 1, 1])
    scaled, _ = logistic_hits((train[0] * scale, train[1]), (test[0] * scale, test[1]))
    assert np.array_equal(scaled, right)
    weak, _ = logistic_hits(train, test, inverse_regularization=1e-4)
    assert not np.array_equal(weak, right)


@pytest.mark.parametrize("probe", [knn_hits, lambda *tables: logistic_hits(*tables)[0]])
def test_unreadable_images_are_left_out_and_wrong(probe):
    (features, labels), (test_features, test_labels) = (
        table(some, seed=some, noise=0.1) for some in (60, 30)
    )
    assert probe((features, labels), (test_features, test_labels)).all()
    broken = labels.clone()
    broken[::2] = -1
    features[::2] = 1e6
    test_labels[:5] = -1
    right = probe((features, broken), (test_features, test_labels))
    assert not right[:5].any() and right[5:].all()


def test_what_they_refuse():
    train, test = table(12), table(3, seed=1)
    with pytest.raises(ValueError, match="got 20 neighbours of 12 training images"):
        knn_hits(train, test)
    one_class = (train[0], torch.zeros(12, dtype=torch.long))
    for probe in (knn_hits, logistic_hits):
        with pytest.raises(ValueError, match="training images of 1 classes"):
            probe(one_class, test)
    with pytest.raises(ValueError, match="got C=0"):
        logistic_hits(train, test, inverse_regularization=0)
