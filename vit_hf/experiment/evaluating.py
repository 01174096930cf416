# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a checkpoint: accuracy, probes of its features, accuracy by resolution."""

import difflib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..converters import load_checkpoint
from ..data.dataset import name_of
from ..hub.results import Metric, Run, read_runs, write_runs
from ..modeling.dense import can_pack
from ..training import VisionTransformerTrainingArguments
from ..training.bad_images import FILE, BadImages
from ..training.trainer import leave_process_group_at_exit
from .arguments import DataArguments, EvaluationArguments, as_size
from .classifying import measure_classifier
from .inputs import load_named_images
from .probing import PROBES, measure_probes
from .resolutions import (
    CAPTION,
    draw_resolutions,
    in_order,
    measure_resolutions,
    parse_resolutions,
    resolution_metrics,
)
from .results import account, table_of
from .running import RESULTS
from .subject import Subject

METRICS = ("accuracy", *PROBES)
FIGURE = "resolutions.png"
NUM_WEAKEST = 3  # classes that are printed; results.json has all
# The flags that only mean something beside a metric.
NEEDS = {
    "label_sets": "accuracy", "resolutions": "accuracy", "shots": "few_shot", "seeds": "few_shot",
    "neighbors": "knn", "logistic_c": "logistic",
}  # fmt: skip
HEADLESS = "fine-tune it first: vit-hf finetune, or measure its features: --metrics few_shot knn"


def evaluate(evaluation: EvaluationArguments, data: DataArguments) -> Run:
    """Measures what the flags ask for; writes `results.json`, and the figure where there is one.

    Returns:
        The account of the run, which `results.json` holds.

    Raises:
        ValueError: for flags, a checkpoint or images that do not go together.
    """
    started = time.perf_counter()
    check_flags(evaluation)
    check_output_dir(Path(evaluation.output_dir))
    sizes = parse_resolutions(evaluation.resolutions) if evaluation.resolutions else []
    training = VisionTransformerTrainingArguments(
        output_dir=evaluation.output_dir, use_cpu=evaluation.use_cpu
    )
    subject = open_subject(evaluation, data, training)
    native_hw = subject.model.config.image_hw
    split, device = evaluation.split, describe_device(training.device)
    metrics, unreadable, pictures = [], [], {}
    if "accuracy" in evaluation.metrics:
        found, predictions = measure_classifier(
            subject, split=split, label_sets=evaluation.label_sets
        )
        metrics += found
        unreadable = (~predictions.is_readable).nonzero().flatten().tolist()
    if set(PROBES) & set(evaluation.metrics):
        found, (_, labels) = measure_probes(subject, evaluation)
        metrics += found
        unreadable = (labels < 0).nonzero().flatten().tolist()
    points = []
    if sizes:
        sizes = in_order({*sizes, native_hw})  # what the others are held against
        points = measure_resolutions(subject, sizes, split=split)
    metrics += resolution_metrics(points, split=split, batch_size=subject.batch_size, device=device)
    folder = Path(evaluation.output_dir)
    if points and training.should_save:
        folder.mkdir(parents=True, exist_ok=True)
        figure = draw_resolutions(points, native_hw=native_hw, device=device)
        figure.savefig(folder / FIGURE, dpi=150)
        pictures = {FIGURE: CAPTION}
    run = account(
        model_name=subject.source,
        task=task_of(subject.model),
        dataset_name=data.dataset_name,
        images=subject.images,
        seed=data.split_seed,
        settings=[evaluation, data],
        metrics=metrics,
        pictures=pictures,
        preprocessing=preprocessing_of(subject),
        seconds=time.perf_counter() - started,
    )
    if training.should_save:
        write_out(run, folder, unreadable=names_of(subject.images[split], unreadable))
    leave_process_group_at_exit()
    return run


def check_flags(flags: EvaluationArguments) -> None:
    """Raises a `ValueError` for metrics that are unknown, and flags that would have no effect."""
    unknown = [name for name in flags.metrics if name not in METRICS]
    if unknown or not flags.metrics:
        nearest = difflib.get_close_matches("".join(unknown[:1]), METRICS, n=1)
        raise ValueError(
            f"got --metrics {' '.join(flags.metrics)}, allowed: one or more of {', '.join(METRICS)}"
            + (f". Did you mean {nearest[0]!r}?" if nearest else "")
        )
    for flag, metric in NEEDS.items():
        if getattr(flags, flag) is not None and metric not in flags.metrics:
            raise ValueError(
                f"got --{flag} without --metrics {metric}, so it would have no effect; give "
                f"--metrics {' '.join([*flags.metrics, metric])}, or leave it out"
            )
    if flags.split == "train" and set(PROBES) & set(flags.metrics):
        raise ValueError(
            "got --split train with a probe, which is fitted to the training images; leave out "
            "--split, or measure --metrics accuracy alone"
        )
    for flag in ("shots", "seeds"):
        values = getattr(flags, flag)
        lowest = 1 if flag == "shots" else 0
        if values is not None and (not values or min(values) < lowest or repeats(values)):
            raise ValueError(
                f"got --{flag} {' '.join(map(str, values))}, allowed: different whole numbers, "
                f"{lowest} or more"
            )


