# SPDX-License-Identifier: Apache-2.0
"""A tiny classifier, its images, and a trainer of them."""

from functools import partial

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, load_dataset

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.data import BatchAugmentation, ImageCollator, ImageDataset, ImageStream, ImageTransform
from vit_hf.training import VisionTransformerTrainer, VisionTransformerTrainingArguments

NUM_LABELS = 4
CONFIG = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": NUM_LABELS,
}
AUGMENTATION = BatchAugmentation(
    flip=True, mixup_alpha=0.8, cutmix_alpha=1.0, erasing_probability=0.25, label_smoothing=0.1
)


@pytest.fixture(scope="session")
def image_set(image_rows):
    """The function `num_images -> datasets.Dataset` as `load_images` gives it."""
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=list("abcd"))})

    def make(num_images: int) -> Dataset:
        rows = [{**row, "label": row["label"] % NUM_LABELS} for row in image_rows(num_images)]
        return Dataset.from_list(rows, features=features)

    return make


@pytest.fixture(scope="session")
def image_shards(image_set, tmp_path_factory):
    """A stream of 60 images in four parquet files."""
    folder = tmp_path_factory.mktemp("shards")
    for index in range(4):
        image_set(60).shard(4, index).to_parquet(folder / f"train-{index}.parquet")
    return load_dataset("parquet", data_dir=str(folder), split="train", streaming=True)


@pytest.fixture
def make_trainer(image_set, image_shards):
    """The function `(folder, *, streaming=False, ...) -> trainer`; further words are its flags."""

    def make(folder, *, streaming=False, config=None, num_images=50, callbacks=(), **flags):
        torch.manual_seed(0)
        settings = {**CONFIG, **(config or {})}
        model = VisionTransformerForImageClassification(VisionTransformerConfig(**settings))
        transform = ImageTransform((16, 16), crop_area=0.3)
        train = ImageDataset(image_set(num_images), transform)
        evaluation = ImageDataset(image_set(10), ImageTransform((16, 16), exact_decoding=True))
        arguments = VisionTransformerTrainingArguments(
            output_dir=str(folder),
            **{
                "per_device_train_batch_size": 4,
                "max_steps": 12,
                "save_steps": 3,
                "logging_steps": 1,
                "learning_rate": 1e-2,
                "disable_tqdm": True,
                "use_cpu": True,
                **flags,
            },
        )
        return VisionTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=partial(ImageStream, image_shards, transform, seed=0)
            if streaming
            else train,
            eval_dataset=evaluation,
            data_collator=ImageCollator(AUGMENTATION),
            callbacks=list(callbacks),
        )

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """The folder of a classifier of 16 pixels."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    settings = VisionTransformerConfig(**CONFIG)
    VisionTransformerForImageClassification(settings).save_pretrained(folder)
    return folder
