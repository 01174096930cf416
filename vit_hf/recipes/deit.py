# SPDX-License-Identifier: Apache-2.0
"""DeiT: training on ImageNet alone, with strong augmentation and without distillation.

Touvron et al., 2021, "Training data-efficient image transformers & distillation through attention"
(arXiv 2012.12877), table 9; `main.py` of facebookresearch/deit where the table is silent.
"""

from .datasets import IMAGENET
from .recipe import Recipe, Result
from .sizes import BASE, SMALL, TINY
from .vit_pretraining import ADAM

TABLE = "Touvron et al. 2021 (arXiv 2012.12877), table 9"
BATCH, EPOCHS, WARM_UP_EPOCHS = 1024, 300, 5
MODEL = {
    "patch_size": 16,
    "image_size": 224,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "drop_path_rate": 0.1,
    "representation_size": None,
    "classification_loss": "softmax",
}
ARGUMENTS = {
    **ADAM,
    "learning_rate": 5e-4 * BATCH / 512,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr": 1e-5},
    "num_train_epochs": EPOCHS,
    "warmup_steps": WARM_UP_EPOCHS / EPOCHS,
    "weight_decay": 0.05,
    "max_grad_norm": 0.0,
    "per_device_train_batch_size": BATCH,
    "gradient_accumulation_steps": 1,
    "total_train_batch_size": BATCH,
    "image_size": 224,
    "crop_area": 0.08,
    "flip": True,
    "randaugment_operations": 2,
    "randaugment_magnitude": 9.0,
    "randaugment_deviation": 0.5,
    "randaugment_probability": 0.5,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
    "mixing_probability": 1.0,
    "erasing_probability": 0.25,
    "label_smoothing": 0.1,
}
NOTES = {
    **dict.fromkeys(
        ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"), "table 1"
    ),
    "patch_size": "table 1",
    "image_size": "table 1",
    "hidden_act": "code: models.py",
    "representation_size": "code: models.py",
    "classification_loss": "code: main.py: cross-entropy of mixed and smoothed labels",
    "learning_rate": "0.0005 * batch / 512",
    "adam_beta1": "code: main.py",
    "adam_beta2": "code: main.py",
    "lr_scheduler_kwargs": "code: main.py: min_lr",
    "warmup_steps": "5 of 300 epochs, as a share of the steps",
    "max_grad_norm": "no clipping; 0 is off",
    "crop_area": "code: main.py: timm's transforms",
    "flip": "code: main.py: timm's transforms",
    "randaugment_operations": "code: main.py: rand-m9-mstd0.5-inc1",
    "randaugment_magnitude": "the row: 9/0.5, of which 0.5 is the deviation",
    "randaugment_deviation": "the row: 9/0.5",
    "randaugment_probability": "code: main.py: timm's default",
    "mixing_probability": "code: main.py: one of mixup and cutmix for every batch, by turns of 0.5",
}
REMARKS = (
    "Not in it, for want of an argument: repeated augmentation (table 9; main.py: each image three "
    "times), and the initialisation "
    "by a truncated normal.",
    "DeiT's warm-up and decay go by the epoch, from 1e-6; here they go by the step, from 0.",
    "DeiT normalises by ImageNet's mean and deviation and evaluates the central 224 of 256 px.",
)


def deit_row(name: str, encoder: dict, *, model_name: str, accuracy: float) -> Recipe:
    """A model of table 1, trained by table 9."""
    return Recipe(
        name=name,
        task="pretrain",
        table=TABLE,
        row=f"column DeiT-B, for {model_name} of table 1",
        description=f"{model_name} without distillation on ImageNet for 300 epochs at 224 px.",
        model={**encoder, **MODEL},
        arguments=ARGUMENTS,
        dataset=IMAGENET,
        expected=(Result("ImageNet top-1 at 224 px (%)", accuracy, "table 5"),),
        notes=NOTES,
        remarks=REMARKS,
    )


def deit_ti16_imagenet() -> Recipe:
    """DeiT-Ti."""
    return deit_row("deit-ti16-imagenet", TINY, model_name="DeiT-Ti", accuracy=72.2)


def deit_s16_imagenet() -> Recipe:
    """DeiT-S."""
    return deit_row("deit-s16-imagenet", SMALL, model_name="DeiT-S", accuracy=79.8)


def deit_b16_imagenet() -> Recipe:
    """DeiT-B."""
    return deit_row("deit-b16-imagenet", BASE, model_name="DeiT-B", accuracy=81.8)


ROWS = (deit_ti16_imagenet, deit_s16_imagenet, deit_b16_imagenet)
