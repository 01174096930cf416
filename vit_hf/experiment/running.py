# SPDX-License-Identifier: Apache-2.0
"""What every training run does: train from the newest checkpoint, evaluate, export, write, push."""

import contextlib
import copy
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.training_args import OptimizerNames

from ..data import ImageDataset
from ..evaluation import StreamingAccuracy, TopClassesAndLosses
from ..hub import export_checkpoint, push_or_keep
from ..hub.card import refresh_card
from ..hub.results import Metric, Run, write_runs
from ..modeling.setting_errors import nearest
from ..recipes import get
from ..training import VisionTransformerTrainer, VisionTransformerTrainingArguments
from ..training.checkpoints import find_checkpoint
from .arguments import DataArguments, ModelArguments, parse_settings
from .inputs import Inputs
from .results import DIGITS, measured, table_of, write_json

RESULTS = "results.json"
SGD_OPTIONS = ("momentum", "dampening", "weight_decay", "nesterov")  # that transformers passes on
# What a recipe has where it does not say.
UNSAID = {
    "max_steps": None, "num_train_epochs": None, "train_fraction": 1.0, "validation_fraction": 0.0
}  # fmt: skip
HOW_A_BATCH_IS_MADE_UP = ("per_device_train_batch_size", "gradient_accumulation_steps")


def check_output_dir(
    model: ModelArguments, data: DataArguments, training: VisionTransformerTrainingArguments
) -> None:
    """Raises a `ValueError` for an `output_dir` in which a run would overwrite the checkpoint that
    it starts from, add pictures to its own dataset, or leave its checkpoints among another run's.
    """
    folder = Path(training.output_dir).resolve()
    source = Path(model.model_name_or_path or "").expanduser().resolve()
    if model.model_name_or_path and folder in (source, source.parent):
        raise ValueError(
            f"got --output_dir {training.output_dir}, where the checkpoint "
            f"{model.model_name_or_path} lies, which would be overwritten; give another"
        )
    images = Path(data.dataset_name or "").expanduser()
    if data.dataset_name and images.is_dir() and folder.is_relative_to(images.resolve()):
        raise ValueError(
            f"got --output_dir {training.output_dir} within the images of --dataset_name "
            f"{data.dataset_name}, to which it would belong; give a folder outside"
        )
    newest = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if newest and not training.resume_from_checkpoint:
        raise ValueError(
            f"got --output_dir {training.output_dir}, which holds checkpoints of an earlier run, "
            f"the last of them {Path(newest).name}; go on with --resume_from_checkpoint last, give "
            "another --output_dir, or remove them"
        )


def make_trainer(
    model, inputs: Inputs, training: VisionTransformerTrainingArguments, *, image_processor
) -> VisionTransformerTrainer:
    """Makes the trainer of a classifier or a masked patch predictor.

    While it trains it evaluates the validation images where there are any, else the test images.
    """
    check_services(training.report_to)
    check_sgd(training)
    if training.load_best_model_at_end and "validation" not in inputs.evaluation:
        say(
            "the test images choose the best checkpoint, and so flatter it: --validation_fraction "
            "holds others out for that",
            training,
        )
    training = copy.copy(training)
    masked = not hasattr(model, "reset_classifier")
    training.label_names = ["bool_masked_pos"] if masked else ["labels"]
    training.prediction_loss_only = masked
    training.batch_eval_metrics = not masked
    trainer = VisionTransformerTrainer(
        model=model,
        args=training,
        train_dataset=inputs.train,
        eval_dataset=inputs.evaluation.get("validation", inputs.evaluation.get("test")),
        data_collator=inputs.collator,
        processing_class=image_processor,
        compute_metrics=None if masked else StreamingAccuracy(),
        preprocess_logits_for_metrics=None if masked else TopClassesAndLosses(model.config),
    )
    if training.push_to_hub and training.hub_strategy == "every_save":
        trainer.add_callback(PushCheckpoints(trainer))
    return trainer


def check_services(names: Any):
    """Refuses services to report to that there are not, or that are not installed."""
    installed = {*get_available_reporting_integrations(), "flyte"}  # which is part of a machine
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"got --report_to {name}, allowed: none, {', '.join(INTEGRATION_TO_CALLBACK)}."
                f"{nearest(name, INTEGRATION_TO_CALLBACK)}"
            )
        if name not in installed:
            raise ValueError(
                f"got --report_to {name}, which is not installed; install it, or leave it out"
            )


