# SPDX-License-Identifier: Apache-2.0
"""Pre-training on ImageNet: the row of table 3 with cosine decay, dropout 0.1 and clipping."""

from .datasets import IMAGENET
from .recipe import Recipe, Result
from .sizes import VIT_B16, VIT_B32, VIT_H14, VIT_L16, VIT_L32
from .vit_pretraining import COSINE, THREAD, after_finetuning, table_3_row


def imagenet_row(
    name: str, size: dict, *, model_name: str, expected: tuple[Result, ...] | None
) -> Recipe:
    """The row on ImageNet, for one of its models."""
    return table_3_row(
        name,
        size,
        row="row ViT-*, ImageNet",
        model_name=model_name,
        dataset=IMAGENET,
        epochs=300,
        learning_rate=3e-3,
        schedule=COSINE,
        weight_decay=0.3,
        dropout=0.1,
        max_grad_norm=1.0,
        expected=expected,
    )


def from_scratch(value: float) -> Result:
    """The accuracy at the end of pre-training itself."""
    return Result("ImageNet top-1 at 224 px (%)", value, f"{THREAD}62")


def vit_b16_imagenet() -> Recipe:
    """ViT-B/16, 300 epochs."""
    return imagenet_row(
        "vit-b16-imagenet",
        VIT_B16,
        model_name="ViT-B/16",
        expected=(from_scratch(74.79), after_finetuning(77.91, "table 5")),
    )


def vit_b32_imagenet() -> Recipe:
    """ViT-B/32, 300 epochs."""
    return imagenet_row(
        "vit-b32-imagenet",
        VIT_B32,
        model_name="ViT-B/32",
        expected=(from_scratch(69.19), after_finetuning(73.38, "table 5")),
    )


def vit_l16_imagenet() -> Recipe:
    """ViT-L/16, 300 epochs."""
    return imagenet_row(
        "vit-l16-imagenet",
        VIT_L16,
        model_name="ViT-L/16",
        expected=(from_scratch(72.59), after_finetuning(76.53, "table 5")),
    )


def vit_l32_imagenet() -> Recipe:
    """ViT-L/32, 300 epochs."""
    return imagenet_row(
        "vit-l32-imagenet",
        VIT_L32,
        model_name="ViT-L/32",
        expected=(from_scratch(66.90), after_finetuning(71.16, "table 5")),
    )


def vit_h14_imagenet() -> Recipe:
    """ViT-H/14, 300 epochs."""
    return imagenet_row(
        "vit-h14-imagenet",
        VIT_H14,
        model_name="ViT-H/14",
        expected=None,
    )


ROWS = (
    vit_b16_imagenet,
    vit_b32_imagenet,
    vit_l16_imagenet,
    vit_l32_imagenet,
    vit_h14_imagenet,
)
