# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a checkpoint on images, prepared as its own image processor prepares them."""

import json
import time
from pathlib import Path
from typing import Any

from ..converters import load_checkpoint, load_image_processor
from ..data import ImageCollator, ImageDataset, ProcessorTransform
from ..data.labels import listed
from ..evaluation import StreamingAccuracy, top_classes
from ..hub.results import Run, write_runs
from ..training import VisionTransformerTrainer, VisionTransformerTrainingArguments
from .arguments import DataArguments, EvaluationArguments, as_size
from .inputs import load_named_images
from .results import account
from .running import RESULTS, metrics_of, report


def evaluate(evaluation: EvaluationArguments, data: DataArguments) -> Run:
    """Measures top-1 and top-5 accuracy; writes `results.json` to `evaluation.output_dir`.

    Returns:
        The account of the run, which `results.json` holds.
    """
    started = time.perf_counter()
    source = evaluation.model_name_or_path
    size = as_size(evaluation.image_size, "image_size")
    model: Any = load_checkpoint(source, task="image-classification", image_size=size)
    if not model.classifier.weight.any():
        raise ValueError(
            f"got {source}, whose head is zero or was never trained, so it predicts nothing; "
            "fine-tune it first: vit-hf finetune"
        )
    processor = load_image_processor(source, image_size=size)
    images = load_named_images(data)
    rows = images[evaluation.split]
    labels = classes_of(rows.features["label"].names, model.config.id2label)
    rows = rows.remove_columns("label").add_column("label", [labels[i] for i in rows["label"][:]])
    trainer = VisionTransformerTrainer(
        model=model,
        args=VisionTransformerTrainingArguments(
            output_dir=evaluation.output_dir,
            per_device_eval_batch_size=evaluation.per_device_eval_batch_size,
            dataloader_num_workers=evaluation.dataloader_num_workers,
            use_cpu=evaluation.use_cpu,
            batch_eval_metrics=True,
        ),
        eval_dataset=ImageDataset(rows, ProcessorTransform(processor, model.config.image_hw)),
        data_collator=ImageCollator(),
        compute_metrics=StreamingAccuracy(),
        preprocess_logits_for_metrics=top_classes,
    )
    split = evaluation.split
    found = trainer.evaluate(metric_key_prefix=split)
    run = account(
        model_name=source,
        task="image-classification",
        dataset_name=data.dataset_name,
        images=images,
        seed=data.split_seed,
        settings=[evaluation, data],
        metrics=metrics_of(found, model.config, split=split, num_images=len(rows)),
        details={"preprocessing": json.loads(processor.to_json_string())},
        seconds=time.perf_counter() - started,
    )
    if trainer.args.should_save:
        folder = Path(evaluation.output_dir)
        write_runs([run], folder / RESULTS)
        report(run, folder, what="results", num_bad=len(trainer.bad_images.names))
    trainer.close()
    return run


def classes_of(names: list[str], id2label: dict[int, str]) -> list[int]:
    """Returns the model's class of each class of the dataset, by name.

    Names that the model does not have are an error, except where its classes have no names of
    their own and are as many: then they are taken in order.
    """
    own = {label: index for index, label in id2label.items()}
    if set(names) <= set(own):
        return [own[name] for name in names]
    nameless = all(label == f"LABEL_{index}" for index, label in id2label.items())
    if nameless and len(names) == len(id2label):
        return list(range(len(names)))
    unknown = [name for name in names if name not in own]
    raise ValueError(
        f"got a dataset with {len(names)} classes, of which the model does not know "
        f"{listed(unknown)}; its {len(own)} classes are {listed(list(own))}. "
        "Give a dataset with its classes, or fine-tune it on these"
    )
