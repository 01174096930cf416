# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning with SGD at a higher resolution: every row of table 4, and table 2's extras.

Dosovitskiy et al., 2020 (arXiv 2010.11929), table 4, appendix B.1.1 and section 4.1. The learning
rate is swept on a development split, then the model is trained on everything.
"""

from dataclasses import replace

from .datasets import CIFAR_10, CIFAR_100, FLOWERS, IMAGENET, PETS, VTAB
from .recipe import Dataset, Recipe, Result
from .sizes import VIT_B16, VIT_H14, VIT_L16
from .vit_pretraining import COSINE, INCEPTION_CROP_AND_FLIP, SIZE_NOTES

TABLE = "Dosovitskiy et al. 2020 (arXiv 2010.11929), table 4"
TABLE_2 = "Dosovitskiy et al. 2020 (arXiv 2010.11929), table 2"

EVERY_ROW = {  # the caption of the table, section 4.1, the authors' code
    **COSINE,
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "per_device_train_batch_size": 512,
    "gradient_accumulation_steps": 1,
    "total_train_batch_size": 512,
    "warmup_steps": 500,
    **INCEPTION_CROP_AND_FLIP,
}
MODEL = {  # one linear layer in place of the head of pre-training, under the softmax loss
    "representation_size": None,
    "classification_loss": "softmax",
    "classifier_bias_init": 0.0,
    "hidden_dropout_prob": 0.0,
}

CODE = "code: vit_jax/configs/common.py"
NOTES = {
    **SIZE_NOTES,
    "optim": "section 4.1",
    "optim_args": "section 4.1: momentum; code: vit_jax/train.py, 0.9",
    "lr_scheduler_type": "table 4, caption",
    "weight_decay": "table 4, caption",
    "max_grad_norm": "table 4, caption",
    **dict.fromkeys(
        ("per_device_train_batch_size", "gradient_accumulation_steps", "total_train_batch_size"),
        "table 4, caption",
    ),
    "image_size": "table 4, caption",
    "warmup_steps": CODE,
    "learning_rate": f"one of the row's sweep; {CODE}",
    "validation_fraction": "appendix B.1.1: what the sweep holds out",
    "crop_area": "code: vit_jax/input_pipeline.py",
    "flip": "code: vit_jax/input_pipeline.py",
    "representation_size": "section 3.2: the head of pre-training goes",
    "classification_loss": "code: vit_jax/train.py",
    "classifier_bias_init": "section 3.2: a fresh head of zeros",
    "hidden_dropout_prob": "code: README, column dropout=0.0",
}


def table_4_row(
    name: str,
    dataset: Dataset,
    *,
    steps: int,
    arguments: dict,
    expected: tuple[Result, ...],
    notes: dict[str, str] | None = None,
    remarks: tuple[str, ...] = (),
) -> Recipe:
    """Puts a row's own numbers together with those of every row."""
    return Recipe(
        name=name,
        task="finetune",
        table=TABLE,
        row=f"row {dataset.name}",
        description=f"Fine-tuning on {dataset.name} for {steps:,} steps at 384 px.",
        model={**MODEL, "image_size": 384},
        arguments={**EVERY_ROW, "image_size": 384, "max_steps": steps, **arguments},
        dataset=dataset,
        expected=expected,
        starts_from=VIT_B16,
        notes={**NOTES, **(notes or {})},
        remarks=remarks,
    )


def table_2_row(
    name: str, size: dict, *, model_name: str, image_size: int, expected: tuple[Result, ...]
) -> Recipe:
    """The ImageNet row of table 4 at a still higher resolution, with averaged weights."""
    row = vit_finetune_imagenet()
    return replace(
        row,
        name=name,
        table=TABLE_2,
        row=f"row ImageNet, {model_name}",
        description=f"Fine-tuning {model_name} on ImageNet at {image_size} px, weights averaged.",
        model={**row.model, "image_size": image_size},
        arguments={**row.arguments, "image_size": image_size, "ema_decay": 0.9999},
        expected=expected,
        starts_from=size,
        notes={
            **row.notes,
            "max_steps": "table 4, row ImageNet",
            "sweep_learning_rates": "table 4, row ImageNet",
            "image_size": "section 4.1",
            "ema_decay": "section 4.1: Polyak averaging",
        },
    )


