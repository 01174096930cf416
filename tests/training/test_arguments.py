# SPDX-License-Identifier: Apache-2.0
"""The flags of training: defaults, the effective batch, what is refused."""

import pytest
import torch

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
)
from vit_hf.training import VisionTransformerTrainingArguments
from vit_hf.training.arguments import accumulation_steps, default_batch_size


@pytest.mark.parametrize(
    ("total", "batch_size", "num_devices", "expected"),
    [(4096, 64, 1, 64), (4096, 64, 8, 8), (512, 512, 1, 1), (96, 8, 4, 3)],
)
def test_what_is_missing_is_accumulated(total, batch_size, num_devices, expected):
    steps = accumulation_steps(total, batch_size=batch_size, num_devices=num_devices)
    assert steps == expected and steps * batch_size * num_devices == total


@pytest.mark.parametrize(
    ("total", "batch_size", "num_devices", "advice"),
    [(512, 100, 1, "per_device_train_batch_size 128"), (10, 4, 3, "multiple of 3")],
)
def test_what_cannot_be_made_up_says_what_can(total, batch_size, num_devices, advice):
    with pytest.raises(ValueError, match=f"got total_train_batch_size={total}.*{advice}"):
        accumulation_steps(total, batch_size=batch_size, num_devices=num_devices)


@pytest.mark.parametrize(
    ("total", "num_devices", "expected"), [(4096, 1, 128), (4096, 64, 64), (96, 2, 48), (7, 1, 7)]
)
def test_the_batch_of_a_device_where_nobody_says(total, num_devices, expected):
    assert default_batch_size(total, num_devices=num_devices) == expected


def test_arguments_work_the_accumulation_out(tmp_path):
    arguments = VisionTransformerTrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, total_train_batch_size=12
    )
    assert arguments.gradient_accumulation_steps == 3


def test_defaults(tmp_path):
    arguments = VisionTransformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert arguments.bf16 is False and arguments.remove_unused_columns is False
    assert arguments.report_to == [] and arguments.gradient_accumulation_steps == 1


@pytest.mark.parametrize(
    ("launcher", "flag", "expected"),
    [
        (None, None, "no"),
        (None, True, "bf16"),
        ("bf16", None, "bf16"),
        ("bf16", False, "no"),
        ("no", None, "no"),
        ("no", True, "bf16"),
    ],
)
def test_precision_is_the_flags_then_the_launchers(tmp_path, monkeypatch, launcher, flag, expected):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launcher is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    arguments = VisionTransformerTrainingArguments(str(tmp_path), use_cpu=True, bf16=flag)
    assert arguments.mixed_precision == expected
    assert arguments.bf16 is (expected == "bf16")


def test_the_cpu_is_used_where_there_is_nothing_else(tmp_path, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert VisionTransformerTrainingArguments(str(tmp_path)).use_cpu
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert not VisionTransformerTrainingArguments(str(tmp_path)).use_cpu
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert VisionTransformerTrainingArguments(str(tmp_path)).use_cpu


def test_processes_that_would_train_alone_are_refused(tmp_path, monkeypatch, make_trainer):
    trainer = make_trainer(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"got 2 processes from the launcher.*--use_cpu"):
        trainer.create_accelerator_and_postprocess()


@pytest.mark.parametrize(
    "settings",
    [{}, {"pooling": "gap"}, {"pooling": "map"}, {"position_embedding": "relative"}],
    ids=str,
)
@pytest.mark.parametrize("task", ["classification", "masked patch prediction"])
def test_the_loss_reaches_every_parameter(tmp_path, settings, task):
    """As `ddp_find_unused_parameters`, which is off, takes for granted."""
    sizes = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "intermediate_size": 8}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    config = VisionTransformerConfig(**sizes, **settings)
    pixel_values = torch.zeros(2, 3, 8, 8)
    if task == "classification":
        model = VisionTransformerForImageClassification(config)
        loss = model(pixel_values, labels=torch.zeros(2, dtype=torch.long)).loss
    else:
        model = VisionTransformerForMaskedPatchPrediction(config)
        loss = model(pixel_values, bool_masked_pos=torch.ones(2, 4, dtype=torch.bool)).loss
    loss.backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    arguments = VisionTransformerTrainingArguments(str(tmp_path))
    assert arguments.ddp_find_unused_parameters is False


@pytest.mark.parametrize("name", ["ema_decay", "layer_decay", "max_bad_fraction"])
def test_shares_outside_0_to_1_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"got {name}=1.5, allowed: 0 to 1"):
        VisionTransformerTrainingArguments(output_dir=str(tmp_path), **{name: 1.5})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"bf16_full_eval": True}, r"got bf16_full_eval=True, allowed: none; .*--bf16 evaluates"),
        ({"fp16_full_eval": True}, r"got fp16_full_eval=True, allowed: none; .*--fp16 evaluates"),
        ({"label_smoothing_factor": 0.1}, r"got label_smoothing_factor=0.1.*--label_smoothing"),
        ({"total_train_batch_size": 0}, r"got total_train_batch_size=0, allowed: at least 1"),
        ({"total_train_batch_size": -8}, r"got total_train_batch_size=-8, allowed: at least 1"),
        ({"per_device_train_batch_size": 0}, r"got per_device_train_batch_size=0, allowed: at le"),
        ({"ema_decay": -1.0}, r"got ema_decay=-1.0, allowed: 0 to 1"),
        (
            {"auto_find_batch_size": True, "total_train_batch_size": 8},
            r"got auto_find_batch_size with total_train_batch_size",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        VisionTransformerTrainingArguments(output_dir=str(tmp_path), **flags)
