# SPDX-License-Identifier: Apache-2.0
"""The recipes' numbers are those of the papers, whose tables stand here once more."""

import re

import pytest

from vit_hf.recipes import get, names

VIT = "Dosovitskiy et al. 2020 (arXiv 2010.11929), "
STEMS = {"B": "vit-b", "L": "vit-l", "H": "vit-h", "R50+B": "r50-vit-b", "R50+L": "r50-vit-l"}
DATA = {"JFT-300M": "jft300m", "ImageNet-21k": "imagenet21k", "ImageNet": "imagenet"}


def rows_of(table: str) -> list[list[str]]:
    """Returns the cells of a table of lines and bars."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def recipe_name(model: str, data: str) -> str:
    """Returns the recipe's name of a model as the papers write it, "R50+B/16", and its data."""
    size, patch = model.split("/")
    return f"{STEMS[size]}{patch}-{DATA[data]}"


# Models | data | epochs | learning rate | decay | weight decay | dropout
TABLE_3 = """
B/16, B/32         | JFT-300M     | 7    | 8e-4 | linear | 0.1  | 0
L/32               | JFT-300M     | 7    | 6e-4 | linear | 0.1  | 0
L/16               | JFT-300M     | 7/14 | 4e-4 | linear | 0.1  | 0
H/14               | JFT-300M     | 14   | 3e-4 | linear | 0.1  | 0
R50+B/16, R50+B/32 | JFT-300M     | 7    | 8e-4 | linear | 0.1  | 0
R50+L/32           | JFT-300M     | 7    | 2e-4 | linear | 0.1  | 0
R50+L/16           | JFT-300M     | 7/14 | 4e-4 | linear | 0.1  | 0
B/16, B/32         | ImageNet-21k | 90   | 1e-3 | linear | 0.03 | 0.1
L/16, L/32         | ImageNet-21k | 30/90| 1e-3 | linear | 0.03 | 0.1
B/16, B/32, L/16, L/32, H/14 | ImageNet | 300 | 3e-3 | cosine | 0.3 | 0.1
"""


def table_3() -> dict[str, list[str]]:
    """Returns the rows of table 3 by recipe, one epoch count each."""
    found = {}
    for models, data, epochs, *numbers in rows_of(TABLE_3):
        for model in models.split(", "):
            for count in epochs.split("/"):
                suffix = f"-{count}ep" if "/" in epochs else ""
                found[recipe_name(model, data) + suffix] = [model, data, count, *numbers]
    return found


def test_table_3_is_whole():
    assert set(table_3()) == {name for name in names() if get(name).table == f"{VIT}table 3"}


@pytest.mark.parametrize("name", table_3())
def test_table_3(name):
    model, data, epochs, learning_rate, decay, weight_decay, dropout = table_3()[name]
    recipe = get(name)
    arguments = recipe.arguments
    assert recipe.task == "pretrain"
    assert data in recipe.source and recipe.dataset.name == data
    size, patch = model.replace("+", "+ViT-").split("/")
    one_row = size if "+" in model else f"ViT-{size}"
    rows = (f"{one_row}/{patch}", f"{one_row}/{{16,32}}", "ViT-*")
    assert recipe.source in [f"{VIT}table 3, row {row}, {data}" for row in rows]
    assert arguments["num_train_epochs"] == int(epochs)
    assert arguments["learning_rate"] == float(learning_rate)
    assert arguments["weight_decay"] == float(weight_decay)
    assert recipe.model["hidden_dropout_prob"] == float(dropout)
    linear = ("polynomial", {"power": 1.0, "lr_end": 1e-5})
    schedule = (arguments["lr_scheduler_type"], arguments.get("lr_scheduler_kwargs"))
    assert schedule == {"linear": linear, "cosine": ("cosine", None)}[decay]
    assert arguments["per_device_train_batch_size"] == arguments["total_train_batch_size"] == 4096
    assert arguments["gradient_accumulation_steps"] == 1
    assert arguments["warmup_steps"] == 10_000
    assert arguments["image_size"] == 224
    assert (arguments["adam_beta1"], arguments["adam_beta2"]) == (0.9, 0.999)
    assert arguments["max_grad_norm"] == (1.0 if data == "ImageNet" else 0.0)
    assert (arguments["crop_area"], arguments["flip"]) == (0.05, True)
    assert recipe.model["classification_loss"] == "sigmoid"
    assert recipe.model["classifier_bias_init"] == -10
    assert recipe.model["hidden_act"] == "gelu_pytorch_tanh"


