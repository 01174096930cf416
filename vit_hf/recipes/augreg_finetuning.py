# SPDX-License-Identifier: Apache-2.0
"""AugReg's fine-tuning: SGD as in table 4 of the paper before, with the authors' later numbers.

Steiner et al., 2021 (arXiv 2106.10270), section 3; `vit_jax/configs/augreg.py` and the names of
the fine-tuned checkpoints in google-research/vision_transformer, `transfer.py` in
google-research/big_vision.
"""

from .augreg import PAPER
from .datasets import IMAGENET, PETS
from .recipe import Recipe, Result
from .sizes import VIT_B16
from .vit_finetuning import EVERY_ROW, MODEL, NOTES
from .vit_pretraining import SIZE_NOTES

README_RESULTS = {
    "L/16": 85.59,
    "B/16": 85.49,
    "S/16": 83.73,
    "R50+L/32": 85.99,
    "R26+S/32": 83.85,
    "Ti/16": 78.22,
    "B/32": 83.59,
    "S/32": 79.58,
    "R+Ti/16": 75.40,
}
AUGREG_NOTES = {
    **NOTES,
    **dict.fromkeys(SIZE_NOTES, "code: vit_jax/configs/models.py"),
    **dict.fromkeys(
        (
            "optim",
            "lr_scheduler_type",
            "weight_decay",
            "max_grad_norm",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "total_train_batch_size",
        ),
        "section 3; code: vit_jax/train.py and vit_jax/configs/common.py",
    ),
    "image_size": "code: vit_jax/configs/augreg.py",
    "hidden_dropout_prob": "code: vit_jax/configs/augreg.py",
    "drop_path_rate": "code: vit_jax/configs/augreg.py, no AugReg during fine-tuning",
    "representation_size": "code: vit_jax/configs/models.py",
    "classifier_bias_init": "a fresh head of zeros",
}


def augreg_finetune_imagenet() -> Recipe:
    """ImageNet, 20,000 steps."""
    return Recipe(
        name="augreg-finetune-imagenet",
        task="finetune",
        table=f"{PAPER}, fine-tuned checkpoints in the authors' README",
        row="rows imagenet2012 at 384 px",
        description="Fine-tuning an AugReg model on ImageNet for 20,000 steps at 384 px.",
        model={**MODEL, "image_size": 384, "drop_path_rate": 0.0},
        arguments={
            **EVERY_ROW,
            "image_size": 384,
            "max_steps": 20_000,
            "learning_rate": 0.03,
            "sweep_learning_rates": [0.01, 0.03],
            "validation_fraction": 0.01,
        },
        dataset=IMAGENET,
        expected=tuple(
            Result(f"ImageNet top-1 of {model} (%)", value, "code: README")
            for model, value in README_RESULTS.items()
        ),
        starts_from=VIT_B16,
        notes={
            **AUGREG_NOTES,
            "learning_rate": "the row: 0.03 for B/16, S/16, Ti/16 and R+Ti/16, 0.01 for the others",
            "sweep_learning_rates": "the two that the rows have",
            "warmup_steps": "code: big_vision/configs/transfer.py",
            "validation_fraction": "code: big_vision/configs/transfer.py, train[:99%]",
        },
    )


def augreg_finetune_pets() -> Recipe:
    """Oxford-IIIT Pets, 500 steps."""
    return Recipe(
        name="augreg-finetune-pets",
        task="finetune",
        table=f"{PAPER}, the authors' vit_jax/configs/augreg.py",
        row="example oxford_iiit_pet",
        description="Fine-tuning an AugReg model on Pets, or another small set, for 500 steps.",
        model={**MODEL, "image_size": 384, "drop_path_rate": 0.0},
        arguments={
            **EVERY_ROW,
            "image_size": 384,
            "max_steps": 500,
            "warmup_steps": 100,
            "learning_rate": 0.01,
            "validation_fraction": 0.1,
        },
        dataset=PETS,
        starts_from=VIT_B16,
        notes={
            **AUGREG_NOTES,
            "learning_rate": "code: the example in the file; its default is 0.03",
            "warmup_steps": "code: vit_jax/configs/augreg.py",
            "validation_fraction": "code: the example in the file, train[:90%]",
        },
    )


ROWS = (augreg_finetune_imagenet, augreg_finetune_pets)
