# SPDX-License-Identifier: Apache-2.0
"""Pre-training on JFT-300M: the rows of table 3 with linear decay and without dropout."""

from .datasets import JFT_300M
from .recipe import Recipe, Result
from .sizes import (
    R50_VIT_B16,
    R50_VIT_B32,
    R50_VIT_L16,
    R50_VIT_L32,
    VIT_B16,
    VIT_B32,
    VIT_H14,
    VIT_L16,
    VIT_L32,
)
from .vit_pretraining import LINEAR, after_finetuning, table_3_row


def jft_row(
    name: str,
    size: dict,
    *,
    row: str,
    model_name: str,
    epochs: int,
    learning_rate: float,
    expected: tuple[Result, ...] | None,
) -> Recipe:
    """A row on JFT-300M."""
    return table_3_row(
        name,
        size,
        row=f"row {row}, JFT-300M",
        model_name=model_name,
        dataset=JFT_300M,
        epochs=epochs,
        learning_rate=learning_rate,
        schedule=LINEAR,
        weight_decay=0.1,
        dropout=0.0,
        max_grad_norm=0.0,
        expected=expected,
    )


def vit_b16_jft300m() -> Recipe:
    """ViT-B/16, 7 epochs."""
    return jft_row(
        "vit-b16-jft300m",
        VIT_B16,
        row="ViT-B/{16,32}",
        model_name="ViT-B/16",
        epochs=7,
        learning_rate=8e-4,
        expected=(after_finetuning(84.15, "table 5"),),
    )


def vit_b32_jft300m() -> Recipe:
    """ViT-B/32, 7 epochs."""
    return jft_row(
        "vit-b32-jft300m",
        VIT_B32,
        row="ViT-B/{16,32}",
        model_name="ViT-B/32",
        epochs=7,
        learning_rate=8e-4,
        expected=(after_finetuning(80.73, "table 5"),),
    )


def vit_l32_jft300m() -> Recipe:
    """ViT-L/32, 7 epochs."""
    return jft_row(
        "vit-l32-jft300m",
        VIT_L32,
        row="ViT-L/32",
        model_name="ViT-L/32",
        epochs=7,
        learning_rate=6e-4,
        expected=(after_finetuning(84.37, "table 5"),),
    )


def vit_l16_jft300m_7ep() -> Recipe:
    """ViT-L/16, 7 epochs."""
    return jft_row(
        "vit-l16-jft300m-7ep",
        VIT_L16,
        row="ViT-L/16",
        model_name="ViT-L/16",
        epochs=7,
        learning_rate=4e-4,
        expected=(after_finetuning(86.30, "table 6"),),
    )


def vit_l16_jft300m_14ep() -> Recipe:
    """ViT-L/16, 14 epochs."""
    return jft_row(
        "vit-l16-jft300m-14ep",
        VIT_L16,
        row="ViT-L/16",
        model_name="ViT-L/16",
        epochs=14,
        learning_rate=4e-4,
        expected=(after_finetuning(87.12, "table 5"),),
    )


def vit_h14_jft300m() -> Recipe:
    """ViT-H/14, 14 epochs."""
    return jft_row(
        "vit-h14-jft300m",
        VIT_H14,
        row="ViT-H/14",
        model_name="ViT-H/14",
        epochs=14,
        learning_rate=3e-4,
        expected=(after_finetuning(88.04, "table 5"), after_finetuning(88.08, "table 6")),
    )


def r50_vit_b16_jft300m() -> Recipe:
    """R50+ViT-B/16, 7 epochs."""
    return jft_row(
        "r50-vit-b16-jft300m",
        R50_VIT_B16,
        row="R50+ViT-B/{16,32}",
        model_name="R50+ViT-B/16",
        epochs=7,
        learning_rate=8e-4,
        expected=(after_finetuning(85.58, "table 6"),),
    )


def r50_vit_b32_jft300m() -> Recipe:
    """R50+ViT-B/32, 7 epochs."""
    return jft_row(
        "r50-vit-b32-jft300m",
        R50_VIT_B32,
        row="R50+ViT-B/{16,32}",
        model_name="R50+ViT-B/32",
        epochs=7,
        learning_rate=8e-4,
        expected=(after_finetuning(84.90, "table 6"),),
    )


def r50_vit_l32_jft300m() -> Recipe:
    """R50+ViT-L/32, 7 epochs."""
    return jft_row(
        "r50-vit-l32-jft300m",
        R50_VIT_L32,
        row="R50+ViT-L/32",
        model_name="R50+ViT-L/32",
        epochs=7,
        learning_rate=2e-4,
        expected=(after_finetuning(85.68, "table 6"),),
    )


def r50_vit_l16_jft300m_7ep() -> Recipe:
    """R50+ViT-L/16, 7 epochs."""
    return jft_row(
        "r50-vit-l16-jft300m-7ep",
        R50_VIT_L16,
        row="R50+ViT-L/16",
        model_name="R50+ViT-L/16",
        epochs=7,
        learning_rate=4e-4,
        expected=(after_finetuning(86.60, "table 6"),),
    )


def r50_vit_l16_jft300m_14ep() -> Recipe:
    """R50+ViT-L/16, 14 epochs."""
    return jft_row(
        "r50-vit-l16-jft300m-14ep",
        R50_VIT_L16,
        row="R50+ViT-L/16",
        model_name="R50+ViT-L/16",
        epochs=14,
        learning_rate=4e-4,
        expected=None,
    )


ROWS = (
    vit_b16_jft300m,
    vit_b32_jft300m,
    vit_l32_jft300m,
    vit_l16_jft300m_7ep,
    vit_l16_jft300m_14ep,
    vit_h14_jft300m,
    r50_vit_b16_jft300m,
    r50_vit_b32_jft300m,
    r50_vit_l32_jft300m,
    r50_vit_l16_jft300m_7ep,
    r50_vit_l16_jft300m_14ep,
)
