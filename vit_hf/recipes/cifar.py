# SPDX-License-Identifier: Apache-2.0
"""CIFAR-size images: from scratch, masked patch prediction and its fine-tuning, at 32 px.

These numbers are this package's own. They follow DeiT (arXiv 2012.12877, table 9) in what is
regularised and how, at four-pixel patches, so that 32 px give 64 tokens; `-small` is ViT-S/4 for an
accelerator, `-tiny` a model of 0.7 M parameters for a CPU. None of them is a row of a paper.
"""

from .datasets import CIFAR_10
from .recipe import Recipe, Task
from .sizes import SMALL, encoder
from .vit_pretraining import ADAM, COSINE

OURS = "vit_hf's own"
TABLE = "vit_hf's own recipes for CIFAR-size images"
VIT_S4 = {**SMALL, "patch_size": 4, "image_size": 32, "pooling": "gap"}
VIT_96_4 = {**encoder(96, 6, 3, 384), "patch_size": 4, "image_size": 32, "pooling": "gap"}
ADAM_AND_COSINE = {**ADAM, **COSINE, "max_grad_norm": 1.0, "image_size": 32, "flip": True}
STRONG_AUGMENTATION = {
    "crop_area": 0.6,
    "randaugment_operations": 2,
    "randaugment_magnitude": 9.0,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
    "mixing_probability": 1.0,
    "erasing_probability": 0.25,
    "label_smoothing": 0.1,
}


def batch_of(num_images: int) -> dict:
    """The batch, as one device has it and as all have it together."""
    return {
        "per_device_train_batch_size": num_images,
        "gradient_accumulation_steps": 1,
        "total_train_batch_size": num_images,
    }


def own_recipe(
    name: str,
    *,
    task: Task,
    row: str,
    description: str,
    model: dict,
    arguments: dict,
    starts_from: dict | None = None,
    remarks: tuple[str, ...] = (),
) -> Recipe:
    """Says of every number that it is our own."""
    return Recipe(
        name=name,
        task=task,
        table=TABLE,
        row=row,
        description=description,
        model=model,
        arguments=arguments,
        dataset=CIFAR_10,
        starts_from=starts_from,
        notes=dict.fromkeys((*model, *arguments, *(starts_from or {})), OURS),
        remarks=remarks,
    )


def cifar10_scratch_small() -> Recipe:
    """ViT-S/4, long."""
    return own_recipe(
        "cifar10-scratch-small",
        task="pretrain",
        row="scratch, small",
        description="ViT-S/4 from scratch on CIFAR-10 for 600 epochs, aiming at 96 %.",
        model={**VIT_S4, "drop_path_rate": 0.1},
        arguments={
            **ADAM_AND_COSINE,
            **batch_of(1024),
            **STRONG_AUGMENTATION,
            "num_train_epochs": 600,
            "learning_rate": 1e-3,
            "warmup_steps": 0.05,
            "weight_decay": 0.05,
            "ema_decay": 0.9995,
        },
    )


def cifar10_scratch_tiny() -> Recipe:
    """Six layers of width 96, short."""
    return own_recipe(
        "cifar10-scratch-tiny",
        task="pretrain",
        row="scratch, tiny",
        description="A ViT of 0.7 M parameters from scratch on CIFAR-10 for 30 epochs, for a CPU.",
        model=VIT_96_4,
        arguments={
            **ADAM_AND_COSINE,
            **batch_of(128),
            "crop_area": 0.6,
            "label_smoothing": 0.1,
            "num_train_epochs": 30,
            "learning_rate": 1e-3,
            "warmup_steps": 0.1,
            "weight_decay": 0.05,
        },
        remarks=("No mixing and no RandAugment: so short a run does not overfit.",),
    )


def cifar10_masked_patch_prediction_small() -> Recipe:
    """ViT-S/4, to be fine-tuned."""
    return own_recipe(
        "cifar10-masked-patch-prediction-small",
        task="masked-patch-prediction",
        row="masked patch prediction, small",
        description="ViT-S/4 predicts the mean colour of corrupted patches of CIFAR-10.",
        model={
            **VIT_S4,
            "prediction_target": "mean_color",
            "corruption_ratio": 0.5,
            "corruption_mix": [0.8, 0.1, 0.1],
        },
        arguments={
            **ADAM_AND_COSINE,
            **batch_of(1024),
            "crop_area": 0.2,
            "num_train_epochs": 400,
            "learning_rate": 5e-4,
            "warmup_steps": 0.05,
            "weight_decay": 0.05,
        },
        remarks=("Target and corruption are those of Dosovitskiy et al. 2020, appendix B.1.2.",),
    )


def cifar10_masked_patch_prediction_tiny() -> Recipe:
    """Six layers of width 96, to be fine-tuned."""
    return own_recipe(
        "cifar10-masked-patch-prediction-tiny",
        task="masked-patch-prediction",
        row="masked patch prediction, tiny",
        description="A ViT of 0.7 M parameters predicts colours of patches of CIFAR-10; for a CPU.",
        model={
            **VIT_96_4,
            "prediction_target": "mean_color",
            "corruption_ratio": 0.5,
            "corruption_mix": [0.8, 0.1, 0.1],
        },
        arguments={
            **ADAM_AND_COSINE,
            **batch_of(128),
            "crop_area": 0.2,
            "num_train_epochs": 20,
            "learning_rate": 1e-3,
            "warmup_steps": 0.1,
            "weight_decay": 0.05,
        },
        remarks=("Target and corruption are those of Dosovitskiy et al. 2020, appendix B.1.2.",),
    )


def cifar10_finetune() -> Recipe:
    """A pre-trained model of either size."""
    return own_recipe(
        "cifar10-finetune",
        task="finetune",
        row="fine-tuning",
        description="Fine-tuning what masked patch prediction pre-trained on CIFAR-size images.",
        model={"image_size": 32, "drop_path_rate": 0.1},
        arguments={
            **ADAM_AND_COSINE,
            **batch_of(256),
            **STRONG_AUGMENTATION,
            "num_train_epochs": 100,
            "learning_rate": 1e-3,
            "warmup_steps": 0.05,
            "weight_decay": 0.05,
            "layer_decay": 0.75,
        },
        starts_from=VIT_S4,
    )


ROWS = (
    cifar10_scratch_small,
    cifar10_scratch_tiny,
    cifar10_masked_patch_prediction_small,
    cifar10_masked_patch_prediction_tiny,
    cifar10_finetune,
)
