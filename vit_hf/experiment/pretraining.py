# SPDX-License-Identifier: Apache-2.0
"""Pre-training: supervised (section 4.1, table 3) or by masked patch prediction (B.1.2)."""

import time
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import set_seed

from ..data import ImageCollator, ImageDataset, ImageTransform
from ..hub.results import Run
from ..training import VisionTransformerTrainer, VisionTransformerTrainingArguments
from ..training.few_shot_probe import FewShotProbe
from .arguments import ModelArguments, TaskArguments, TrainingDataArguments
from .inputs import class_names, make_inputs, open_images
from .models import make_image_processor, make_model
from .results import account, called
from .running import (
    check_output_dir,
    evaluate_splits,
    finish,
    make_trainer,
    phase_of,
    recipe_of,
    train,
)


def pretrain(
    model_arguments: ModelArguments,
    data: TrainingDataArguments,
    task: TaskArguments,
    training: VisionTransformerTrainingArguments,
) -> Run:
    """Pre-trains a model and writes it, with its card and results, to `training.output_dir`.

    Returns:
        The account of the run, which `results.json` holds.
    """
    started = time.perf_counter()
    check_output_dir(model_arguments, data, training)
    masked = task.task == "masked-patch-prediction"
    images = open_images(data, require_labels=not masked or task.few_shot_steps > 0)
    names = None if masked else class_names(images)
    set_seed(training.seed)
    model: Any = make_model(model_arguments, task=task.task, names=names)
    inputs = make_inputs(images, data, config=model.config, seed=training.seed, masked=masked)
    processor = make_image_processor(model_arguments, model.config)
    trainer = make_trainer(model, inputs, training, image_processor=processor)
    if task.few_shot_steps:
        trainer.add_callback(few_shot_probe(trainer, images, every_steps=task.few_shot_steps))
    train(trainer, data.dataset_name, recipe=model_arguments.recipe)
    run = account(
        model_name=f"ViT pre-trained on {called(data.dataset_name)}",
        task=task.task,
        dataset_name=data.dataset_name,
        images=images,
        seed=training.seed,
        settings=[model_arguments, data, task],
        recipe=model_arguments.recipe,
        phases=[phase_of(trainer, "pre-training")],
        metrics=evaluate_splits(trainer, inputs),
        details={"num_parameters": model.num_parameters()},
        seconds=time.perf_counter() - started,
    )
    return finish(trainer, run, recipe=recipe_of(training, model_arguments, data, task))


def few_shot_probe(trainer: VisionTransformerTrainer, images, *, every_steps: int) -> FewShotProbe:
    """Makes the paper's own dial of pre-training (4.1): the few-shot accuracy of the features.

    Raises:
        ValueError: for a stream, of whose images a few of each class cannot be chosen.
    """
    if not isinstance(images["train"], Dataset):
        raise ValueError(
            "got --few_shot_steps with --streaming, allowed: images in memory, of which a few of "
            "each class are chosen"
        )
    transform = ImageTransform(trainer.model.config.image_hw, exact_decoding=True)
    train, test = (
        DataLoader(
            ImageDataset(images[split], transform),
            batch_size=trainer.args.per_device_eval_batch_size,
            num_workers=trainer.args.dataloader_num_workers,
            collate_fn=ImageCollator(),
        )
        for split in ("train", "test")
    )
    labels = images["train"]["label"]
    return FewShotProbe(
        train, test, log=trainer.log, every_steps=every_steps, train_labels=labels[:]
    )
