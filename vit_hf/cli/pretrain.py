# SPDX-License-Identifier: Apache-2.0
"""Train a Vision Transformer from scratch: supervised, or by masked patch prediction without
labels.
"""

from .progress import hide_progress_bars
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


# Without a recipe: transformers' own defaults are for fine-tuning, and learn nothing from scratch.
FROM_SCRATCH = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,  # below 1 it is a share of the steps
    "weight_decay": 0.1,
    "adam_beta2": 0.999,
    "per_device_train_batch_size": 64,
}


def defaults(given: dict) -> dict:
    """Returns the flags' defaults: those of the recipe in `given`, or else for a small model."""
    return recipe_defaults(given, task="pretrain") or FROM_SCRATCH


def run(model, data, task, training) -> int:
    """Pre-trains; returns the exit status."""
    from ..experiment.pretraining import pretrain

    if training.disable_tqdm:
        hide_progress_bars()
    pretrain(model, data, task, training)
    return 0
