# SPDX-License-Identifier: Apache-2.0
"""AugReg on ImageNet-21k: how the recommended checkpoint of each model was trained.

Steiner et al., 2021 (arXiv 2106.10270), section 4.5 and table 3; the authors' README
(google-research/vision_transformer) lists these checkpoints by names that spell out epochs,
learning rate, strength of augmentation, weight decay, dropout (`do`) and drop path (`sd`).
"""

from .augreg import PAPER, augreg_row
from .datasets import IMAGENET_21K
from .recipe import Recipe, Result
from .sizes import (
    R26_VIT_S32,
    R50_VIT_L32,
    R_VIT_TI16,
    VIT_B16,
    VIT_B32,
    VIT_L16,
    VIT_S16,
    VIT_S32,
    VIT_TI16,
)

TABLE = f"{PAPER}, table 3, column i21k_300"


def checkpoint_row(
    name: str,
    size: dict,
    *,
    model_name: str,
    augmentation: str,
    weight_decay: float,
    regularization: float,
    accuracy: float,
) -> Recipe:
    """A recommended checkpoint: what differs between their names."""
    return augreg_row(
        name,
        size,
        table=TABLE,
        row=f"row {model_name.replace('ViT-', '')}",
        description=f"{model_name} on ImageNet-21k for 300 epochs, augmentation {augmentation}.",
        dataset=IMAGENET_21K,
        augmentation=augmentation,
        weight_decay=weight_decay,
        regularization=regularization,
        representation_size=None,
        classifier_bias_init=-10.0,
        expected=(
            Result("ImageNet top-1 after fine-tuning at 384 px (%)", accuracy, "code: README"),
        ),
        notes={"representation_size": "code: vit_jax/configs/models.py, none"},
        remarks=("The authors hold out 51,200 of the images (vit_i21k.py).",),
    )


def augreg_l16_imagenet21k() -> Recipe:
    """ViT-L/16: L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0."""
    return checkpoint_row(
        "augreg-l16-imagenet21k",
        VIT_L16,
        model_name="ViT-L/16",
        augmentation="strong1",
        weight_decay=0.1,
        regularization=0.0,
        accuracy=85.59,
    )


def augreg_b16_imagenet21k() -> Recipe:
    """ViT-B/16: B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0."""
    return checkpoint_row(
        "augreg-b16-imagenet21k",
        VIT_B16,
        model_name="ViT-B/16",
        augmentation="medium1",
        weight_decay=0.1,
        regularization=0.0,
        accuracy=85.49,
    )


def augreg_s16_imagenet21k() -> Recipe:
    """ViT-S/16: S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0."""
    return checkpoint_row(
        "augreg-s16-imagenet21k",
        VIT_S16,
        model_name="ViT-S/16",
        augmentation="light1",
        weight_decay=0.03,
        regularization=0.0,
        accuracy=83.73,
    )


def augreg_r50_l32_imagenet21k() -> Recipe:
    """R50+ViT-L/32: R50_L_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1."""
    return checkpoint_row(
        "augreg-r50-l32-imagenet21k",
        R50_VIT_L32,
        model_name="R50+ViT-L/32",
        augmentation="medium1",
        weight_decay=0.1,
        regularization=0.1,
        accuracy=85.99,
    )


def augreg_r26_s32_imagenet21k() -> Recipe:
    """R26+ViT-S/32: R26_S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0."""
    return checkpoint_row(
        "augreg-r26-s32-imagenet21k",
        R26_VIT_S32,
        model_name="R26+ViT-S/32",
        augmentation="light1",
        weight_decay=0.1,
        regularization=0.0,
        accuracy=83.85,
    )


def augreg_ti16_imagenet21k() -> Recipe:
    """ViT-Ti/16: Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0."""
    return checkpoint_row(
        "augreg-ti16-imagenet21k",
        VIT_TI16,
        model_name="ViT-Ti/16",
        augmentation="none",
        weight_decay=0.03,
        regularization=0.0,
        accuracy=78.22,
    )


def augreg_b32_imagenet21k() -> Recipe:
    """ViT-B/32: B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0."""
    return checkpoint_row(
        "augreg-b32-imagenet21k",
        VIT_B32,
        model_name="ViT-B/32",
        augmentation="light1",
        weight_decay=0.1,
        regularization=0.0,
        accuracy=83.59,
    )


def augreg_s32_imagenet21k() -> Recipe:
    """ViT-S/32: S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0."""
    return checkpoint_row(
        "augreg-s32-imagenet21k",
        VIT_S32,
        model_name="ViT-S/32",
        augmentation="none",
        weight_decay=0.1,
        regularization=0.0,
        accuracy=79.58,
    )


def augreg_r_ti16_imagenet21k() -> Recipe:
    """R+ViT-Ti/16: R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0."""
    return checkpoint_row(
        "augreg-r-ti16-imagenet21k",
        R_VIT_TI16,
        model_name="R+ViT-Ti/16",
        augmentation="none",
        weight_decay=0.03,
        regularization=0.0,
        accuracy=75.40,
    )


ROWS = (
    augreg_l16_imagenet21k,
    augreg_b16_imagenet21k,
    augreg_s16_imagenet21k,
    augreg_r50_l32_imagenet21k,
    augreg_r26_s32_imagenet21k,
    augreg_ti16_imagenet21k,
    augreg_b32_imagenet21k,
    augreg_s32_imagenet21k,
    augreg_r_ti16_imagenet21k,
)
