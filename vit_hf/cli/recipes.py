# SPDX-License-Identifier: Apache-2.0
"""The training recipes of the papers: list them, or print one with every number's source, the
command that runs it, the result to expect and what it costs.
"""

import json
from dataclasses import dataclass, field
from itertools import groupby

from ..recipes import RECIPES, Recipe, get

SCRIPTS = {  # verb and, under `accelerate launch`, script
    "pretrain": "pretrain",
    "masked-patch-prediction": "pretrain",
    "finetune": "finetune",
}
EXA, GIGA = 10**18, 10**9


@dataclass
class Arguments:
    """The arguments of `vit-hf recipes`."""

    name: str | None = field(
        init=False,
        default=None,
        metadata={"word": "?", "help": "A recipe to print; without one, all are listed."},
    )
    json: bool = field(
        default=False,
        metadata={"help": "Print JSON, with transformers' argument names as keys."},
    )


def run(arguments: Arguments) -> int:
    """Prints recipes; returns the exit status."""
    if arguments.json:
        chosen = get(arguments.name).to_dict() if arguments.name else all_as_dicts()
        print(json.dumps(chosen, indent=2))
    elif arguments.name:
        print(describe(get(arguments.name)))
    else:
        print(listing())
    return 0


def all_as_dicts() -> list[dict]:
    """Returns every recipe as JSON takes it."""
    return [get(name).to_dict() for name in RECIPES]


def listing() -> str:
    """Returns one line for each recipe, under its table."""
    recipes = [get(name) for name in RECIPES]
    width = max(len(recipe.name) for recipe in recipes)
    paragraphs = []
    for table, rows in groupby(recipes, key=lambda recipe: recipe.table):
        lines = [f"  {recipe.name:{width}}  {recipe.description}" for recipe in rows]
        paragraphs.append("\n".join([table, *lines]))
    paragraphs.append("`vit-hf recipes NAME` prints one with its sources, command and cost.")
    return "\n\n".join(paragraphs)


def describe(recipe: Recipe) -> str:
    """Returns everything there is to say of a recipe."""
    data = recipe.dataset
    classes = f", {data.num_classes:,} classes" if data.num_classes else ""
    results = [
        f"{result.value:g}  {result.metric} [{result.source}]" for result in recipe.expected or ()
    ]
    parts = {
        "source": [recipe.source],
        "data": [f"{data.name}: {data.num_images:,} images{classes} [{data.source}]"],
        "model": settings(recipe.model, recipe),
        "starts from (for the cost; a checkpoint says its own)": settings(
            recipe.starts_from or {}, recipe
        ),
        "arguments": settings(recipe.arguments, recipe),
        "command": [command(recipe, launcher="vit-hf {script}")],
        "on several devices": [command(recipe, launcher="accelerate launch scripts/{script}.py")],
        "expected": results or ["the source states no result"],
        "cost": [cost(recipe)],
        "remarks": list(recipe.remarks),
    }
    paragraphs = [
        "\n".join([name, *(f"  {line}" for line in lines)])
        for name, lines in parts.items()
        if lines
    ]
    return "\n\n".join([f"{recipe.name}\n{recipe.description}", *paragraphs])


def settings(values: dict, recipe: Recipe) -> list[str]:
    """Returns a line for each setting: its name, its value and where that comes from."""
    shown = {name: json.dumps(value) for name, value in values.items()}
    name_width = max(map(len, shown), default=0)
    value_width = max(map(len, shown.values()), default=0)
    return [
        f"{name:{name_width}}  {value:{value_width}}  [{recipe.notes.get(name, 'the row')}]"
        for name, value in shown.items()
    ]


def command(recipe: Recipe, *, launcher: str) -> str:
    """Returns the command that runs a recipe; words in capitals are the user's to fill in."""
    words = [launcher.format(script=SCRIPTS[recipe.task]), f"--recipe {recipe.name}"]
    if recipe.task == "finetune":
        words.append("--model_name_or_path CHECKPOINT")
    words.append(f"--dataset_name {recipe.dataset.hub_id or 'DATASET'}")
    return " ".join([*words, "--output_dir OUTPUT_DIR"])


def cost(recipe: Recipe) -> str:
    """Returns what one run costs, in words."""
    from ..modeling.configuration_vision_transformer import VisionTransformerConfig
    from ..planning import FORWARDS_PER_STEP, forward_flops, images_seen

    config = VisionTransformerConfig(
        **{**(recipe.starts_from or {}), **recipe.model},
        num_labels=recipe.dataset.num_classes or 0,
    )
    masked = recipe.task == "masked-patch-prediction"
    task = "masked-patch-prediction" if masked else "image-classification"
    num_images = images_seen(recipe.arguments, dataset_size=recipe.dataset.num_images)
    one_image = forward_flops(config, task=task, in_training=True)
    total = FORWARDS_PER_STEP * one_image * num_images
    rates = len(recipe.arguments.get("sweep_learning_rates", ()))
    sweep = f"; the sweep of {rates} rates and the final run, {rates + 1} times that" * (rates > 1)
    return (
        f"{total / EXA:.4g} exaFLOPs: {FORWARDS_PER_STEP} x {one_image / GIGA:.4g} GFLOPs forward "
        f"an image x {num_images:,} images seen{sweep}"
    )
