# SPDX-License-Identifier: Apache-2.0
"""`--recipe NAME`: a recipe's numbers as the flags' defaults, which any flag given overrides."""

import os

from ..recipes import get


def recipe_defaults(given: dict, *, task: str) -> dict:
    """Returns the defaults of the flags for the recipe among those given; none without one.

    The recipe's effective batch is kept on any number of devices: what is missing is accumulated.

    Args:
        given: the flags of the command line, with their values.
        task: "pretrain" or "finetune": what the verb does.

    Raises:
        ValueError: for an unknown recipe, or one of another task.
    """
    name = given.get("recipe")
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
    if not given.get("sweep"):
        defaults.pop("validation_fraction", None)  # is what the sweep holds out
    if "num_train_epochs" in given:
        defaults.pop("max_steps", None)  # which the trainer takes in its place
    if recipe.task == "masked-patch-prediction":
        defaults["task"] = recipe.task
    return defaults | batch_defaults(defaults, given)


def batch_defaults(defaults: dict, given: dict) -> dict:
    """Returns the batch of a device and the accumulation that make up the recipe's batch."""
    from ..training.arguments import default_batch_size

    if "gradient_accumulation_steps" in given:
        return {"total_train_batch_size": None}  # the flags say how the batch is made up
    if "per_device_train_batch_size" in given:
        return {}
    total = given.get("total_train_batch_size", defaults["total_train_batch_size"])
    num_devices = int(os.environ.get("WORLD_SIZE", "1"))  # as accelerate launch sets it
    size = default_batch_size(total, num_devices=num_devices)
    return {"per_device_train_batch_size": size}