def test_sizes_of_the_data():
    sizes = {name: get(name).dataset.num_images for name in table_3()}
    assert {sizes[name] for name in sizes if "jft" in name} == {303_000_000}
    assert {sizes[name] for name in sizes if name.endswith("imagenet")} == {1_281_167}
    assert {round(sizes[name], -5) for name in sizes if "21k" in name} == {14_200_000}


# Data | recipe | steps | rates | rate | development split
TABLE_4 = """
ImageNet           | imagenet | 20000 | .003 .01 .03 .06  | .03 | 0.01
CIFAR-100          | cifar100 | 10000 | .001 .003 .01 .03 | .03 | 0.02
CIFAR-10           | cifar10  | 10000 | .001 .003 .01 .03 | .01 | 0.02
Oxford-IIIT Pets   | pets     | 500   | .001 .003 .01 .03 | .01 | 0.1
Oxford Flowers-102 | flowers  | 500   | .001 .003 .01 .03 | .03 | 0.1
VTAB-1k            | vtab     | 2500  | .01               | .01 |
"""
EXTRAS = {"vit-l16-finetune-imagenet-512": 512, "vit-h14-finetune-imagenet-518": 518}


def table_4() -> dict[str, list[str]]:
    """Returns the rows of table 4 by recipe."""
    return {f"vit-finetune-{name}": [data, *cells] for data, name, *cells in rows_of(TABLE_4)}


def test_tables_4_and_2_are_whole():
    finetuning = {name for name in names() if get(name).table in (f"{VIT}table 4", f"{VIT}table 2")}
    assert finetuning == {*table_4(), *EXTRAS}


@pytest.mark.parametrize("name", table_4())
def test_table_4(name):
    data, steps, rates, rate, split = table_4()[name]
    recipe = get(name)
    arguments = recipe.arguments
    assert recipe.source == f"{VIT}table 4, row {data}"
    assert arguments["max_steps"] == int(steps)
    assert arguments["sweep_learning_rates"] == [float(each) for each in rates.split()]
    assert arguments["learning_rate"] == float(rate) in arguments["sweep_learning_rates"]
    assert arguments.get("validation_fraction") == (float(split) if split else None)
    assert arguments["image_size"] == 384


@pytest.mark.parametrize("name", [*table_4(), *EXTRAS])
def test_table_4_caption(name):
    recipe = get(name)
    arguments = recipe.arguments
    assert recipe.task == "finetune"
    assert (arguments["optim"], arguments["optim_args"]) == ("sgd", "momentum=0.9")
    assert arguments["per_device_train_batch_size"] == arguments["total_train_batch_size"] == 512
    assert arguments["lr_scheduler_type"] == "cosine"
    assert arguments["warmup_steps"] == 500
    assert arguments["weight_decay"] == 0
    assert arguments["max_grad_norm"] == 1
    assert recipe.model["representation_size"] is None
    assert recipe.model["classification_loss"] == "softmax"


@pytest.mark.parametrize("name", EXTRAS)
def test_table_2_extras(name):
    arguments = get(name).arguments
    assert arguments["image_size"] == EXTRAS[name]
    assert arguments["ema_decay"] == 0.9999
    own = ("image_size", "ema_decay")
    as_table_4 = get("vit-finetune-imagenet").arguments
    assert {key: arguments[key] for key in arguments if key not in own} == {
        key: as_table_4[key] for key in as_table_4 if key not in own
    }