def table_2(measured: str, *values: float) -> tuple[Result, ...]:
    """A row of table 2: of H/14 from JFT-300M, L/16 from there, and L/16 from ImageNet-21k."""
    models = ("H/14 from JFT-300M", "L/16 from JFT-300M", "L/16 from ImageNet-21k")
    return tuple(
        Result(f"{measured} ViT-{model} (%)", value, "table 2")
        for model, value in zip(models, values, strict=True)
    )


def table_5(metric: str, *accuracies: float, data: str = "ImageNet-21k") -> tuple[Result, ...]:
    """Accuracies of table 5: of B/16, B/32, L/16, L/32 and, but from ImageNet, H/14, in this order.

    Args:
        metric: the data that it is measured on.
        *accuracies: top-1 in percent.
        data: that the models were pre-trained on.
    """
    models = ("B/16", "B/32", "L/16", "L/32", *(["H/14"] if data != "ImageNet" else []))
    return tuple(
        Result(f"{metric} top-1 of ViT-{model} from {data} (%)", value, "table 5")
        for model, value in zip(models, accuracies, strict=True)
    )


def vit_finetune_imagenet() -> Recipe:
    """ImageNet, 20,000 steps."""
    return table_4_row(
        "vit-finetune-imagenet",
        IMAGENET,
        steps=20_000,
        arguments={
            "learning_rate": 0.03,
            "sweep_learning_rates": [0.003, 0.01, 0.03, 0.06],
            "validation_fraction": 0.01,
        },
        expected=(
            *table_5("ImageNet", 83.97, 81.28, 85.15, 80.99, 85.13),
            *table_5("ImageNet ReaL", 88.35, 86.63, 88.40, 85.65, 88.70),
            *table_5("ImageNet", 77.91, 73.38, 76.53, 71.16, data="ImageNet"),
            *table_5("ImageNet ReaL", 83.57, 79.56, 82.19, 77.83, data="ImageNet"),
        ),
        remarks=("It also fine-tunes what masked patch prediction pre-trained (appendix B.1.2).",),
    )


def vit_finetune_cifar100() -> Recipe:
    """CIFAR-100, 10,000 steps."""
    return table_4_row(
        "vit-finetune-cifar100",
        CIFAR_100,
        steps=10_000,
        arguments={
            "learning_rate": 0.03,
            "sweep_learning_rates": [0.001, 0.003, 0.01, 0.03],
            "validation_fraction": 0.02,
        },
        expected=(
            *table_5("CIFAR-100", 91.67, 91.97, 93.44, 93.04, 93.82),
            Result("CIFAR-100 top-1 of ViT-B/16 after 500 steps (%)", 89.17, "code: README"),
            Result("CIFAR-100 top-1 of ViT-B/16 after 1,000 steps (%)", 91.15, "code: README"),
            Result("CIFAR-100 top-1 of ViT-B/16 after 10,000 steps (%)", 92.06, "code: README"),
            *table_5("CIFAR-100", 87.13, 86.31, 86.35, 87.07, data="ImageNet"),
            *table_2("CIFAR-100 top-1 of", 94.55, 93.90, 93.25),
        ),
    )


def vit_finetune_cifar10() -> Recipe:
    """CIFAR-10, 10,000 steps."""
    return table_4_row(
        "vit-finetune-cifar10",
        CIFAR_10,
        steps=10_000,
        arguments={
            "learning_rate": 0.01,
            "sweep_learning_rates": [0.001, 0.003, 0.01, 0.03],
            "validation_fraction": 0.02,
        },
        expected=(
            *table_5("CIFAR-10", 98.95, 98.79, 99.16, 99.13, 99.27),
            Result("CIFAR-10 top-1 of ViT-B/16 after 500 steps (%)", 98.59, "code: README"),
            Result("CIFAR-10 top-1 of ViT-B/16 after 1,000 steps (%)", 98.86, "code: README"),
            Result("CIFAR-10 top-1 of ViT-B/16 after 10,000 steps (%)", 99.02, "code: README"),
            *table_5("CIFAR-10", 98.13, 97.77, 97.86, 97.94, data="ImageNet"),
            *table_2("CIFAR-10 top-1 of", 99.50, 99.42, 99.15),
        ),
        notes={"learning_rate": "one of the row's sweep; code: vit_jax/configs/vit.py"},
    )