def check_output_dir(folder: Path) -> None:
    """Raises a `ValueError` where the results would replace the account of a training."""
    results = folder / RESULTS
    if results.is_file() and any(run.phases for run in read_runs(results)):
        raise ValueError(
            f"got --output_dir {folder}, whose {RESULTS} is the account of a training, from which "
            f"its card is rendered; give another folder, such as {folder}-evaluated"
        )


def repeats(values: Sequence[int]) -> bool:
    """Whether a number stands there twice."""
    return len(set(values)) < len(values)


def open_subject(
    evaluation: EvaluationArguments,
    data: DataArguments,
    training: VisionTransformerTrainingArguments,
) -> Subject:
    """Opens the checkpoint and the images that the flags name.

    Raises:
        ValueError: where accuracy is asked for of a checkpoint that predicts nothing, and where
            there are no images in the split.
    """
    source = evaluation.model_name_or_path
    model: Any = load_checkpoint(source, image_size=as_size(evaluation.image_size, "image_size"))
    has_head = task_of(model) == "image-classification" and can_predict(model.classifier)
    if "accuracy" in evaluation.metrics and not has_head:
        raise ValueError(
            f"got {source}, whose head is zero or was never trained, so it predicts nothing; "
            + HEADLESS
        )
    images = load_named_images(data)
    if evaluation.split not in images:
        raise ValueError(
            f"got --split {evaluation.split}, but the splits are {', '.join(images)}; name one of "
            "the dataset's with --test_split"
        )
    model = model.to(training.device)
    if can_pack(model):
        model.pack_weights()
    return Subject(
        source=source,
        model=model,
        images=images,
        preprocessing=evaluation.preprocessing,
        batch_size=evaluation.per_device_eval_batch_size,
        num_workers=evaluation.dataloader_num_workers,
        autocast=torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None,
        has_bars=not evaluation.disable_tqdm,
    )


def can_predict(classifier: torch.nn.Module) -> bool:
    """Whether a head is one: without classes it is an identity, and fresh it is zero."""
    return any(weights.any() for weights in classifier.parameters())


def task_of(model: Any) -> str:
    """Returns what a model was made for, by its class."""
    if hasattr(model, "reset_classifier"):
        return "image-classification"
    is_masked = hasattr(model, "prediction_head")
    return "masked-patch-prediction" if is_masked else "image-feature-extraction"


def preprocessing_of(subject: Subject) -> dict[str, Any]:
    """Returns what is made of an image, and the type that the model computes in."""
    settings = json.loads(subject.processor().to_json_string())
    dtype = subject.autocast or subject.model.dtype
    return {**settings, "computed_in": str(dtype).removeprefix("torch.")}


def describe_device(device: torch.device) -> str:
    """Returns what the model ran on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    threads = "1 thread" if count == 1 else f"{count} threads"
    return f"CPU with {threads}" if device.type == "cpu" else device.type


def names_of(rows: Any, places: Sequence[int]) -> list[str]:
    """Returns what names the images at some places to people."""
    return [name_of(rows[place], place) for place in places]


def write_out(run: Run, folder: Path, *, unreadable: list[str]) -> None:
    """Writes `results.json` and the names of unreadable images, and prints the numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_runs([run], folder / RESULTS)
    print(table_of(run.metrics))
    for line in remarks(run.metrics):
        print(line)
    if unreadable:
        BadImages(folder, 1.0, None).record(unreadable)
        images = "1 image" if len(unreadable) == 1 else f"{len(unreadable)} images"
        print(f"{images} could not be decoded and count as wrong: see {FILE}")
    figure = " and the figure" if run.pictures else ""
    print(f"results{figure}: {folder}", flush=True)


def remarks(metrics: Sequence[Metric]) -> list[str]:
    """Returns what the table does not tell: how intervals were found, the weakest classes."""
    methods: dict[str, list[str]] = {}
    lines = []
    for metric in metrics:
        if metric.interval_method:
            methods.setdefault(metric.interval_method, []).append(metric.name.replace("_", " "))
        if metric.settings.get("converged") is False:
            lines.append(f"{metric.name}: the solver stopped before it converged")
        parts = sorted((metric.by_class or {}).items(), key=lambda part: part[1]["value"])
        if len(parts) > 1:
            told = [f"{name} {part['value']:.2%}" for name, part in parts[:NUM_WEAKEST]]
            lines.append(f"least accurate of {len(parts)} classes: {', '.join(told)}")
    lines += [f"interval by {how}: {', '.join(names)}" for how, names in methods.items()]
    return lines
