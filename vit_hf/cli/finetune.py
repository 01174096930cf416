# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a checkpoint of any format on your images: a fresh zero head, any resolution."""

from .progress import hide_progress_bars
from .recipe_defaults import recipe_defaults


def argument_classes() -> list[type]:
    """Returns the dataclasses whose fields are the flags."""
    from ..experiment.arguments import ModelArguments, SweepArguments, TrainingDataArguments
    from ..training import VisionTransformerTrainingArguments

    return [
        ModelArguments,
        TrainingDataArguments,
        SweepArguments,
        VisionTransformerTrainingArguments,
    ]


def defaults(given: dict) -> dict:
    """Returns the flags' defaults that the recipe in `given` brings."""
    return recipe_defaults(given, task="finetune")


def run(model, data, sweep, training) -> int:
    """Fine-tunes; returns the exit status."""
    from ..experiment.finetuning import finetune
    from ..experiment.sweep import run_sweep

    if model.model_name_or_path is None:
        raise ValueError(
            "got no --model_name_or_path, allowed: a Hub id, a folder or a file to fine-tune from; "
            "`vit-hf pretrain` trains from scratch"
        )
    if training.disable_tqdm:
        hide_progress_bars()
    if sweep.sweep:
        run_sweep(model, data, sweep, training)
    else:
        finetune(model, data, training)
    return 0