WARM_UP_IS_THE_WHOLE_RUN = (
    "500 of 500 steps are warm-up, so the rate never decays. The authors' later code warms up for "
    "100 of them (big_vision/configs/transfer.py): --warmup_steps 100.",
)


def vit_finetune_pets() -> Recipe:
    """Oxford-IIIT Pets, 500 steps."""
    return table_4_row(
        "vit-finetune-pets",
        PETS,
        steps=500,
        arguments={
            "learning_rate": 0.01,
            "sweep_learning_rates": [0.001, 0.003, 0.01, 0.03],
            "validation_fraction": 0.1,
        },
        expected=(
            *table_5("Pets", 94.43, 93.02, 94.73, 93.09, 94.82),
            *table_5("Pets", 93.81, 92.04, 93.64, 91.35, data="ImageNet"),
            *table_2("Pets top-1 of", 97.56, 97.32, 94.67),
        ),
        notes={"learning_rate": "one of the row's sweep; code: README, its command for Pets"},
        remarks=WARM_UP_IS_THE_WHOLE_RUN,
    )


def vit_finetune_flowers() -> Recipe:
    """Oxford Flowers-102, 500 steps."""
    return table_4_row(
        "vit-finetune-flowers",
        FLOWERS,
        steps=500,
        arguments={
            "learning_rate": 0.03,
            "sweep_learning_rates": [0.001, 0.003, 0.01, 0.03],
            "validation_fraction": 0.1,
        },
        expected=(
            *table_5("Flowers", 99.38, 99.11, 99.61, 99.19, 99.51),
            *table_5("Flowers", 89.49, 85.43, 89.66, 86.36, data="ImageNet"),
            *table_2("Flowers top-1 of", 99.68, 99.74, 99.61),
        ),
        remarks=WARM_UP_IS_THE_WHOLE_RUN,
    )


def vit_finetune_vtab() -> Recipe:
    """Each of VTAB's 19 tasks, 2,500 steps."""
    return table_4_row(
        "vit-finetune-vtab",
        VTAB,
        steps=2500,
        arguments={
            "learning_rate": 0.01,
            "sweep_learning_rates": [0.01],
            "crop_area": None,
            "flip": False,
        },
        expected=table_2("VTAB, mean of the tasks,", 77.63, 76.28, 72.72),
        notes={
            "learning_rate": "the row's only one",
            "crop_area": "appendix B.1.1 refers to BiT; off, as tasks differ in what it destroys",
            "flip": "appendix B.1.1 refers to BiT; off, as tasks differ in what it destroys",
            "image_size": "appendix B.1.1",
        },
    )


def vit_l16_finetune_imagenet_512() -> Recipe:
    """ViT-L/16 on ImageNet at 512 px."""
    return table_2_row(
        "vit-l16-finetune-imagenet-512",
        VIT_L16,
        model_name="ViT-L/16",
        image_size=512,
        expected=(
            Result("ImageNet top-1 from JFT-300M (%)", 87.76, "table 2"),
            Result("ImageNet ReaL top-1 from JFT-300M (%)", 90.54, "table 2"),
            Result("ImageNet top-1 from ImageNet-21k (%)", 85.30, "table 2"),
            Result("ImageNet ReaL top-1 from ImageNet-21k (%)", 88.62, "table 2"),
        ),
    )


def vit_h14_finetune_imagenet_518() -> Recipe:
    """ViT-H/14 on ImageNet at 518 px."""
    return table_2_row(
        "vit-h14-finetune-imagenet-518",
        VIT_H14,
        model_name="ViT-H/14",
        image_size=518,
        expected=(
            Result("ImageNet top-1 from JFT-300M (%)", 88.55, "table 2"),
            Result("ImageNet ReaL top-1 from JFT-300M (%)", 90.72, "table 2"),
        ),
    )


ROWS = (
    vit_finetune_imagenet,
    vit_finetune_cifar100,
    vit_finetune_cifar10,
    vit_finetune_pets,
    vit_finetune_flowers,
    vit_finetune_vtab,
    vit_l16_finetune_imagenet_512,
    vit_h14_finetune_imagenet_518,
)
