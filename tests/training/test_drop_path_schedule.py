# SPDX-License-Identifier: Apache-2.0
"""Drop path that sets in slowly: rates by step and layer, resuming, compiling."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import Trainer, TrainerCallback, TrainingArguments

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.modeling.encoder import DropPath
from vit_hf.training.drop_path_schedule import DropPathSchedule


def build(drop_path_rate=0.4):
    torch.manual_seed(0)
    config = VisionTransformerConfig(
        image_size=8,
        patch_size=4,
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=1,
        intermediate_size=8,
        drop_path_rate=drop_path_rate,
    )
    return VisionTransformerForImageClassification(config)


class Rates(TrainerCallback):
    """Notes each step's rates by layer, as the forward sees them."""

    def __init__(self, model):
        self.by_step, self.model, self.step = {}, model, None
        model.register_forward_pre_hook(lambda *_: self.note())

    def on_step_begin(self, args, state, control, **kwargs):
        self.step = state.global_step

    def note(self):
        self.by_step[self.step] = rates_of(self.model)


def rates_of(model):
    return [layer.drop_path.rate for layer in model.vit.layers]


def trainer_of(model, schedule, output_dir, **settings):
    rows = [{"pixel_values": torch.full((3, 8, 8), index / 8), "labels": 1} for index in range(8)]
    arguments = {"max_steps": 10, "save_steps": 3, "report_to": "none", "use_cpu": True, **settings}
    return Trainer(
        model=model,
        args=TrainingArguments(str(output_dir), per_device_train_batch_size=2, **arguments),
        train_dataset=rows,
        callbacks=[schedule],
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_rates_by_step_and_layer(tmp_path, accumulation):
    model = build()
    rates = Rates(model)
    trainer = trainer_of(
        model, DropPathSchedule(0.5), tmp_path, gradient_accumulation_steps=accumulation
    )
    trainer.add_callback(rates)
    trainer.train()
    assert list(rates.by_step) == list(range(10))
    for step, by_layer in rates.by_step.items():
        factor = min(1, step / 5)
        assert by_layer == pytest.approx([0, 0.2 * factor, 0.4 * factor]), step
    assert rates_of(model) == [0, 0.2, 0.4]
    saved = VisionTransformerForImageClassification.from_pretrained(tmp_path / "checkpoint-3")
    assert saved.config.drop_path_rate == 0.4 and rates_of(saved) == [0, 0.2, 0.4]


def test_a_resumed_training_goes_on_where_it_was(tmp_path):
    model = build()
    rates = Rates(model)
    whole = trainer_of(model, DropPathSchedule(1.0), tmp_path)
    whole.add_callback(rates)
    whole.train()
    model = build()
    resumed_rates = Rates(model)
    resumed = trainer_of(model, DropPathSchedule(1.0), tmp_path)
    resumed.add_callback(resumed_rates)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert resumed_rates.by_step == {step: rates.by_step[step] for step in range(6, 10)}


def test_a_training_that_breaks_off_does_not_lower_the_rates(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    model, schedule = build(), DropPathSchedule(1.0)
    trainer = trainer_of(model, schedule, tmp_path)
    trainer.add_callback(Stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert rates_of(model) == [0, 0, 0]  # in the midst of it
    trainer.remove_callback(Stop)
    trainer.train()
    assert rates_of(model) == [0, 0.2, 0.4]


def test_a_model_without_drop_path_is_refused(tmp_path):
    with pytest.raises(ValueError, match="without drop path"):
        trainer_of(build(drop_path_rate=0.0), DropPathSchedule(0.5), tmp_path).train()


@pytest.mark.parametrize("share", [0, -0.1, 1.5])
def test_shares_that_are_none(share):
    with pytest.raises(ValueError, match=f"share of {share}"):
        DropPathSchedule(share)


def test_a_compiled_model_is_not_compiled_at_every_step():
    parts = torch.nn.Sequential(torch.nn.Linear(4, 4), DropPath(0.0)).train()
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(parts, backend=counter, fullgraph=True)
    branch, kept = torch.ones(200, 1, 4), []
    for step in range(12):
        parts[1].rate = step / 20
        torch.manual_seed(0)
        kept.append((compiled(branch)[:, 0, 0] != 0).float().mean().item())
    assert counter.frame_count <= 2  # at 0, and above
    assert kept == sorted(kept, reverse=True) and kept[0] == 1
    assert kept[10] == pytest.approx(0.5, abs=0.1)
