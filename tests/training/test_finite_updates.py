# SPDX-License-Identifier: Apache-2.0
"""A run ends where its numbers are not finite, before its weights change: as a CPU reads of it, at
once, and as a GPU does, with the next update.
"""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, ViTImageProcessorPil

from vit_hf.training import finite_updates
from vit_hf.training.divergence import NonFiniteLoss
from vit_hf.training.finite_updates import Pass, Update
from vit_hf.training.sharding import unwrapped


@pytest.fixture(params=["at once", "later"])
def is_read_later(request, monkeypatch):
    """Has updates read of at once, or, as on a GPU, later."""
    is_later = request.param == "later"
    monkeypatch.setattr(finite_updates, "can_leave_out", lambda *arguments: is_later)


@torch.no_grad()
def spoil_weight(model):
    """Puts a nan into a weight."""
    model.vit.layers[1].mlp.fc1.weight[0, 0] = float("nan")


def spoil_gradient(trainer):
    """Has the gradient of a weight be nan in the third update."""
    trainer.model.vit.layers[0].mlp.fc1.weight.register_hook(
        lambda gradient: gradient * (float("nan") if trainer.state.global_step == 2 else 1)
    )


def test_a_run_that_diverges_says_where_and_keeps_its_checkpoint(
    tmp_path, make_trainer, is_read_later
):
    """The weights are spoiled after a checkpoint; the next step finds them."""

    class Spoil(TrainerCallback):
        def on_save(self, args, state, control, model, **kwargs):
            spoil_weight(model)

    trainer = make_trainer(tmp_path, callbacks=[Spoil()])
    with pytest.raises(NonFiniteLoss) as caught:
        trainer.train()
    message = str(caught.value)
    assert "the loss is nan at step 4" in message and "vit.layers.1.mlp.fc1" in message
    assert f"The last good checkpoint is {tmp_path / 'checkpoint-3'}" in message
    saved = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())
    assert not (tmp_path / "checkpoint-6").exists()


def test_every_batch_of_an_update_is_looked_at_before_the_weights_change(
    tmp_path, make_trainer, is_read_later
):
    class Spoil(TrainerCallback):
        def on_substep_end(self, args, state, control, model, **kwargs):
            spoil_weight(model)

    trainer = make_trainer(tmp_path, callbacks=[Spoil()], gradient_accumulation_steps=2)
    before = trainer.model.vit.layers[0].mlp.fc1.weight.detach().clone()
    with pytest.raises(
        NonFiniteLoss, match=r"the loss is nan at step 1; .* vit\.layers\.1\.mlp\.fc1"
    ):
        trainer.train()
    assert torch.equal(before, trainer.model.vit.layers[0].mlp.fc1.weight)


def test_what_a_run_that_failed_left_is_not_looked_at(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path, max_steps=1)
    loss = torch.tensor(float("nan"))
    trainer.passes.append(Pass(loss, 0, {}))
    trainer.unread = Update(1, trainer.passes, None, loss.isnan()[None].float())
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path, make_trainer, is_read_later):
    trainer = make_trainer(tmp_path, max_grad_norm=0)
    weight = trainer.model.vit.layers[0].mlp.fc1.weight
    before = weight.detach().clone()
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteLoss, match=r"the norm of the gradient is (inf|nan) at step 1"):
        trainer.train()
    assert torch.equal(before, weight)