# What the papers report, by the recipe: after fine-tuning on ImageNet, table 5 and table 6
REPORTED = """
vit-b16-jft300m | 84.15
vit-b32-jft300m | 80.73
vit-l16-jft300m-7ep | 86.30
vit-l16-jft300m-14ep | 87.12
vit-l32-jft300m | 84.37
vit-h14-jft300m | 88.04 88.08
r50-vit-b32-jft300m | 84.90
r50-vit-b16-jft300m | 85.58
r50-vit-l32-jft300m | 85.68
r50-vit-l16-jft300m-7ep | 86.60
r50-vit-l16-jft300m-14ep |
vit-b16-imagenet21k | 83.97
vit-b32-imagenet21k | 81.28
vit-l16-imagenet21k-30ep |
vit-l16-imagenet21k-90ep | 85.15
vit-l32-imagenet21k-30ep |
vit-l32-imagenet21k-90ep | 80.99
vit-b16-imagenet | 74.79 77.91
vit-b32-imagenet | 69.19 73.38
vit-l16-imagenet | 72.59 76.53
vit-l32-imagenet | 66.90 71.16
vit-h14-imagenet |
vit-finetune-imagenet | 83.97 81.28 85.15 80.99 85.13 \
    88.35 86.63 88.40 85.65 88.70 \
    77.91 73.38 76.53 71.16 83.57 79.56 82.19 77.83
vit-finetune-cifar10 | 98.95 98.79 99.16 99.13 99.27 98.59 98.86 99.02 \
    98.13 97.77 97.86 97.94 99.50 99.42 99.15
vit-finetune-cifar100 | 91.67 91.97 93.44 93.04 93.82 89.17 91.15 92.06 \
    87.13 86.31 86.35 87.07 94.55 93.90 93.25
vit-finetune-pets | 94.43 93.02 94.73 93.09 94.82 93.81 92.04 93.64 91.35 97.56 97.32 94.67
vit-finetune-flowers | 99.38 99.11 99.61 99.19 99.51 89.49 85.43 89.66 86.36 99.68 99.74 99.61
vit-finetune-vtab | 77.63 76.28 72.72
vit-l16-finetune-imagenet-512 | 87.76 90.54 85.30 88.62
vit-h14-finetune-imagenet-518 | 88.55 90.72
vit-b16-masked-patch-prediction | 79.9
deit-ti16-imagenet | 72.2
deit-s16-imagenet | 79.8
deit-b16-imagenet | 81.8
"""


@pytest.mark.parametrize(("name", "values"), rows_of(REPORTED))
def test_expected_results(name, values):
    expected = get(name).expected
    assert [result.value for result in expected or ()] == [float(each) for each in values.split()]
    assert (expected is None) == (not values)
    assert all(
        re.match(r"table \d|appendix B|code: |thread: ", result.source) for result in expected or ()
    )


def test_expected_results_are_whole():
    from_papers = {name for name in names() if not name.startswith(("augreg", "cifar10"))}
    assert from_papers == {name for name, _ in rows_of(REPORTED)}


def test_masked_patch_prediction():
    recipe = get("vit-b16-masked-patch-prediction")
    arguments = recipe.arguments
    assert recipe.task == "masked-patch-prediction" and "B.1.2" in recipe.source
    assert arguments["max_steps"] == 1_000_000
    assert arguments["total_train_batch_size"] == arguments["per_device_train_batch_size"] == 4096
    assert arguments["learning_rate"] == 2e-4
    assert arguments["warmup_steps"] == 10_000
    assert arguments["lr_scheduler_type"] == "cosine"
    assert (arguments["adam_beta1"], arguments["adam_beta2"]) == (0.9, 0.999)
    assert arguments["weight_decay"] == 0.1
    assert recipe.model["prediction_target"] == "mean_color"
    assert recipe.model["corruption_ratio"] == 0.5
    assert recipe.model["corruption_mix"] == [0.8, 0.1, 0.1]
    epochs = 1_000_000 * 4096 / recipe.dataset.num_images
    assert 13 < epochs < 14.5  # "about 14"


# The names of the recommended checkpoints, and what their models reach after fine-tuning
CHECKPOINTS = """
L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0     | l16     | 85.59
B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0     | b16     | 85.49
S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0     | s16     | 83.73
R50_L_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1 | r50-l32 | 85.99
R26_S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0  | r26-s32 | 83.85
Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0      | ti16    | 78.22
B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0      | b32     | 83.59
S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0        | s32     | 79.58
R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0    | r-ti16  | 75.40
"""
# Strength | mixup alpha | RandAugment's operations | its magnitude
STRENGTHS = """
none    | 0   | 0 | 0
light1  | 0   | 2 | 0
light2  | 0.2 | 2 | 10
medium1 | 0.2 | 2 | 15
medium2 | 0.5 | 2 | 15
strong1 | 0.5 | 2 | 20
strong2 | 0.8 | 2 | 20
"""
BEST_ON_IMAGENET = {
    "ti16": "light1",
    "s32": "medium1",
    "s16": "medium2",
    "b32": "medium2",
    "b16": "medium2",
    "l16": "medium2",
}
STRENGTH_OF = {
    **{
        f"augreg-{name}-imagenet21k": re.search(r"aug_(\w+?)-", file)[1]
        for file, name, _ in rows_of(CHECKPOINTS)
    },
    **{f"augreg-{name}-imagenet": strength for name, strength in BEST_ON_IMAGENET.items()},
    **{
        f"augreg-b16-imagenet-regularized-{strength}": strength
        for strength, *_ in rows_of(STRENGTHS)
    },
}


