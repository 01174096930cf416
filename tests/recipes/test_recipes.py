# SPDX-License-Identifier: Apache-2.0
"""Every recipe builds what it describes: arguments, optimizer, schedule and model."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments, get_scheduler

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
)
from vit_hf.cli import finetune, pretrain
from vit_hf.recipes import RECIPES, get, names

FIXTURE = Path(__file__).parents[1] / "fixtures" / "param_counts.json"
MODELS = json.loads(FIXTURE.read_text())["models"]
OWN_ARGUMENTS = {
    "total_train_batch_size",
    "image_size",
    "ema_decay",
    "layer_decay",
    "mixup_alpha",
    "cutmix_alpha",
    "mixing_probability",
    "label_smoothing",
    "erasing_probability",
    "randaugment_operations",
    "randaugment_magnitude",
    "randaugment_deviation",
    "randaugment_probability",
    "flip",
    "crop_area",
    "sweep_learning_rates",
    "validation_fraction",
}
THEIR_ARGUMENTS = {field.name for field in dataclasses.fields(TrainingArguments)}
SETTINGS = {field.name for field in dataclasses.fields(VisionTransformerConfig)}


def training_arguments(name: str, folder) -> TrainingArguments:
    """Builds the part of a recipe's arguments that is transformers'."""
    arguments = get(name).arguments
    theirs = {key: arguments[key] for key in arguments if key in THEIR_ARGUMENTS}
    return TrainingArguments(output_dir=str(folder), use_cpu=True, **theirs)


def settings_of(name: str) -> dict:
    """Returns the settings of a recipe's model, with its data's classes."""
    recipe = get(name)
    settings = {**(recipe.starts_from or {}), **recipe.model}
    return {**settings, "num_labels": recipe.dataset.num_classes or 0}


def config_of(name: str) -> VisionTransformerConfig:
    """Builds a recipe's configuration; at fine-tuning, that of the model it starts from."""
    return VisionTransformerConfig(**settings_of(name))


def test_names():
    assert names() == list(RECIPES)
    assert len(names()) == 63
    assert [RECIPES[name]().name for name in names()] == names()


def test_a_name_that_is_no_recipe():
    with pytest.raises(ValueError, match=r"'vit-b16-imagnet'.*Did you mean 'vit-b16-imagenet'"):
        get("vit-b16-imagnet")
    with pytest.raises(ValueError, match="`vit-hf recipes` lists them"):
        get("")


def test_a_recipe_is_the_callers_own():
    recipe = get("vit-b16-jft300m")
    recipe.arguments["lr_scheduler_kwargs"]["lr_end"] = recipe.arguments["learning_rate"] = 1
    recipe.notes.clear()
    again = get("vit-b16-jft300m")
    assert again.arguments["lr_scheduler_kwargs"]["lr_end"] == 1e-5
    assert again.arguments["learning_rate"] == 8e-4 and again.notes


@pytest.mark.parametrize("name", names())
def test_it_cites(name):
    recipe = get(name)
    assert recipe.source == f"{recipe.table}, {recipe.row}"
    assert "arXiv" in recipe.table or recipe.table.startswith("vit_hf's own")
    settings = {**recipe.arguments, **recipe.model, **(recipe.starts_from or {})}
    if "own" in recipe.table:
        assert all(recipe.notes[key] == "vit_hf's own" for key in settings)
        assert recipe.expected is None
    assert all(recipe.notes.values())
    assert set(recipe.notes) <= OWN_ARGUMENTS | THEIR_ARGUMENTS | SETTINGS
    assert recipe.description.endswith(".") and recipe.dataset.source


@pytest.mark.parametrize("name", names())
def test_its_arguments_build(name, tmp_path):
    arguments = get(name).arguments
    verb = finetune if get(name).task == "finetune" else pretrain
    flags = {field.name for group in verb.argument_classes() for field in dataclasses.fields(group)}
    assert set(arguments) <= flags
    assert set(arguments) <= OWN_ARGUMENTS | THEIR_ARGUMENTS
    assert not OWN_ARGUMENTS & THEIR_ARGUMENTS
    assert {"crop_area", "flip"} <= set(arguments)
    assert ("num_train_epochs" in arguments) != ("max_steps" in arguments)
    assert arguments["total_train_batch_size"] == arguments["per_device_train_batch_size"]
    built = training_arguments(name, tmp_path)
    assert built.learning_rate == arguments["learning_rate"]
    assert built.gradient_accumulation_steps == 1


