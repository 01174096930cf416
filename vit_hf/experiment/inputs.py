# SPDX-License-Identifier: Apache-2.0
"""From flags to what a trainer takes: images, training and evaluation sets, collators."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from ..data import (
    BatchAugmentation,
    ImageCollator,
    ImageDataset,
    ImageStream,
    ImageTransform,
    MaskedPatchCollator,
    RandAugment,
    load_images,
)
from ..data.splits import share_of_each_class
from .arguments import DataArguments, TrainingDataArguments


@dataclass
class Inputs:
    """What a trainer takes.

    Attributes:
        train: the training set, or the function that makes a stream.
        evaluation: the sets to evaluate, by split.
        collator: samples to batches.
    """

    train: Any
    evaluation: dict[str, ImageDataset]
    collator: Callable


def load_named_images(data: DataArguments, **options: Any) -> Any:
    """Loads the images that the flags name; the options are further ones of `load_images`."""
    return load_images(
        data.dataset_name,
        seed=data.split_seed,
        image_column=data.image_column,
        label_column=data.label_column,
        label_names=data.class_names,
        train_split=data.train_split,
        test_split=data.test_split,
        **options,
    )


def open_images(
    data: TrainingDataArguments, *, require_labels: bool
) -> DatasetDict | IterableDatasetDict:
    """Loads the images to train on, as the flags say."""
    images: Any = load_named_images(
        data,
        validation_fraction=data.validation_fraction,
        streaming=data.streaming,
        require_labels=require_labels,
    )
    for name, rows in images.items():
        if name != "train" and isinstance(rows, IterableDataset):  # evaluation needs its length
            images[name] = Dataset.from_generator(partial(iter, rows), features=rows.features)
    if data.train_fraction < 1:
        if data.streaming:
            raise ValueError(
                "got --train_fraction with --streaming, allowed: one of them; a stream can be "
                "shortened by --max_steps"
            )
        images["train"] = share_of_each_class(
            images["train"], data.train_fraction, seed=data.split_seed
        )
    return images


def class_names(images: DatasetDict | IterableDatasetDict) -> list[str]:
    """Returns the names of the classes."""
    features: Any = images["train"].features
    return features["label"].names


def training_transform(data: TrainingDataArguments, image_hw: tuple[int, int]) -> ImageTransform:
    """Returns what happens to each training image in the workers."""
    randaugment = None
    if data.randaugment_operations:
        randaugment = RandAugment(
            data.randaugment_operations,
            magnitude=data.randaugment_magnitude,
            magnitude_deviation=data.randaugment_deviation,
            operation_probability=data.randaugment_probability,
        )
    crop_area = data.crop_area
    return ImageTransform(
        image_hw,
        crop_area=None if crop_area is None or crop_area >= 1 else crop_area,
        randaugment=randaugment,
        exact_decoding=data.exact_decoding,
    )


def batch_augmentation(data: TrainingDataArguments) -> BatchAugmentation:
    """Returns what happens to each training batch on the device."""
    return BatchAugmentation(
        flip=data.flip,
        mixup_alpha=data.mixup_alpha,
        cutmix_alpha=data.cutmix_alpha,
        mixing_probability=data.mixing_probability,
        erasing_probability=data.erasing_probability,
        label_smoothing=data.label_smoothing,
    )


def make_inputs(images, data: TrainingDataArguments, *, config, seed: int, masked: bool) -> Inputs:
    """Makes training and evaluation sets of images, for a model's configuration.

    Args:
        images: the splits.
        data: the flags.
        config: the model's configuration.
        seed: of the order and the augmentation.
        masked: whether the task is masked patch prediction.
    """
    image_hw, augmentation = config.image_hw, batch_augmentation(data)
    transform = training_transform(data, image_hw)
    train = images["train"]
    exact = ImageTransform(image_hw, exact_decoding=True)
    return Inputs(
        train=ImageDataset(train, transform)
        if isinstance(train, Dataset)
        else partial(ImageStream, train, transform, seed=seed),
        evaluation={
            name: ImageDataset(rows, exact) for name, rows in images.items() if name != "train"
        },
        collator=MaskedPatchCollator(config, augmentation=augmentation)
        if masked
        else ImageCollator(augmentation),
    )
