# SPDX-License-Identifier: Apache-2.0
"""Train a Vision Transformer from scratch: supervised, or by masked patch prediction without
labels.
"""

from .recipe_defaults import recipe_defaults


def argument_classes() -> list[type]:
    """Returns the dataclasses whose fields are the flags."""
    from ..experiment.arguments import ModelArguments, TaskArguments, TrainingDataArguments
    from ..training import VisionTransformerTrainingArguments

    return [
        ModelArguments,
        TrainingDataArguments,
        TaskArguments,
        VisionTransformerTrainingArguments,
    ]


def defaults(words: list[str]) -> dict:
    """Returns the flags' defaults that the recipe in `words` brings."""
    return recipe_defaults(words, task="pretrain")


def run(model, data, task, training) -> int:
    """Pre-trains; returns the exit status."""
    from ..experiment.pretraining import pretrain

    pretrain(model, data, task, training)
    return 0
