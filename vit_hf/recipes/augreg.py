# SPDX-License-Identifier: Apache-2.0
"""What AugReg's pre-training shares: seven strengths of augmentation, and Adam as in table 3.

Steiner et al., 2021, "How to train your ViT?" (arXiv 2106.10270), section 3: batch 4096, cosine
decay after 10,000 steps of warm-up, clipping at 1, Inception crop and flip; dropout and drop path
of 0.1, or neither; weight decay 0.1 or 0.03. `vit_i21k.py` and `vit_i1k.py` are the authors'
configurations in google-research/big_vision.
"""

from .recipe import Dataset, Recipe, Result
from .vit_pretraining import BATCH_NOTES, COSINE, EVERY_ROW, REMARKS, SIZE_NOTES

PAPER = "Steiner et al. 2021 (arXiv 2106.10270)"


def strength(mixup_alpha: float, magnitude: float) -> dict:
    """Mixup, and RandAugment of two operations; the paper's triple without its constant 2."""
    mixup = {"mixup_alpha": mixup_alpha, "mixing_probability": 1.0} if mixup_alpha else {}
    return {
        "randaugment_operations": 2,
        "randaugment_magnitude": magnitude,
        "randaugment_deviation": 0.0,
        "randaugment_probability": 1.0,
        **mixup,
    }


AUGMENTATIONS = {  # section 3 of the paper; MIXUP_DEF and RANDAUG_DEF in vit_i1k.py
    "none": {},
    "light1": strength(0.0, 0.0),  # not nothing: some operations have no strength
    "light2": strength(0.2, 10.0),
    "medium1": strength(0.2, 15.0),
    "medium2": strength(0.5, 15.0),
    "strong1": strength(0.5, 20.0),
    "strong2": strength(0.8, 20.0),
}
NOTES = {
    **dict.fromkeys(SIZE_NOTES, "code: vit_jax/configs/models.py"),
    **dict.fromkeys(BATCH_NOTES, "section 3; code: vit_i21k.py, vit_i1k.py"),
    **dict.fromkeys(
        (
            "optim",
            "adam_beta1",
            "adam_beta2",
            "lr_scheduler_type",
            "warmup_steps",
            "max_grad_norm",
            "image_size",
            "flip",
        ),
        "section 3; code: vit_i21k.py, vit_i1k.py",
    ),
    "crop_area": "code: vit_i21k.py, vit_i1k.py: decode_jpeg_and_inception_crop",
    "randaugment_deviation": "code: every operation has the full magnitude",
    "randaugment_probability": "code: every operation is carried out",
    **dict.fromkeys(
        ("randaugment_operations", "randaugment_magnitude", "mixup_alpha", "mixing_probability"),
        "section 3; code: MIXUP_DEF and RANDAUG_DEF in vit_i1k.py",
    ),
    "classification_loss": "code: vit_i21k.py, vit_i1k.py",
    "classifier_bias_init": "code: vit_i21k.py, vit_i1k.py",
}


def augreg_row(
    name: str,
    size: dict,
    *,
    table: str,
    row: str,
    description: str,
    dataset: Dataset,
    augmentation: str,
    weight_decay: float,
    regularization: float,
    representation_size: int | None,
    classifier_bias_init: float,
    expected: tuple[Result, ...] | None,
    notes: dict[str, str],
    remarks: tuple[str, ...] = (),
) -> Recipe:
    """Puts a row's own numbers together with those of every row; 300 epochs, rate 0.001.

    Args:
        name: of the recipe.
        size: of the model.
        table: the paper, and where in its files the row stands.
        row: the row.
        description: one sentence.
        dataset: the images.
        augmentation: a name of `AUGMENTATIONS`.
        weight_decay: 0.1 or 0.03.
        regularization: rate of dropout and of drop path, 0.1 or 0.
        representation_size: width of the tanh layer before the head, `None` for none.
        classifier_bias_init: bias of the fresh head.
        expected: what the source reports.
        notes: where a setting comes from that is not in the row, beyond those of every row.
        remarks: what else there is to know.
    """
    return Recipe(
        name=name,
        task="pretrain",
        table=table,
        row=row,
        description=description,
        model={
            **size,
            "image_size": 224,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_dropout_prob": regularization,
            "drop_path_rate": regularization,
            "representation_size": representation_size,
            "classification_loss": "sigmoid",
            "classifier_bias_init": classifier_bias_init,
        },
        arguments={
            **EVERY_ROW,
            **COSINE,
            "num_train_epochs": 300,
            "learning_rate": 1e-3,
            "weight_decay": weight_decay,
            "max_grad_norm": 1.0,
            **AUGMENTATIONS[augmentation],
        },
        dataset=dataset,
        expected=expected,
        notes={**NOTES, **notes},
        remarks=(*remarks, *REMARKS),
    )
