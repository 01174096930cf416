# SPDX-License-Identifier: Apache-2.0
"""Recipes: one function per row of a paper's table, numbers with a citation and no logic.

`RECIPES` holds the functions by name, `names()` lists them, `get(name)` makes one.
"""

import copy
import difflib
from collections.abc import Callable

from . import (
    augreg_finetuning,
    augreg_on_imagenet,
    augreg_on_imagenet21k,
    cifar,
    deit,
    masked_patch_prediction,
    vit_finetuning,
    vit_on_imagenet,
    vit_on_imagenet21k,
    vit_on_jft,
)
from .recipe import Dataset, Recipe, Result

RECIPES: dict[str, Callable[[], Recipe]] = {
    row.__name__.replace("_", "-"): row
    for table in (
        vit_on_jft,
        vit_on_imagenet21k,
        vit_on_imagenet,
        vit_finetuning,
        masked_patch_prediction,
        augreg_on_imagenet21k,
        augreg_on_imagenet,
        augreg_finetuning,
        deit,
        cifar,
    )
    for row in table.ROWS
}


def names() -> list[str]:
    """Returns the names of all recipes, paper by paper."""
    return list(RECIPES)


def get(name: str) -> Recipe:
    """Returns a recipe, whose dictionaries are the caller's own.

    Raises:
        ValueError: for a name that is no recipe, with the nearest that is.
    """
    if name not in RECIPES:
        nearest = difflib.get_close_matches(name, RECIPES, n=1) or [
            each for each in RECIPES if name in each
        ]
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(
            f"got the recipe {name!r}, which there is not.{hint} `vit-hf recipes` lists them"
        )
    return copy.deepcopy(RECIPES[name]())


__all__ = ["RECIPES", "Dataset", "Recipe", "Result", "get", "names"]
