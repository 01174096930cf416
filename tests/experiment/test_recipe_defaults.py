# SPDX-License-Identifier: Apache-2.0
"""`--recipe NAME` fills the flags, and any flag given overrides it."""

import re

import pytest

from vit_hf import VisionTransformerConfig
from vit_hf.cli import finetune, parse, pretrain
from vit_hf.cli.recipe_defaults import recipe_defaults
from vit_hf.experiment.models import settings_of
from vit_hf.experiment.running import recipe_of
from vit_hf.recipes import get, names


def changed(groups):
    model, data, *_, training = groups
    recipe = recipe_of(training, model, data)
    return None if recipe is None else recipe["changed"]


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


@pytest.mark.parametrize("name", names())
def test_what_its_remarks_advise_is_understood(name, tmp_path):
    recipe = get(name)
    verb = finetune if recipe.task == "finetune" else pretrain
    prose = " ".join([recipe.description, *recipe.remarks])
    advised = re.findall(r"(--\w+)(?: ([\w.=-]*\w))?", prose)
    settings = re.findall(r"\b[a-z_]+=[\w.]*\w", prose)
    for flag, value in [*advised, *(("--settings", setting) for setting in settings)]:
        words = [flag, value] if value else [flag]
        groups = parsed(verb, "--recipe", name, "--output_dir", tmp_path, *words)
        VisionTransformerConfig(**settings_of(groups[0]))
    if name == "vit-b16-masked-patch-prediction":
        assert len(settings) == 3 and len(advised) == 2


def test_a_flag_overrides(tmp_path):
    words = ["--recipe", "vit-finetune-cifar10", "--output_dir", tmp_path, "--max_steps", 7]
    training = parsed(finetune, *words, "--per_device_train_batch_size", 64)[-1]
    assert training.max_steps == 7 and training.per_device_train_batch_size == 64
    assert training.gradient_accumulation_steps == 8 and training.max_grad_norm == 1.0


@pytest.mark.parametrize("form", ["--{} {}", "--{}={}"])
@pytest.mark.parametrize("between", ["_", "-"])
def test_a_flag_overrides_however_it_is_spelled(form, between, tmp_path):
    def given(name, value):
        return form.format(name.replace("_", between), value).split()

    words = [*given("recipe", "vit-b16-imagenet"), *given("output_dir", tmp_path)]
    training = parsed(pretrain, *words, *given("gradient_accumulation_steps", 3))[-1]
    assert training.gradient_accumulation_steps == 3 and training.total_train_batch_size is None
    training = parsed(pretrain, *words, *given("total_train_batch_size", 64))[-1]
    assert training.per_device_train_batch_size == training.total_train_batch_size == 64


def test_the_representation_layer_is_as_wide_as_the_model(tmp_path):
    words = ["--recipe", "vit-b16-imagenet", "--output_dir", tmp_path, "--settings"]
    narrow = settings_of(parsed(pretrain, *words, "hidden_size=32")[0])
    assert narrow["representation_size"] == narrow["hidden_size"] == 32
    given = settings_of(parsed(pretrain, *words, "hidden_size=32", "representation_size=48")[0])
    assert given["representation_size"] == 48
    words[1] = "deit-s16-imagenet"
    assert settings_of(parsed(pretrain, *words, "hidden_size=32")[0])["representation_size"] is None


def test_a_switch_alone_is_on(tmp_path):
    training = parsed(pretrain, "--output_dir", tmp_path, "--bf16", "--flip")[-1]
    assert training.bf16 is True
    assert parsed(pretrain, "--output_dir", tmp_path, "--bf16", "no")[-1].bf16 is False


def test_epochs_replace_a_recipes_steps(tmp_path):
    words = ["--recipe", "vit-finetune-cifar10", "--output_dir", tmp_path]
    groups = parsed(finetune, *words, "--num_train_epochs", 1)
    assert groups[-1].max_steps == -1 and groups[-1].num_train_epochs == 1
    assert changed(groups) == {"num_train_epochs": 1.0}


def test_of_two_recipes_the_last_counts(tmp_path):
    words = ["--recipe", "vit-finetune-cifar10", "--recipe", "vit-finetune-vtab"]
    model, *_, training = parsed(finetune, *words, "--output_dir", tmp_path)
    assert model.recipe == "vit-finetune-vtab" and training.max_steps == 2500


def test_the_effective_batch_is_kept_on_more_devices(monkeypatch):
    given = {"recipe": "vit-b16-jft300m"}
    found = {}
    for devices in (1, 8, 256):
        monkeypatch.setenv("WORLD_SIZE", str(devices))
        found[devices] = recipe_defaults(given, task="pretrain")["per_device_train_batch_size"]
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
    assert parsed(finetune, *words, "--sweep=True")[1].validation_fraction == 0.02
    assert parsed(finetune, *words, "--sweep", "False")[1].validation_fraction == 0


def test_what_is_held_out_and_another_batch_are_told(tmp_path):
    words = ["--recipe", "vit-finetune-cifar10", "--output_dir", tmp_path]
    for own in ([], ["--sweep"], ["--per_device_train_batch_size", 64]):
        assert changed(parsed(finetune, *words, *own)) == {}
    held_out = parsed(finetune, *words, "--validation_fraction", 0.1)
    assert changed(held_out) == {"validation_fraction": 0.1}
    batch = ["--gradient_accumulation_steps", 3, "--per_device_train_batch_size", 16]
    assert changed(parsed(finetune, *words, *batch)) == {"total_train_batch_size": 48}


def test_without_a_recipe_nothing_changes():
    assert recipe_defaults({"learning_rate": 1.0}, task="finetune") == {}