def test_augreg_is_whole():
    finetuning = {"augreg-finetune-imagenet", "augreg-finetune-pets"}
    assert {name for name in names() if name.startswith("augreg")} == {*STRENGTH_OF, *finetuning}


@pytest.mark.parametrize("name", STRENGTH_OF)
def test_augreg_pretraining(name):
    recipe = get(name)
    arguments = recipe.arguments
    strengths = {strength: numbers for strength, *numbers in rows_of(STRENGTHS)}
    assert [
        arguments.get("mixup_alpha", 0),
        arguments.get("randaugment_operations", 0),
        arguments.get("randaugment_magnitude", 0),
    ] == [float(number) for number in strengths[STRENGTH_OF[name]]]
    assert arguments.get("mixing_probability") == (1.0 if arguments.get("mixup_alpha") else None)
    assert "label_smoothing" not in arguments and "cutmix_alpha" not in arguments
    assert arguments["learning_rate"] == 1e-3
    assert arguments["num_train_epochs"] == 300
    assert arguments["total_train_batch_size"] == 4096
    assert arguments["lr_scheduler_type"] == "cosine" and "lr_scheduler_kwargs" not in arguments
    assert arguments["warmup_steps"] == 10_000
    assert arguments["max_grad_norm"] == 1
    assert recipe.model["classification_loss"] == "sigmoid"
    if "21k" not in name:
        assert arguments["weight_decay"] == 0.1
        assert recipe.model["classifier_bias_init"] == -6.9
        regularization = 0.1 if "regularized" in name else 0.0
        assert recipe.model["hidden_dropout_prob"] == regularization
        assert recipe.model["drop_path_rate"] == regularization


@pytest.mark.parametrize(("file", "name", "accuracy"), rows_of(CHECKPOINTS))
def test_augreg_checkpoints(file, name, accuracy):
    recipe = get(f"augreg-{name}-imagenet21k")
    arguments, model = recipe.arguments, recipe.model
    assert f"wd_{arguments['weight_decay']}-" in file
    assert f"do_{model['hidden_dropout_prob']}-sd_{model['drop_path_rate']}" in file
    assert f"{arguments['num_train_epochs']}ep-lr_{arguments['learning_rate']}-" in file
    assert model["classifier_bias_init"] == -10 and model["representation_size"] is None
    assert [result.value for result in recipe.expected] == [float(accuracy)]


def test_augreg_finetuning():
    imagenet, pets = get("augreg-finetune-imagenet"), get("augreg-finetune-pets")
    reported = [result.value for result in imagenet.expected]
    assert reported == [float(accuracy) for *_, accuracy in rows_of(CHECKPOINTS)]
    assert imagenet.arguments["max_steps"] == 20_000
    assert imagenet.arguments["warmup_steps"] == 500
    assert imagenet.arguments["sweep_learning_rates"] == [0.01, 0.03]
    assert pets.arguments["max_steps"] == 500 and pets.arguments["warmup_steps"] == 100
    assert pets.arguments["learning_rate"] == 0.01
    for recipe in (imagenet, pets):
        assert recipe.arguments["total_train_batch_size"] == 512
        assert recipe.arguments["image_size"] == 384
        assert recipe.model["hidden_dropout_prob"] == recipe.model["drop_path_rate"] == 0


# Touvron et al. 2021, table 9, column DeiT-B
TABLE_9 = {
    "num_train_epochs": 300,
    "total_train_batch_size": 1024,
    "optim": "adamw_torch",
    "learning_rate": 0.0005 * 1024 / 512,
    "lr_scheduler_type": "cosine_with_min_lr",
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "randaugment_magnitude": 9,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
    "erasing_probability": 0.25,
    "max_grad_norm": 0,
}


@pytest.mark.parametrize("name", ["deit-ti16-imagenet", "deit-s16-imagenet", "deit-b16-imagenet"])
def test_deit(name):
    recipe = get(name)
    assert "table 9" in recipe.source
    assert {key: recipe.arguments[key] for key in TABLE_9} == TABLE_9
    assert recipe.arguments["warmup_steps"] * 300 == pytest.approx(5)  # epochs
    assert recipe.model["drop_path_rate"] == 0.1
    assert recipe.model["hidden_dropout_prob"] == 0