def test_passes_do_not_wait_for_the_device(tmp_path, make_trainer):
    """A number that is read on the host waits for all that the device was given."""

    class Reads(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    trainer, reads = make_trainer(tmp_path, max_steps=2), Reads()
    step = trainer.training_step

    def watched(*arguments, **settings):
        with reads:
            return step(*arguments, **settings)

    trainer.training_step = watched
    trainer.train()
    with reads:
        assert reads.calls == 0 and torch.ones(1).isfinite() and reads.calls == 1


def test_a_norm_can_overflow_alone(tmp_path, make_trainer, is_read_later):
    trainer = make_trainer(tmp_path, logging_strategy="no", save_strategy="no")
    trainer.model.classifier.bias.register_hook(lambda gradient: gradient * 1e30)
    with pytest.raises(NonFiniteLoss, match=r"is inf at step 1; .* it is the norm alone that over"):
        trainer.train()


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_weights_stay_those_of_the_update_before(
    tmp_path, make_trainer, accumulated, is_read_later
):
    flags = {
        "lr_scheduler_type": "constant",
        "gradient_accumulation_steps": accumulated,
        "save_strategy": "no",
        "logging_steps": 100,
        "ema_decay": 0.9,
    }
    sound = make_trainer(tmp_path / "sound", max_steps=2, **flags)
    sound.train()
    trainer = make_trainer(tmp_path / "bad", max_steps=9, **flags)

    def spoil(gradient):
        return gradient * (float("inf") if trainer.state.global_step >= 2 else 1)

    trainer.model.vit.layers[0].mlp.fc1.bias.register_hook(spoil)
    with pytest.raises(NonFiniteLoss) as caught:
        trainer.train()
    message = str(caught.value)
    assert "the norm of the gradient is" in message and "at step 3" in message
    assert "the gradient of vit.layers.0.mlp.fc1.bias" in message
    expected = sound.model.state_dict()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    kept = [each.optimizer.state_dict()["state"] for each in (trainer, sound)]
    torch.testing.assert_close(*kept, atol=0, rtol=0)
    assert trainer.state.global_step == 2


def test_the_last_update_is_looked_at(tmp_path, make_trainer, is_read_later):
    trainer = make_trainer(tmp_path, max_steps=3, logging_strategy="no", save_strategy="no")
    spoil_gradient(trainer)
    with pytest.raises(NonFiniteLoss, match="at step 3"):
        trainer.train()


def test_nothing_is_saved_of_an_update_that_was_bad(tmp_path, make_trainer, is_read_later):
    trainer = make_trainer(tmp_path, max_steps=5, save_steps=3, logging_strategy="no")
    spoil_gradient(trainer)
    with pytest.raises(NonFiniteLoss, match=r"at step 3; .* gradient of vit\.layers\.0\.mlp\.fc1"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_nothing_is_saved_by_a_callback_either(tmp_path, make_trainer, is_read_later):
    class Save(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            trainer._save_checkpoint(trainer.model, trial=None)

    flags = {"logging_strategy": "no", "save_strategy": "no"}
    trainer = make_trainer(tmp_path, max_steps=5, callbacks=[Save()], **flags)
    spoil_gradient(trainer)
    with pytest.raises(NonFiniteLoss, match=r"at step 3; .*The last good .*checkpoint-2"):
        trainer.train()
    assert not (tmp_path / "checkpoint-3").exists()


def test_it_is_looked_for_at_the_rates_of_its_step(tmp_path, make_trainer, is_read_later):
    flags = {"logging_strategy": "no", "save_strategy": "no", "drop_path_warmup": 1.0}
    config = {"drop_path_rate": 0.5}
    trainer = make_trainer(tmp_path, max_steps=8, config=config, **flags)
    layer, rates = trainer.model.vit.layers[1], []
    layer.register_forward_pre_hook(lambda *words: rates.append(layer.drop_path.rate))
    spoil_gradient(trainer)
    with pytest.raises(NonFiniteLoss, match="at step 3"):
        trainer.train()
    assert rates[:3] == [0.0, 0.0625, 0.125] and rates[-1] == rates[2]


@pytest.mark.parametrize(
    "change, can",
    [
        ({}, True),
        ({"device": torch.device("cpu")}, False),
        ({"distributed_type": DistributedType.FSDP}, False),
        ({"scaler": "GradScaler"}, False),
    ],
    ids=str,
)
def test_who_leaves_an_update_out(change, can):
    settings = {
        "device": torch.device("cuda"),
        "distributed_type": DistributedType.NO,
        "scaler": None,
    }
    accelerator = SimpleNamespace(**(settings | change))
    weights = [torch.nn.Parameter(torch.ones(3))]
    fused = torch.optim.AdamW(weights, fused=True)
    assert finite_updates.can_leave_out(fused, accelerator) == can
    assert not finite_updates.can_leave_out(torch.optim.AdamW(weights), accelerator)
    fused.load_state_dict(torch.optim.AdamW(weights).state_dict())
    assert not finite_updates.can_leave_out(fused, accelerator), "it steps as what was loaded did"


def test_what_is_read_later_trains_alike(tmp_path, make_trainer, monkeypatch):
    trainers = []
    for is_later in (False, True):
        monkeypatch.setattr(finite_updates, "can_leave_out", lambda *words, later=is_later: later)
        flags = {"max_steps": 4, "ema_decay": 0.9, "logging_steps": 100}
        trainers.append(make_trainer(tmp_path / str(is_later), **flags))
        trainers[-1].train()
        assert trainers[-1].unread is None
        assert getattr(unwrapped(trainers[-1].optimizer), "found_inf", None) is None
    states = [trainer.optimizer.state_dict() for trainer in trainers]
    torch.testing.assert_close(states[0], states[1], atol=0, rtol=0)


@pytest.mark.parametrize("num_processes, is_left_out", [(0, False), (1, True), (2, True)])
def test_what_several_processes_found_is_left_out_once(num_processes, is_left_out):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.ones(3)
    Update(1, [], None, torch.tensor([0.0, num_processes])).left_out_if_bad(optimizer)
    optimizer.step()
    assert torch.equal(weight, torch.ones(3)) == is_left_out
    assert optimizer.state[weight]["step"] == (0 if is_left_out else 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_read_later(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path, use_cpu=False, logging_steps=100, save_strategy="no")
    spoil_gradient(trainer)
    seen, end = [], trainer.end_if_not_finite

    def watched():
        seen.append(trainer.unread)
        end()

    trainer.end_if_not_finite = watched
    with pytest.raises(NonFiniteLoss, match="at step 3"):
        trainer.train()
    assert seen[1].step == 1 and seen[1].written is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_an_update_does_not_wait(tmp_path, make_trainer):
    """PyTorch raises where the host waits for the device."""

    class Forbid(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            torch.cuda.set_sync_debug_mode("error" if 2 <= state.global_step < 5 else "default")

    trainer = make_trainer(
        tmp_path,
        use_cpu=False,
        max_steps=7,
        logging_strategy="no",
        save_strategy="no",
        gradient_accumulation_steps=2,
        ema_decay=0.9,
        drop_path_warmup=0.5,
        config={"drop_path_rate": 0.1},
        callbacks=[Forbid()],
    )
    trainer.processing_class = ViTImageProcessorPil(image_mean=[0.4] * 3, image_std=[0.2] * 3)
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_no_checkpoint_of_an_earlier_run_is_named(tmp_path, make_trainer):
    make_trainer(tmp_path, max_steps=3).train()
    trainer = make_trainer(tmp_path)
    spoil_weight(trainer.model)
    with pytest.raises(NonFiniteLoss, match=r"at step 1; .*No checkpoint was written"):
        trainer.train()
    resumed = make_trainer(tmp_path)
    resumed.model.vit.layers[0].mlp.fc1.weight.register_hook(
        lambda gradient: gradient * float("nan")
    )
    with pytest.raises(NonFiniteLoss, match=rf"checkpoint is {tmp_path / 'checkpoint-3'}\. "):
        resumed.train(resume_from_checkpoint="last")


def test_a_norm_that_overflows_alone_is_told_as_that(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path, max_grad_norm=0)
    trainer.model.vit.layers[0].mlp.fc1.weight.register_hook(
        lambda gradient: torch.full_like(gradient, 1e30)
    )
    message = (
        "norm of the gradient is inf at step 1; every gradient is finite, it is the norm alone"
    )
    with pytest.raises(NonFiniteLoss, match=message):
        trainer.train()
