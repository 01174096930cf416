# SPDX-License-Identifier: Apache-2.0
"""Table 4's protocol: learning rates on a dev split, retraining on everything, then the test."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ..data.fingerprint import fingerprint
from ..data.splits import split_off_validation
from ..hub.results import Run
from ..training import VisionTransformerTrainingArguments
from ..training.divergence import NonFiniteLoss
from .arguments import ModelArguments, SweepArguments, TrainingDataArguments
from .finetuning import finetune
from .inputs import open_images
from .results import write_json
from .running import HOW_A_BATCH_IS_MADE_UP, images_an_update, say

DEV_FRACTION = 0.1  # where neither a recipe nor a flag says; the share of table 4's small datasets
CANDIDATE = "candidate.json"  # in a learning rate's folder: what was asked for, what came of it
# Flags that do not change what comes of a learning rate, by how they begin.
OF_NO_EFFECT = (
    "output_dir", "learning_rate", "push_to_hub", "hub_", "log", "save_", "eval_",
    "per_device_eval", "dataloader_", "report_to", "run_name", "project", "trackio", "disable_tqdm",
    "resume_from", "dataset_name", "license", *HOW_A_BATCH_IS_MADE_UP,
)  # fmt: skip


def run_sweep(
    model: ModelArguments,
    data: TrainingDataArguments,
    sweep: SweepArguments,
    training: VisionTransformerTrainingArguments,
) -> Run:
    """Sweeps the learning rate, retrains with the best, and reports on the test images.

    Each learning rate has a folder in `OUTPUT_DIR/sweep`; one that is finished is not run again. A
    rate with which training diverges is lost, and the others go on.

    Returns:
        The account of the retrained model, with that of the sweep.

    Raises:
        ValueError: without learning rates, for a stream, and where the folder holds a sweep with
            other flags or images.
        NonFiniteLoss: where every rate is lost.
    """
    if not sweep.sweep_learning_rates:
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
    splits = DatasetDict({"train": train, "validation": dev})
    account = []
    for rate in dict.fromkeys(sweep.sweep_learning_rates):
        folder = Path(training.output_dir) / "sweep" / str(rate)
        arguments = with_learning_rate(training, rate, folder)
        account.append(try_candidate(model, data, arguments, images=splits))
    kept = [entry for entry in account if "lost" not in entry]
    if not kept:
        raise NonFiniteLoss(
            f"got --sweep_learning_rates {' '.join(map(str, sweep.sweep_learning_rates))}, and "
            f"training diverged with each; give smaller ones. {account[0]['lost']}"
        )
    best = max(kept, key=lambda entry: entry["validation_accuracy"])["learning_rate"]
    say(f"sweep: retraining on all {len(everything)} images at {best}", training)
    final = with_learning_rate(training, best, Path(training.output_dir))
    final.push_to_hub = training.push_to_hub
    return finetune(model, data, final, images=whole, sweep=account)


def with_learning_rate(training, rate: float, folder: Path):
    """Returns the flags of one run of the sweep."""
    arguments = copy.copy(training)
    arguments.learning_rate, arguments.output_dir = rate, str(folder)
    arguments.push_to_hub = False
    return arguments


def try_candidate(model, data, training, *, images: DatasetDict) -> dict[str, Any]:
    """Trains with one learning rate, where that was not done before.

    Returns:
        `learning_rate`, and the `validation_accuracy` or why it was `lost`.
    """
    path, name = (
        Path(training.output_dir) / CANDIDATE,
        f"sweep: learning rate {training.learning_rate}",
    )
    asked = what_is_asked(model, data, training, images["train"])
    outcome = finished(path, asked)
    if outcome is None:
        say(name, training)
        outcome = {"learning_rate": training.learning_rate}
        try:
            run = finetune(model, data, training, images=images)
            accuracy = next(metric.value for metric in run.metrics if metric.name == "accuracy")
            outcome["validation_accuracy"] = accuracy
        except NonFiniteLoss as error:
            outcome["lost"] = str(error)
        if training.should_save:
            write_json({"asked": asked, "outcome": outcome}, path)
    if "lost" in outcome:
        say(f"{name} is lost: {outcome['lost']}", training)
    else:
        share, count = outcome["validation_accuracy"], len(images["validation"])
        say(f"{name} gave {share:.2%} of {count} held out", training)
    return outcome


def what_is_asked(model, data, training, train) -> dict[str, Any]:
    """Returns the flags and the images that what comes of a learning rate depends on."""
    flags = dataclasses.asdict(model) | dataclasses.asdict(data)
    flags |= json.loads(training.to_json_string())
    asked = {name: flags[name] for name in flags if not name.startswith(OF_NO_EFFECT)}
    images = {"images": fingerprint(train), "total_train_batch_size": images_an_update(training)}
    return asked | images


def finished(path: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """Returns what came of a learning rate that was tried before; `None` where it was not.

    Raises:
        ValueError: where something else was asked for.
    """
    if not path.is_file():
        return None
    former = json.loads(path.read_text())
    for name, value in asked.items():
        if former["asked"].get(name) != value:
            raise ValueError(
                f"got {name}={value} for a sweep whose folder {path.parent} was made with "
                f"{name}={former['asked'].get(name)}; give another --output_dir, or delete "
                f"{path.parents[1]}"
            )
    return former["outcome"]
