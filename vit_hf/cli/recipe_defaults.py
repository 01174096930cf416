# SPDX-License-Identifier: Apache-2.0
"""`--recipe NAME`: a recipe's numbers as the flags' defaults, which any flag given overrides."""

import os
from itertools import zip_longest

from ..recipes import get


def recipe_defaults(words: list[str], *, task: str) -> dict:
    """Returns the defaults of the flags for the recipe named in `words`; none without one.

    The recipe's effective batch is kept on any number of devices: what is missing is accumulated.

    Args:
        words: the words of the command line after the verb.
        task: "pretrain" or "finetune": what the verb does.

    Raises:
        ValueError: for an unknown recipe, or one of another task.
    """
    name = value_of("--recipe", words)
    if name is None:
        return {}
    recipe = get(name)
    verb = "finetune" if recipe.task == "finetune" else "pretrain"
    if verb != task:
        raise ValueError(
            f"got --recipe {name}, which is one of `vit-hf {verb}`, for `vit-hf {task}`"
        )
    defaults = dict(recipe.arguments)
    if isinstance(defaults.get("image_size"), int):
        defaults["image_size"] = [defaults["image_size"]]
    if "--sweep" not in words:
        defaults.pop("validation_fraction", None)  # is what the sweep holds out
    if recipe.task == "masked-patch-prediction":
        defaults["task"] = recipe.task
    return defaults | batch_defaults(defaults, words)


def batch_defaults(defaults: dict, words: list[str]) -> dict:
    """Returns the batch of a device and the accumulation that make up the recipe's batch."""
    from ..training.arguments import default_batch_size

    if value_of("--gradient_accumulation_steps", words) is not None:
        return {"total_train_batch_size": None}  # the flags say how the batch is made up
    if value_of("--per_device_train_batch_size", words) is not None:
        return {}
    total = value_of("--total_train_batch_size", words) or defaults["total_train_batch_size"]
    num_devices = int(os.environ.get("WORLD_SIZE", "1"))  # as accelerate launch sets it
    size = default_batch_size(int(total), num_devices=num_devices)
    return {"per_device_train_batch_size": size}


def value_of(flag: str, words: list[str]) -> str | None:
    """Returns the value of a flag in the words of a command line."""
    for word, following in zip_longest(words, words[1:]):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