@pytest.mark.parametrize("name", names())
def test_no_decay_is_coupled(name, tmp_path):
    """Without a gradient, a decoupled decay shrinks a weight by rate times decay, and no more."""
    arguments = training_arguments(name, tmp_path)
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    weight = torch.nn.Parameter(torch.tensor([2.0, -3.0]))
    optimizer = optimizer_class([weight], weight_decay=arguments.weight_decay, **settings)
    weight.grad = torch.zeros(2)
    optimizer.step()
    shrunk = 1 - arguments.learning_rate * arguments.weight_decay
    torch.testing.assert_close(weight.detach(), torch.tensor([2.0, -3.0]) * shrunk)
    if arguments.optim == "sgd":
        assert arguments.weight_decay == 0 and settings["momentum"] == 0.9


def authors_rate(step: int, *, total: int, base: float, decay: str, warmup: int) -> float:
    """The learning rate of the authors' `vit_jax/utils.py`, linear to 1e-5 or cosine to 0."""
    progress = min(max((step - warmup) / (total - warmup), 0), 1)
    rate = {
        "polynomial": 1e-5 + (base - 1e-5) * (1 - progress),
        "cosine": base * 0.5 * (1 + math.cos(math.pi * progress)),
    }[decay]
    return rate * min(1, step / warmup)


@pytest.mark.parametrize("name", [name for name in names() if get(name).table.startswith("Dos")])
def test_the_schedule_is_the_authors(name, tmp_path):
    arguments = training_arguments(name, tmp_path)
    total = 40_000  # longer than any warm-up; the shape is the same at any length
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=arguments.learning_rate)
    warmup = arguments.get_warmup_steps(total)
    schedule = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=total,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    for step in (0, 1, warmup // 2, warmup, warmup + 1, 25_000, total - 1, total):
        expected = authors_rate(
            step,
            total=total,
            base=arguments.learning_rate,
            decay=arguments.lr_scheduler_type.value,
            warmup=warmup,
        )
        rate = arguments.learning_rate * schedule.lr_lambdas[0](step)
        assert rate == pytest.approx(expected, rel=1e-9, abs=1e-15), step


def test_deit_ends_at_its_least_rate(tmp_path):
    arguments = training_arguments("deit-s16-imagenet", tmp_path)
    steps = 300 * 1251  # of 1024 images
    assert arguments.get_warmup_steps(steps) == 5 * 1251
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
    schedule = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=5 * 1251,
        num_training_steps=steps,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    factor = schedule.lr_lambdas[0]
    assert factor(5 * 1251) == 1 and factor(steps) * 1e-3 == pytest.approx(1e-5)


def stem_parameters(hybrid: str, plain: str) -> int:
    """Counts a stem: a published hybrid less the encoder of the same width and grid, less patches.

    Both have patches of 16 or both of 32 pixels, so that their position tables agree.
    """
    width = MODELS[plain]["config"]["hidden_size"]
    patch = MODELS[plain]["config"]["patches"]["size"][0]
    channels = 256 * 2 ** (len(MODELS[hybrid]["config"]["resnet"]["num_layers"]) - 1)
    rest = MODELS[plain]["no_head"]["224"]["params"] - 3 * patch**2 * width
    return MODELS[hybrid]["no_head"]["224"]["params"] - rest - channels * width


def encoder_parameters(model: str) -> int:
    """Counts the parameters without a head, at 224 px, of a model as recipes name it."""
    published = {
        "ti16": "ViT-Ti_16",
        "s16": "ViT-S_16",
        "s32": "ViT-S_32",
        "b16": "ViT-B_16",
        "b32": "ViT-B_32",
        "l16": "ViT-L_16",
        "l32": "ViT-L_32",
        "h14": "ViT-H_14",
        "r-ti16": "R+ViT-Ti_16",
        "r26-s32": "R26+ViT-S_32",
        "r50-b16": "R50+ViT-B_16",
        "r50-l32": "R50+ViT-L_32",
    }
    if model in published:
        return MODELS[published[model]]["no_head"]["224"]["params"]
    # The two hybrids of table 6 that were not published, from the stems of those that were.
    plain, hybrid, like, patch = {
        "r50-b32": ("ViT-B_32", "R50+ViT-L_32", "ViT-L_32", 32),
        "r50-l16": ("ViT-L_16", "R50+ViT-B_16", "ViT-B_16", 16),
    }[model]
    width = MODELS[plain]["config"]["hidden_size"]
    channels = {32: 2048, 16: 1024}[patch]
    without_patches = MODELS[plain]["no_head"]["224"]["params"] - 3 * patch**2 * width
    return without_patches + channels * width + stem_parameters(hybrid, like)


@functools.cache
def parameters_of(task: str, settings: str) -> int:
    """Counts the parameters of a model on the meta device; many recipes share one."""
    masked = task == "masked-patch-prediction"
    model_class = (
        VisionTransformerForMaskedPatchPrediction
        if masked
        else VisionTransformerForImageClassification
    )
    with torch.device("meta"):
        return model_class(VisionTransformerConfig(**json.loads(settings))).num_parameters()


def parameters(name: str) -> int:
    """Counts the parameters of a recipe's model; no rate of dropout has any."""
    settings = {key: value for key, value in settings_of(name).items() if "drop" not in key}
    return parameters_of(get(name).task, json.dumps(settings, sort_keys=True))


def supervised_at_224() -> list:
    """Returns the recipes that pre-train with labels at 224 px, and the models in their names."""
    found = []
    for name in names():
        if get(name).task == "pretrain" and not name.startswith("cifar"):
            words = name.replace("r50-vit-", "vit-r50-").split("-")[1:]
            stop = next(index for index, word in enumerate(words) if word[:3] in ("jft", "ima"))
            found.append(pytest.param(name, "-".join(words[:stop]), id=name))
    return found


@pytest.mark.parametrize(("name", "model"), supervised_at_224())
def test_parameters(name, model):
    recipe = get(name)
    width, classes = recipe.model["hidden_size"], recipe.dataset.num_classes
    representation = recipe.model["representation_size"]
    head = classes * width + classes
    hidden = width * width + width if representation else 0
    assert representation in (None, width)
    assert parameters(name) == encoder_parameters(model) + hidden + head


def test_a_hidden_layer_before_the_head():
    """The paper's own recipes have one (3.1), those of the published AugReg models have none."""
    for name in names():
        representation = get(name).model.get("representation_size")
        if get(name).table.endswith("2010.11929), table 3"):
            assert representation == get(name).model["hidden_size"]
        elif get(name).task == "finetune" or "21k" in name or name.startswith("deit"):
            assert representation is None


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vit-l16-finetune-imagenet-512", "L/16"),
        ("vit-h14-finetune-imagenet-518", "H/14"),
        ("vit-finetune-imagenet", "B/16"),
        ("augreg-finetune-imagenet", "B/16"),
    ],
)
def test_parameters_at_another_size(name, count):
    published = MODELS[f"ViT-{count.replace('/', '_')}"]["1000_classes"]
    config = config_of(name)
    width, (rows, columns) = config.hidden_size, config.grid
    native = {"L/16": 14, "H/14": 16, "B/16": 14}[count]
    longer = (rows * columns - native**2) * width
    assert parameters(name) == published["224"]["params"] + longer


