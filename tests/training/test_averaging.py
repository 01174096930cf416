# SPDX-License-Identifier: Apache-2.0
"""The average of the weights: what it is, that it leaves the weights alone, and what uses it."""

from pathlib import Path

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


def test_the_best_average_is_loaded_with_the_best_weights(tmp_path, make_trainer):
    trainer = make_trainer(
        tmp_path,
        ema_decay=0.9,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        learning_rate=0.05,
        lr_scheduler_type="constant",
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name != "checkpoint-12"  # what is asked of this test
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-6)
    saved = torch.load(best / "optimizer.pt")["state"]
    for name, weight in trainer.exportable_model().named_parameters():
        assert torch.equal(weight, saved[name][AVERAGE]), name


def test_the_best_average_cannot_be_loaded_where_weights_alone_are_saved(tmp_path, make_trainer):
    flags = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3}
    with pytest.raises(ValueError, match=r"got ema_decay=0.9 with .*; leave save_only_model out"):
        make_trainer(tmp_path, ema_decay=0.9, save_only_model=True, **flags)


def test_a_run_that_goes_on_without_an_average_has_none(tmp_path, make_trainer):
    make_trainer(tmp_path, ema_decay=0.9, max_steps=3).train()
    trainer = make_trainer(tmp_path, max_steps=5)
    trainer.train(resume_from_checkpoint="last")
    exported = trainer.exportable_model().state_dict()
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(exported[name], weight), name


def test_predictions_are_those_of_what_is_evaluated(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path, ema_decay=0.9, max_steps=4)
    trainer.train()
    predicted = trainer.predict(trainer.eval_dataset).metrics["test_loss"]
    assert predicted == trainer.evaluate()["eval_loss"]
