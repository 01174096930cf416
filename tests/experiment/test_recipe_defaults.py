# SPDX-License-Identifier: Apache-2.0
"""`--recipe NAME` fills the flags, and any flag given overrides it."""

import pytest

from vit_hf.cli import finetune, parse, pretrain
from vit_hf.cli.recipe_defaults import recipe_defaults
from vit_hf.experiment.models import settings_of
from vit_hf.recipes import get, names


def parsed(verb, *words):
    return parse(verb, [verb.__name__.rsplit(".", 1)[-1], *map(str, words), "--use_cpu"])


@pytest.mark.parametrize("name", names())
def test_every_number_of_a_recipe_reaches_its_flag(name, tmp_path):
    recipe = get(name)
    verb = finetune if recipe.task == "finetune" else pretrain
    sweep = ["--sweep"] if verb is finetune else []
    groups = parsed(verb, "--recipe", name, "--output_dir", tmp_path, *sweep)
    found = {key: value for group in groups for key, value in vars(group).items()}
    for key, value in recipe.arguments.items():
        if key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            continue
        if key == "image_size" and isinstance(value, int):
            value = [value]
        got = getattr(found[key], "value", found[key])
        assert got == value, key
    batch = found["per_device_train_batch_size"] * found["gradient_accumulation_steps"]
    assert batch == recipe.arguments["total_train_batch_size"]
    if recipe.task != "finetune":
        assert (groups[2].task == "masked-patch-prediction") == (
            recipe.task == "masked-patch-prediction"
        )
        expected = dict(recipe.model)
        found = settings_of(groups[0])
        image_size = found.pop("image_size")
        assert image_size == expected.pop("image_size", image_size) and found == expected


def test_a_flag_overrides(tmp_path):
    words = ["--recipe", "vit-finetune-cifar10", "--output_dir", tmp_path, "--max_steps", 7]
    training = parsed(finetune, *words, "--per_device_train_batch_size", 64)[-1]
    assert training.max_steps == 7 and training.per_device_train_batch_size == 64
    assert training.gradient_accumulation_steps == 8 and training.max_grad_norm == 1.0


def test_the_effective_batch_is_kept_on_more_devices(monkeypatch):
    words = ["--recipe", "vit-b16-jft300m"]
    found = {}
    for devices in (1, 8, 256):
        monkeypatch.setenv("WORLD_SIZE", str(devices))
        found[devices] = recipe_defaults(words, task="pretrain")["per_device_train_batch_size"]
    assert found == {1: 128, 8: 128, 256: 16}


def test_flags_that_say_how_the_batch_is_made_up_replace_it(tmp_path):
    words = ["--recipe", "vit-finetune-cifar10", "--output_dir", tmp_path]
    words += ["--gradient_accumulation_steps", 2, "--per_device_train_batch_size", 16]
    training = parsed(finetune, *words)[-1]
    assert training.gradient_accumulation_steps == 2
    assert training.total_train_batch_size is None


def test_without_a_sweep_nothing_is_held_out(tmp_path):
    words = ["--recipe", "vit-finetune-cifar10", "--output_dir", tmp_path]
    assert parsed(finetune, *words)[1].validation_fraction == 0
    assert parsed(finetune, *words, "--sweep")[1].validation_fraction == 0.02


def test_without_a_recipe_nothing_changes():
    assert recipe_defaults(["--learning_rate", "1"], task="finetune") == {}