def parameters_by_hand(width: int, depth: int, mlp: int, *, head: int, tokens: int) -> int:
    """Counts a ViT with average pooling on 4x4 patches of RGB."""
    layer = 4 * width * (width + 1) + 2 * width * mlp + mlp + width + 4 * width
    return 49 * width + tokens * width + depth * layer + 2 * width + head


@pytest.mark.parametrize(
    ("name", "width", "depth", "mlp"),
    [
        ("cifar10-scratch-small", 384, 12, 1536),
        ("cifar10-scratch-tiny", 96, 6, 384),
        ("cifar10-masked-patch-prediction-small", 384, 12, 1536),
        ("cifar10-masked-patch-prediction-tiny", 96, 6, 384),
        ("cifar10-finetune", 384, 12, 1536),
    ],
)
def test_parameters_at_cifar_size(name, width, depth, mlp):
    masked = get(name).task == "masked-patch-prediction"
    head = 512 * (width + 1) + width if masked else 10 * (width + 1)  # with a mask token
    count = parameters_by_hand(width, depth, mlp, head=head, tokens=64)
    assert parameters(name) == count
    if "tiny" in name:
        assert f"{count / 1e6:.1f}" == "0.7" and "0.7 M" in get(name).description


def test_parameters_of_masked_patch_prediction():
    encoder = MODELS["ViT-B_16"]["no_head"]["224"]["params"]
    assert parameters("vit-b16-masked-patch-prediction") == encoder + 768 + 768 * 512 + 512


@pytest.mark.parametrize("name", names())
def test_the_image_size_is_one(name):
    recipe = get(name)
    assert recipe.model["image_size"] == recipe.arguments["image_size"]
    assert config_of(name).image_hw == (recipe.arguments["image_size"],) * 2