def check_sgd(training: VisionTransformerTrainingArguments):
    """Refuses options of SGD that there are not, which transformers leaves out without a word."""
    if training.optim != OptimizerNames.SGD or not training.optim_args:
        return
    for word in training.optim_args.replace(" ", "").split(","):
        name, equals, _ = word.partition("=")
        if name not in SGD_OPTIONS or not equals:
            allowed = ", ".join(f"{option}=..." for option in SGD_OPTIONS)
            raise ValueError(
                f"got --optim_args {word} for sgd, allowed: {allowed}.{nearest(name, SGD_OPTIONS)}"
            )


def say_what_begins(
    trainer: VisionTransformerTrainer, dataset_name: str | None, *, recipe: str | None
) -> None:
    """Says what is trained on what, how an update's batch is made up, and what there is to know of
    the recipe.
    """
    training, model = trainer.args, trainer.model
    if (Path(training.output_dir) / RESULTS).is_file() and not training.resume_from_checkpoint:
        say(f"{training.output_dir} holds an earlier run, which this one replaces", training)
    height, width = model.config.image_hw
    images = dataset_name or f"{DIGITS}, as there is no --dataset_name"
    say(
        f"{model.num_parameters() / 1e6:.3g} million parameters, {height}x{width} pixels, "
        f"images of {images}",
        training,
    )
    say(
        f"{trainer.get_total_train_batch_size(training)} images an update = "
        f"{training.per_device_train_batch_size} a device x {training.world_size} devices x "
        f"{training.gradient_accumulation_steps} accumulated",
        training,
    )
    size = len(trainer.train_dataset) if isinstance(trainer.train_dataset, ImageDataset) else None
    if size is not None and size < images_an_update(training):
        say(
            f"an update takes more images than the {size} there are to train on, which come again "
            "within it: --total_train_batch_size makes it smaller",
            training,
        )
    for remark in get(recipe).remarks if recipe else ():
        say(f"{recipe}: {remark}", training)


def images_an_update(training: VisionTransformerTrainingArguments) -> int:
    """Returns how many images an update takes, over all devices."""
    return training.train_batch_size * training.world_size * training.gradient_accumulation_steps


def evaluate_splits(trainer: VisionTransformerTrainer, inputs: Inputs) -> list[Metric]:
    """Evaluates every split that is not trained on."""
    metrics = []
    if not inputs.evaluation:
        say(
            "no images were held out to measure on: --validation_fraction 0.1 holds out a tenth",
            trainer.args,
        )
    for split, dataset in inputs.evaluation.items():
        found = trainer.evaluate(dataset, metric_key_prefix=split)
        metrics += metrics_of(found, trainer.model.config, split=split, num_images=len(dataset))
    return metrics


def metrics_of(found: dict[str, float], config, *, split: str, num_images: int) -> list[Metric]:
    """Picks the metrics from what `Trainer.evaluate` found; of five classes, top-5 says nothing."""
    counts = dict.fromkeys(["accuracy", "top5_accuracy"], num_images)
    counts["loss"] = int(found.get(f"{split}_num_decodable", num_images))
    return [
        measured(name, found[f"{split}_{name}"], split=split, num_images=count)
        for name, count in counts.items()
        if f"{split}_{name}" in found and (name != "top5_accuracy" or config.num_labels > 5)
    ]


def train(
    trainer: VisionTransformerTrainer, dataset_name: str | None, *, recipe: str | None
) -> None:
    """Trains, from the checkpoint that the flags ask for, and exports at once what came of it.

    Says what begins, and from which checkpoint. The results of an earlier run, which tell of other
    weights, go.

    Raises:
        ValueError: for a checkpoint that is further than this run would go.
    """
    training = trainer.args
    say_what_begins(trainer, dataset_name, recipe=recipe)
    checkpoint = find_checkpoint(training.resume_from_checkpoint, training.output_dir)
    if checkpoint is not None:
        say(f"resuming from {checkpoint}", training)
    trainer.train(resume_from_checkpoint=checkpoint)
    state = trainer.state
    if state.global_step > state.max_steps:  # nothing was trained
        raise ValueError(
            f"got {checkpoint} of step {state.global_step} to resume from, in a run of "
            f"{state.max_steps} steps; give more --max_steps or --num_train_epochs, an earlier "
            "checkpoint, or another --output_dir for a run of its own"
        )
    model = trainer.exportable_model()  # on every process: it may have to be gathered
    if training.should_save:
        (Path(training.output_dir) / RESULTS).unlink(missing_ok=True)
        export(trainer, model)


