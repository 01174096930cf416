# SPDX-License-Identifier: Apache-2.0
"""Pre-training on ImageNet-21k: the rows of table 3 with linear decay and dropout 0.1."""

from .datasets import IMAGENET_21K
from .recipe import Recipe, Result
from .sizes import VIT_B16, VIT_B32, VIT_L16, VIT_L32
from .vit_pretraining import LINEAR, THREAD, after_finetuning, table_3_row

OF_90_EPOCHS = f"table 5, which does not say the epochs; 90 for the published models, {THREAD}34"


def imagenet21k_row(
    name: str,
    size: dict,
    *,
    row: str,
    model_name: str,
    epochs: int,
    expected: tuple[Result, ...] | None,
) -> Recipe:
    """A row on ImageNet-21k."""
    return table_3_row(
        name,
        size,
        row=f"row {row}, ImageNet-21k",
        model_name=model_name,
        dataset=IMAGENET_21K,
        epochs=epochs,
        learning_rate=1e-3,
        schedule=LINEAR,
        weight_decay=0.03,
        dropout=0.1,
        max_grad_norm=0.0,
        expected=expected,
    )


def vit_b16_imagenet21k() -> Recipe:
    """ViT-B/16, 90 epochs."""
    return imagenet21k_row(
        "vit-b16-imagenet21k",
        VIT_B16,
        row="ViT-B/{16,32}",
        model_name="ViT-B/16",
        epochs=90,
        expected=(after_finetuning(83.97, "table 5"),),
    )


def vit_b32_imagenet21k() -> Recipe:
    """ViT-B/32, 90 epochs."""
    return imagenet21k_row(
        "vit-b32-imagenet21k",
        VIT_B32,
        row="ViT-B/{16,32}",
        model_name="ViT-B/32",
        epochs=90,
        expected=(after_finetuning(81.28, "table 5"),),
    )


def vit_l16_imagenet21k_30ep() -> Recipe:
    """ViT-L/16, 30 epochs."""
    return imagenet21k_row(
        "vit-l16-imagenet21k-30ep",
        VIT_L16,
        row="ViT-L/{16,32}",
        model_name="ViT-L/16",
        epochs=30,
        expected=None,
    )


def vit_l16_imagenet21k_90ep() -> Recipe:
    """ViT-L/16, 90 epochs."""
    return imagenet21k_row(
        "vit-l16-imagenet21k-90ep",
        VIT_L16,
        row="ViT-L/{16,32}",
        model_name="ViT-L/16",
        epochs=90,
        expected=(after_finetuning(85.15, OF_90_EPOCHS),),
    )


def vit_l32_imagenet21k_30ep() -> Recipe:
    """ViT-L/32, 30 epochs."""
    return imagenet21k_row(
        "vit-l32-imagenet21k-30ep",
        VIT_L32,
        row="ViT-L/{16,32}",
        model_name="ViT-L/32",
        epochs=30,
        expected=None,
    )


def vit_l32_imagenet21k_90ep() -> Recipe:
    """ViT-L/32, 90 epochs."""
    return imagenet21k_row(
        "vit-l32-imagenet21k-90ep",
        VIT_L32,
        row="ViT-L/{16,32}",
        model_name="ViT-L/32",
        epochs=90,
        expected=(after_finetuning(80.99, OF_90_EPOCHS),),
    )


ROWS = (
    vit_b16_imagenet21k,
    vit_b32_imagenet21k,
    vit_l16_imagenet21k_30ep,
    vit_l16_imagenet21k_90ep,
    vit_l32_imagenet21k_30ep,
    vit_l32_imagenet21k_90ep,
)
