# SPDX-License-Identifier: Apache-2.0
"""One arm with one seed: its model, its images, its training, and the account of it.

It is put together of what `vit-hf pretrain` and `vit-hf finetune` are made of, without what those
leave for others (card, code, image processor): a study has many small models, and serves none.
"""

import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import PrinterCallback, ResNetConfig, ResNetForImageClassification, set_seed

from ..data import ImageCollator, ImageDataset, ImageTransform, MaskedPatchCollator
from ..evaluation import StreamingAccuracy, evaluate_few_shot, top_classes
from ..experiment.arguments import ModelArguments, TrainingDataArguments
from ..experiment.inputs import Inputs, batch_augmentation, training_transform
from ..experiment.models import make_model
from ..experiment.results import account, measured
from ..experiment.running import evaluate_splits
from ..hub.results import Metric, Run
from ..planning import FORWARDS_PER_STEP
from ..recipes import get
from ..training import VisionTransformerTrainer, VisionTransformerTrainingArguments
from .operations import operations
from .pictures import StudyImages
from .study import Arm

SHOTS = 10  # images of each class that probe what was pre-trained without labels
EVALUATION_BATCH_SIZE = 250
# What the recipes have and the studies leave out: a study counts steps, an arm says its size, and
# transformers' ResNet takes no smoothed labels.
NOT_TAKEN = ("num_train_epochs", "image_size", "label_smoothing")


def train_arm(
    arm: Arm, *, seed: int, images: StudyImages, start: Path | None, folder: Path, settings: dict
) -> Run:
    """Trains an arm, and measures it on the test images.

    Args:
        arm: what to train.
        seed: of the weights, the order, the augmentation, and the share of the images.
        images: of the study.
        start: the folder of the weights that it goes on from.
        folder: where its own weights go.
        settings: for the account.

    Returns:
        The account of the run.
    """
    started = time.perf_counter()
    rows, pictures = images.share(arm.train_fraction, seed=seed)
    is_masked = get(arm.recipe).task == "masked-patch-prediction"
    set_seed(seed)
    model = make_network(arm, start=start, names=None if is_masked else images.class_names)
    data, training = arguments_of(arm, seed=seed, folder=folder)
    inputs = inputs_of(arm, data, pictures, images.pictures["test"], model if is_masked else None)
    trainer = make_trainer(model, inputs, training, is_masked=is_masked)
    trainer.train()
    metrics = evaluate_splits(trainer, inputs)
    if is_masked:
        metrics.append(few_shot_metric(trainer, inputs, labels=rows["label"][:], seed=seed))
    model.save_pretrained(folder)
    num_seen = trainer.state.global_step * trainer.get_total_train_batch_size(trainer.args)
    task = "masked-patch-prediction" if is_masked else "image-classification"
    forward = operations(model.config, image_size=arm.image_size, task=task, in_training=True)
    run = account(
        model_name=arm.name,
        task=task,
        dataset_name=images.name,
        images={"train": rows, "test": images.test},
        seed=seed,
        settings=[],
        metrics=metrics,
        details={
            "place": arm.place,
            "num_parameters": model.num_parameters(),
            "images_seen": num_seen,
            "training_flops": FORWARDS_PER_STEP * forward * num_seen,
        },
        seconds=time.perf_counter() - started,
    )
    return replace(run, settings=settings)


def make_network(arm: Arm, *, start: Path | None, names: list[str] | None) -> Any:
    """Makes an arm's model, with a head for the classes `names`."""
    if arm.architecture == "resnet":
        id2label = dict(enumerate(names or ()))
        label2id = {name: label for label, name in id2label.items()}
        return ResNetForImageClassification(
            ResNetConfig(**arm.model, id2label=id2label, label2id=label2id)
        )
    words = ModelArguments(
        model_name_or_path=None if start is None else str(start),
        image_size=[arm.image_size],
        settings=[f"{name}={json.dumps(value)}" for name, value in arm.model.items()],
        fresh_positions=arm.fresh_positions,
    )
    task = "masked-patch-prediction" if names is None else "image-classification"
    return make_model(words, task=task, names=names)


def arguments_of(
    arm: Arm, *, seed: int, folder: Path
) -> tuple[TrainingDataArguments, VisionTransformerTrainingArguments]:
    """Returns the flags of the recipe and the arm: those of the images, and those of training."""
    merged = {**get(arm.recipe).arguments, **arm.arguments}
    merged = {name: value for name, value in merged.items() if name not in NOT_TAKEN}
    of_data = {item.name for item in fields(TrainingDataArguments)}
    data = TrainingDataArguments(**{name: merged.pop(name) for name in of_data & set(merged)})
    training = VisionTransformerTrainingArguments(
        **merged,
        output_dir=str(folder),
        seed=seed,
        per_device_eval_batch_size=EVALUATION_BATCH_SIZE,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    return data, training


def inputs_of(
    arm: Arm, data: TrainingDataArguments, train: Any, test: Any, masked_model: Any
) -> Inputs:
    """Makes what the trainer takes of pictures that are decoded already."""
    image_hw = (arm.image_size, arm.image_size)
    augmentation = batch_augmentation(data)
    return Inputs(
        train=ImageDataset(train, training_transform(data, image_hw)),
        evaluation={"test": ImageDataset(test, ImageTransform(image_hw, exact_decoding=True))},
        collator=ImageCollator(augmentation)
        if masked_model is None
        else MaskedPatchCollator(masked_model.config, augmentation=augmentation),
    )


def make_trainer(
    model: Any, inputs: Inputs, training: VisionTransformerTrainingArguments, *, is_masked: bool
) -> VisionTransformerTrainer:
    """Makes the trainer of any classifier, a ResNet too, or of a masked patch predictor."""
    training.label_names = ["bool_masked_pos"] if is_masked else ["labels"]
    training.prediction_loss_only = is_masked
    training.batch_eval_metrics = not is_masked
    trainer = VisionTransformerTrainer(
        model=model,
        args=training,
        train_dataset=inputs.train,
        data_collator=inputs.collator,
        compute_metrics=None if is_masked else StreamingAccuracy(),
        preprocess_logits_for_metrics=None if is_masked else top_classes,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def few_shot_metric(
    trainer: VisionTransformerTrainer, inputs: Inputs, *, labels: list[int], seed: int
) -> Metric:
    """Measures a representation that was learned without labels by a few of them (4.1)."""
    test = inputs.evaluation["test"]
    train_loader, test_loader = (
        DataLoader(
            ImageDataset(rows, test.transform),
            batch_size=EVALUATION_BATCH_SIZE,
            collate_fn=ImageCollator(),
        )
        for rows in (inputs.train.rows, test.rows)
    )
    found = evaluate_few_shot(
        trainer.model,
        train_loader,
        test_loader,
        train_labels=labels,
        shots=(SHOTS,),
        seeds=(seed,),
    )
    name = f"few_shot_{SHOTS}_accuracy"
    return measured(name, found[SHOTS][0], split="test", num_images=len(test))
