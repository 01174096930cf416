# SPDX-License-Identifier: Apache-2.0
"""Table 4's protocol: learning rates on a dev split, retraining on everything, then the test."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ..data.splits import split_off_validation
from ..hub.results import Run, read_runs
from ..training import VisionTransformerTrainingArguments
from .arguments import ModelArguments, SweepArguments, TrainingDataArguments
from .finetuning import finetune
from .inputs import open_images
from .running import RESULTS, say

DEV_FRACTION = 0.1  # where neither a recipe nor a flag says; the share of table 4's small datasets


def run_sweep(
    model: ModelArguments,
    data: TrainingDataArguments,
    sweep: SweepArguments,
    training: VisionTransformerTrainingArguments,
) -> Run:
    """Sweeps the learning rate, retrains with the best, and reports on the test images.

    Each learning rate has a folder in `OUTPUT_DIR/sweep`; one that is finished is not run again.

    Returns:
        The account of the retrained model, with that of the sweep.
    """
    rates = sweep.sweep_learning_rates
    if not rates:
        raise ValueError(
            "got --sweep without learning rates; give --sweep_learning_rates 0.003 0.01 0.03, or a "
            "recipe of table 4"
        )
    if data.streaming:
        raise ValueError("got --sweep with --streaming, allowed: images in memory")
    fraction = data.validation_fraction or DEV_FRACTION
    whole = open_images(dataclasses.replace(data, validation_fraction=0.0), require_labels=True)
    everything: Any = whole["train"]
    train, dev = split_off_validation(everything, fraction, seed=data.split_seed)
    account = []
    for rate in rates:
        folder = Path(training.output_dir) / "sweep" / f"{rate:g}"
        run = finished(folder)
        if run is None:
            say(f"sweep: learning rate {rate:g}", training)
            arguments = with_learning_rate(training, rate, folder)
            splits = DatasetDict({"train": train, "validation": dev})
            run = finetune(model, data, arguments, images=splits)
        accuracy = next(metric.value for metric in run.metrics if metric.name == "accuracy")
        account.append({"learning_rate": rate, "validation_accuracy": accuracy})
        say(f"sweep: learning rate {rate:g} gave {accuracy:.2%} of {len(dev)} held out", training)
    best = max(account, key=lambda entry: entry["validation_accuracy"])["learning_rate"]
    say(f"sweep: retraining on all {len(everything)} images at {best:g}", training)
    final = with_learning_rate(training, best, Path(training.output_dir))
    final.push_to_hub = training.push_to_hub
    return finetune(model, data, final, images=whole, sweep=account)


def with_learning_rate(training, rate: float, folder: Path):
    """Returns the flags of one run of the sweep."""
    arguments = copy.copy(training)
    arguments.learning_rate, arguments.output_dir = rate, str(folder)
    arguments.push_to_hub = False
    return arguments


def finished(folder: Path) -> Run | None:
    """Returns the account of a run that was finished before."""
    path = folder / RESULTS
    return read_runs(path)[0] if path.is_file() else None