def export(trainer: VisionTransformerTrainer, model) -> None:
    """Exports a model of the trainer, with its image processor, to the run's folder."""
    processor: Any = trainer.processing_class
    export_checkpoint(model, Path(trainer.args.output_dir), image_processor=processor)


def phase_of(trainer: VisionTransformerTrainer, name: str) -> dict[str, Any]:
    """Tells a phase of training for the card."""
    training, config = trainer.args, trainer.model.config
    return {
        "name": name,
        "steps": trainer.state.global_step,
        "images an update": trainer.get_total_train_batch_size(training),
        "image size": "x".join(map(str, config.image_hw)),
        "learning rate": training.learning_rate,
        "optimizer": str(getattr(training.optim, "value", training.optim)),
    }


def finish(trainer: VisionTransformerTrainer, run: Run, *, recipe: dict | None) -> Run:
    """Writes the results and the card beside the model, pushes it if asked to, and closes the
    trainer.

    Returns:
        The account of the run.
    """
    if trainer.args.should_save:
        write_out(trainer, run, recipe=recipe)
    trainer.close()
    return run


def write_out(trainer: VisionTransformerTrainer, run: Run, *, recipe: dict | None) -> None:
    """Writes the account of a run to its folder, and pushes that if asked to."""
    training, folder = trainer.args, Path(trainer.args.output_dir)
    write_runs([run], folder / RESULTS)
    if recipe is not None:
        write_json(recipe, folder / "recipe.json")
    if not refresh_card(folder):
        print(f"{folder / 'README.md'} was written by hand and stays as it is", flush=True)
    report(run, folder, what="checkpoint, card, results", num_bad=len(trainer.bad_images.names))
    if training.push_to_hub:
        print(push_folder(folder, training).message, flush=True)


def report(run: Run, folder: Path, *, what: str, num_bad: int) -> None:
    """Prints what came out, and what of it lies in the folder."""
    print(table_of(run.metrics))
    if num_bad:
        images = "1 image" if num_bad == 1 else f"{num_bad} images"
        print(f"{images} could not be decoded: see bad_images.jsonl")
    print(f"{what}: {folder}", flush=True)


def push_folder(folder: Path, training: VisionTransformerTrainingArguments):
    """Pushes a folder as the flags say; never raises, see `push_or_keep`."""
    return push_or_keep(
        folder,
        training.hub_model_id or folder.resolve().name,
        token=training.hub_token,
        private=training.hub_private_repo,
        revision=training.hub_revision,
    )


class PushCheckpoints(TrainerCallback):
    """Pushes each checkpoint when it is whole, ready to be used; training never dies of it."""

    def __init__(self, trainer: VisionTransformerTrainer):
        self.trainer = trainer

    def on_save(self, args: Any, state, control, **kwargs):
        """Exports the model as it is and pushes it."""
        model = self.trainer.exportable_model()
        if args.should_save:
            with contextlib.suppress(OSError):  # a full disk is the checkpoint's matter
                export(self.trainer, model)
            say(push_folder(Path(args.output_dir), args).message, args)


def say(words: str, training) -> None:
    """Prints a line of progress, on the main process alone."""
    if training.process_index == 0:
        print(words, flush=True)


def recipe_of(
    training: VisionTransformerTrainingArguments, model: ModelArguments, *others: Any
) -> dict | None:
    """Returns the recipe that was asked for, and what was changed of it, as it is written beside
    the weights.

    Args:
        training: the flags of training.
        model: those of the model.
        others: the other ones, of data and task.
    """
    if model.recipe is None:
        return None
    recipe = get(model.recipe)
    flags = {
        name: value for part in (training, model, *others) for name, value in vars(part).items()
    }
    flags["total_train_batch_size"] = images_an_update(training)
    of_no_effect = {
        *HOW_A_BATCH_IS_MADE_UP,
        "num_train_epochs" if training.max_steps > 0 else "max_steps",
        "" if flags["validation_fraction"] else "validation_fraction",  # is of the sweep
    }
    wanted = UNSAID | recipe.arguments
    given = {name: flags[name] for name in wanted if name in flags and name not in of_no_effect}
    given |= parse_settings(model.settings, "settings")
    wanted |= recipe.model
    changed = {
        name: getattr(value, "value", value)  # an enumeration's
        for name, value in given.items()
        if value not in (wanted.get(name), [wanted.get(name)])
    }
    return recipe.to_dict() | {"changed": changed}
