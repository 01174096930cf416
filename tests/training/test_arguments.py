# SPDX-License-Identifier: Apache-2.0
"""The flags of training: defaults, the effective batch, what is refused."""

import pytest

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


@pytest.mark.parametrize("name", ["ema_decay", "layer_decay", "max_bad_fraction"])
def test_shares_outside_0_to_1_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"got {name}=1.5, allowed: 0 to 1"):
        VisionTransformerTrainingArguments(output_dir=str(tmp_path), **{name: 1.5})
