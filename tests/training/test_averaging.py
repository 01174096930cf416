# SPDX-License-Identifier: Apache-2.0
"""The average of the weights: what it is, and that it leaves the weights alone."""

import pytest
import torch

from vit_hf.training.averaging import AVERAGE, averaged_weights, keep_average

DECAY = 0.9


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1),
    ],
)
def test_against_an_average_by_hand(make):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = make(model.parameters())
    updates = 0
    keep_average(optimizer, DECAY, lambda: updates)
    expected = None
    for updates in range(20):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        weight = model.weight.detach().clone()
        decay = min(DECAY, (1 + updates) / (10 + updates))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    before = model.weight.detach().clone()
    with averaged_weights(optimizer):
        torch.testing.assert_close(model.weight.detach(), expected)
        assert not torch.equal(model.weight, before)
    assert torch.equal(model.weight, before)


def test_it_is_saved_with_the_optimizer():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    keep_average(optimizer, DECAY, lambda: 0)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    other = torch.optim.AdamW(model.parameters())
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.state[model.weight][AVERAGE], optimizer.state[model.weight][AVERAGE])


def test_without_an_average_nothing_changes():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    before = model.weight.detach().clone()
    with averaged_weights(optimizer):
        assert torch.equal(model.weight, before)
    with averaged_weights(None):
        pass
