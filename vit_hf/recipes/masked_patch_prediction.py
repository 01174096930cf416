# SPDX-License-Identifier: Apache-2.0
"""Masked patch prediction: self-supervised pre-training with Adam, one million steps.

Dosovitskiy et al., 2020 (arXiv 2010.11929), appendix B.1.2. Its fine-tuning is table 4's ImageNet
row, `vit-finetune-imagenet`.
"""

from .datasets import JFT_300M
from .recipe import Recipe, Result
from .sizes import VIT_B16
from .vit_pretraining import ADAM, COSINE, INCEPTION_CROP_AND_FLIP, REMARKS, SIZE_NOTES

TABLE = "Dosovitskiy et al. 2020 (arXiv 2010.11929), appendix B.1.2"


def vit_b16_masked_patch_prediction() -> Recipe:
    """ViT-B/16, the mean 3-bit colour of each corrupted patch."""
    return Recipe(
        name="vit-b16-masked-patch-prediction",
        task="masked-patch-prediction",
        table=TABLE,
        row="target mean 3-bit color",
        description="ViT-B/16 predicts the mean colour of corrupted patches of JFT-300M.",
        model={
            **VIT_B16,
            "image_size": 224,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_dropout_prob": 0.0,
            "prediction_target": "mean_color",
            "corruption_ratio": 0.5,
            "corruption_mix": [0.8, 0.1, 0.1],
        },
        arguments={
            **ADAM,
            **COSINE,
            "learning_rate": 2e-4,
            "weight_decay": 0.1,
            "max_grad_norm": 0.0,
            "warmup_steps": 10_000,
            "max_steps": 1_000_000,
            "per_device_train_batch_size": 4096,
            "gradient_accumulation_steps": 1,
            "total_train_batch_size": 4096,
            "image_size": 224,
            **INCEPTION_CROP_AND_FLIP,
        },
        dataset=JFT_300M,
        expected=(
            Result("ImageNet top-1 after fine-tuning at 384 px (%)", 79.9, "appendix B.1.2"),
        ),
        notes={
            **SIZE_NOTES,
            "optim": "appendix B.1.2: Adam; code: its decay is decoupled",
            "adam_beta1": "section 4.1",
            "adam_beta2": "section 4.1",
            "weight_decay": "section 4.1: 0.1; the appendix does not say",
            "max_grad_norm": "table 3, caption: clipping is for ImageNet alone; 0 is off",
            "hidden_dropout_prob": "table 3, rows of JFT-300M; the appendix does not say",
            "image_size": "table 3, caption",
            "crop_area": "code: vit_jax/input_pipeline.py; the appendix does not say",
            "flip": "code: vit_jax/input_pipeline.py; the appendix does not say",
        },
        remarks=(
            "About 14 epochs; the appendix found little gain past 100,000 steps.",
            "The appendix's other targets are --settings prediction_target=downsampled_color and "
            "prediction_target=raw_pixels, the latter slightly worse; so was "
            "--settings corruption_ratio=0.15.",
            "The loss starts at ln 512 = 6.24.",
            *REMARKS,
        ),
    )


ROWS = (vit_b16_masked_patch_prediction,)
