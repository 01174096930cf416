# SPDX-License-Identifier: Apache-2.0
"""AugReg on ImageNet: the best strength of augmentation for each model, and every one for B/16.

Steiner et al., 2021 (arXiv 2106.10270), figure 4, as big_vision's `vit_i1k.py` tabulates it. That
file has neither dropout nor drop path, "which was shown to help" B/32, B/16 and L/16; the rows
named `regularized` have both, 0.1 each.
"""

from .augreg import PAPER, augreg_row
from .datasets import IMAGENET
from .recipe import Recipe, Result
from .sizes import VIT_B16, VIT_B32, VIT_L16, VIT_S16, VIT_S32, VIT_TI16

TABLE = f"{PAPER}, figure 4 as tabulated in big_vision/configs/vit_i1k.py"


def imagenet_row(
    name: str,
    size: dict,
    *,
    model_name: str,
    augmentation: str,
    regularization: float,
    expected: tuple[Result, ...] | None,
) -> Recipe:
    """A model and a strength of augmentation, on ImageNet."""
    with_both = ", dropout and drop path 0.1" if regularization else ""
    return augreg_row(
        name,
        size,
        table=TABLE,
        row=f"{model_name.removeprefix('ViT-')}, {augmentation}{with_both}",
        description=f"{model_name} on ImageNet for 300 epochs, augmentation {augmentation}"
        f"{with_both}.",
        dataset=IMAGENET,
        augmentation=augmentation,
        weight_decay=0.1,
        regularization=regularization,
        representation_size=size["hidden_size"],
        classifier_bias_init=-6.9,
        expected=expected,
        notes={
            "representation_size": "code: vit_i1k.py, rep_size=True",
            "weight_decay": "code: vit_i1k.py, 0.0001 in all, which is 0.1 of the rate",
            "hidden_dropout_prob": "section 3: 0.1 or 0",
            "drop_path_rate": "section 3: 0.1 or 0",
        },
        remarks=("The authors hold out 1 % of the training images (vit_i1k.py).",),
    )


def regularized_row(name: str, *, augmentation: str) -> Recipe:
    """ViT-B/16 with dropout and drop path, at a strength of augmentation."""
    return imagenet_row(
        name,
        VIT_B16,
        model_name="ViT-B/16",
        augmentation=augmentation,
        regularization=0.1,
        expected=None,
    )


def augreg_ti16_imagenet() -> Recipe:
    """ViT-Ti/16, light1."""
    return imagenet_row(
        "augreg-ti16-imagenet",
        VIT_TI16,
        model_name="ViT-Ti/16",
        augmentation="light1",
        regularization=0.0,
        expected=None,
    )


def augreg_s32_imagenet() -> Recipe:
    """ViT-S/32, medium1."""
    return imagenet_row(
        "augreg-s32-imagenet",
        VIT_S32,
        model_name="ViT-S/32",
        augmentation="medium1",
        regularization=0.0,
        expected=None,
    )


def augreg_s16_imagenet() -> Recipe:
    """ViT-S/16, medium2."""
    return imagenet_row(
        "augreg-s16-imagenet",
        VIT_S16,
        model_name="ViT-S/16",
        augmentation="medium2",
        regularization=0.0,
        expected=None,
    )


def augreg_b32_imagenet() -> Recipe:
    """ViT-B/32, medium2."""
    return imagenet_row(
        "augreg-b32-imagenet",
        VIT_B32,
        model_name="ViT-B/32",
        augmentation="medium2",
        regularization=0.0,
        expected=None,
    )


def augreg_b16_imagenet() -> Recipe:
    """ViT-B/16, medium2."""
    return imagenet_row(
        "augreg-b16-imagenet",
        VIT_B16,
        model_name="ViT-B/16",
        augmentation="medium2",
        regularization=0.0,
        expected=(
            Result(
                "ImageNet top-1 at 224 px (%), around", 79.0, "thread: google-research/big_vision#7"
            ),
        ),
    )


def augreg_l16_imagenet() -> Recipe:
    """ViT-L/16, medium2."""
    return imagenet_row(
        "augreg-l16-imagenet",
        VIT_L16,
        model_name="ViT-L/16",
        augmentation="medium2",
        regularization=0.0,
        expected=None,
    )


def augreg_b16_imagenet_regularized_none() -> Recipe:
    """ViT-B/16, none, with dropout and drop path."""
    return regularized_row("augreg-b16-imagenet-regularized-none", augmentation="none")


def augreg_b16_imagenet_regularized_light1() -> Recipe:
    """ViT-B/16, light1, with dropout and drop path."""
    return regularized_row("augreg-b16-imagenet-regularized-light1", augmentation="light1")


def augreg_b16_imagenet_regularized_light2() -> Recipe:
    """ViT-B/16, light2, with dropout and drop path."""
    return regularized_row("augreg-b16-imagenet-regularized-light2", augmentation="light2")


def augreg_b16_imagenet_regularized_medium1() -> Recipe:
    """ViT-B/16, medium1, with dropout and drop path."""
    return regularized_row("augreg-b16-imagenet-regularized-medium1", augmentation="medium1")


def augreg_b16_imagenet_regularized_medium2() -> Recipe:
    """ViT-B/16, medium2, with dropout and drop path."""
    return regularized_row("augreg-b16-imagenet-regularized-medium2", augmentation="medium2")


def augreg_b16_imagenet_regularized_strong1() -> Recipe:
    """ViT-B/16, strong1, with dropout and drop path."""
    return regularized_row("augreg-b16-imagenet-regularized-strong1", augmentation="strong1")


def augreg_b16_imagenet_regularized_strong2() -> Recipe:
    """ViT-B/16, strong2, with dropout and drop path."""
    return regularized_row("augreg-b16-imagenet-regularized-strong2", augmentation="strong2")


ROWS = (
    augreg_ti16_imagenet,
    augreg_s32_imagenet,
    augreg_s16_imagenet,
    augreg_b32_imagenet,
    augreg_b16_imagenet,
    augreg_l16_imagenet,
    augreg_b16_imagenet_regularized_none,
    augreg_b16_imagenet_regularized_light1,
    augreg_b16_imagenet_regularized_light2,
    augreg_b16_imagenet_regularized_medium1,
    augreg_b16_imagenet_regularized_medium2,
    augreg_b16_imagenet_regularized_strong1,
    augreg_b16_imagenet_regularized_strong2,
)
