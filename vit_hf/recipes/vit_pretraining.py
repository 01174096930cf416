# SPDX-License-Identifier: Apache-2.0
"""What the rows of table 3 share: supervised pre-training with Adam, batch 4096, at 224 px.

Dosovitskiy et al., 2020 (arXiv 2010.11929), table 3 with its caption, and section 4.1.
"""

from .recipe import Dataset, Recipe, Result

THREAD = "thread: google-research/vision_transformer#"
TABLE = "Dosovitskiy et al. 2020 (arXiv 2010.11929), table 3"

ADAM = {"optim": "adamw_torch", "adam_beta1": 0.9, "adam_beta2": 0.999}
LINEAR = {
    "lr_scheduler_type": "polynomial",
    "lr_scheduler_kwargs": {"power": 1.0, "lr_end": 1e-5},
}
COSINE = {"lr_scheduler_type": "cosine"}
INCEPTION_CROP_AND_FLIP = {"crop_area": 0.05, "flip": True}
EVERY_ROW = {  # the caption of the table, section 4.1, the authors' code
    **ADAM,
    "per_device_train_batch_size": 4096,
    "gradient_accumulation_steps": 1,
    "total_train_batch_size": 4096,
    "warmup_steps": 10_000,
    "image_size": 224,
    **INCEPTION_CROP_AND_FLIP,
}

SIZE_NOTES = {
    **dict.fromkeys(
        ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"), "table 1"
    ),
    "patch_size": "section 4.1; hybrids: section 3.1",
    "stem_blocks": "section 3.1 and B.1: R50's stage 4 (/32), or its stage 3 with the layers of "
    "stage 4 (/16)",
    "hidden_act": "code: the tanh form of GELU",
}
BATCH_NOTES = dict.fromkeys(
    ("per_device_train_batch_size", "gradient_accumulation_steps", "total_train_batch_size"),
    "table 3, caption",
)
NOTES = {
    **SIZE_NOTES,
    **BATCH_NOTES,
    "warmup_steps": "table 3, caption",
    "image_size": "table 3, caption",
    "max_grad_norm": "table 3, caption: at ImageNet alone; 0 is off",
    "optim": "section 4.1: Adam; code: its decay is decoupled",
    "adam_beta1": "section 4.1",
    "adam_beta2": "section 4.1",
    "lr_scheduler_kwargs": f"{THREAD}2: linear decay ends at 1e-5",
    "crop_area": f"code: vit_jax/input_pipeline.py; {THREAD}34: pre-training has the same",
    "flip": f"code: vit_jax/input_pipeline.py; {THREAD}34: pre-training has the same",
    "representation_size": f"section 3.1: one hidden layer; {THREAD}2: as wide as the model",
    "classification_loss": f"{THREAD}34: sigmoid cross-entropy, summed over the classes",
    "classifier_bias_init": f"{THREAD}2",
}
REMARKS = (
    "The decay is the learning rate times the weight decay, of kernels alone (code; "
    "big_vision's GSAM configuration: effective 0.3 * lr). As an L2 penalty it does not train.",
)


def table_3_row(
    name: str,
    size: dict,
    *,
    row: str,
    model_name: str,
    dataset: Dataset,
    epochs: int,
    learning_rate: float,
    schedule: dict,
    weight_decay: float,
    dropout: float,
    max_grad_norm: float,
    expected: tuple[Result, ...] | None,
) -> Recipe:
    """Puts a row's own numbers together with those of every row."""
    return Recipe(
        name=name,
        task="pretrain",
        table=TABLE,
        row=row,
        description=f"{model_name}, supervised on {dataset.name} for {epochs} epochs at 224 px.",
        model={
            **size,
            "image_size": 224,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_dropout_prob": dropout,
            "representation_size": size["hidden_size"],
            "classification_loss": "sigmoid",
            "classifier_bias_init": -10.0,
        },
        arguments={
            **EVERY_ROW,
            **schedule,
            "num_train_epochs": epochs,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
        },
        dataset=dataset,
        expected=expected,
        notes=NOTES,
        remarks=REMARKS,
    )


def after_finetuning(value: float, source: str) -> Result:
    """The accuracy that the row's model reaches on ImageNet by the fine-tuning of table 4."""
    return Result("ImageNet top-1 after fine-tuning at 384 px (%)", value, source)
