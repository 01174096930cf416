# SPDX-License-Identifier: Apache-2.0
"""Our own folders, opened as foreign checkpoints are: every weight is used or known to be left out,
and none is made up.
"""

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from ..modeling.modeling_vision_transformer import (
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)
from .recognition import Checkpoint

TASKS = {
    "image-classification": VisionTransformerForImageClassification,
    "features": VisionTransformerModel,
    "masked-patch-prediction": VisionTransformerForMaskedPatchPrediction,
}
# What masked patch prediction starts afresh where the checkpoint was made for something else.
FRESH_FOR_MASKED = ("embeddings.mask_token", "prediction_head.weight", "prediction_head.bias")
# What a model has that was saved for another task, by the endings of the names.
FRESH = {
    "image-classification": ("classifier.weight", "classifier.bias"),
    "features": (),
    "masked-patch-prediction": FRESH_FOR_MASKED,
}
REPRESENTATION = "pooler.representation."  # a layer that may be dropped
# Settings with which weights of another shape are made to fit.
CHANGEABLE = ("image_size", "patch_size", "num_labels", "id2label")


@dataclass
class Loaded:
    """A model with the account of its loading: what was recognised, what was changed."""

    model: nn.Module
    format: str
    path: Path
    recognised: str
    changes: list[str] = field(default_factory=list)


def own_task(checkpoint: Checkpoint) -> str:
    """Returns the task that one of our own folders was saved for."""
    architectures = checkpoint.config.get("architectures") or [VisionTransformerModel.__name__]
    return next(
        (name for name, model_class in TASKS.items() if model_class.__name__ in architectures),
        "features",
    )


def load_own(checkpoint: Checkpoint, saved: str, task: str, settings: dict) -> Loaded:
    """Opens one of our own folders, saved for the task `saved`.

    Raises:
        ValueError: for settings, or a `config.json`, that the weights do not fit, and where a head
            is wanted, the checkpoint has none, and its size is not given.
    """
    has_labels = saved == "image-classification" or {"num_labels", "id2label"} & {*settings}
    if task == "image-classification" and not has_labels:
        raise no_head(checkpoint)
    before = VisionTransformerConfig.from_dict(checkpoint.config)
    changed = {name: value for name, value in settings.items() if getattr(before, name) != value}
    try:
        model, loading = TASKS[task].from_pretrained(
            checkpoint.path, output_loading_info=True, **settings
        )
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise unfit(checkpoint, changed, "their shapes are in the report above") from error
    fresh = FRESH[task] if task != saved else ()
    random = [key for key in loading["missing_keys"] if not key.endswith(fresh)]
    lost = [key for key in loading["unexpected_keys"] if REPRESENTATION not in key]
    if random or lost:
        some = ", ".join(sorted(random or lost)[:3])
        raise unfit(checkpoint, changed, f"{'without' if random else 'left over'}: {some}")
    recognised = f"a checkpoint of this package ({type(model).__name__}): {summarise(model.config)}"
    changes = [
        f"Set {name} to {len(value)} names." if name == "id2label" else f"Set {name} to {value}."
        for name, value in changed.items()
    ]
    # A head was trained on what its representation layer gives.
    if task == "image-classification" and (task != saved or loading["unexpected_keys"]):
        model.reset_classifier(id2label=model.config.id2label)
        changes.append(f"Put in a fresh zero head for {model.num_labels} labels.")
    return Loaded(model.eval(), "vit_hf", checkpoint.path, recognised, changes)


def unfit(checkpoint: Checkpoint, changed: dict, why: str) -> ValueError:
    """Returns the error for settings, or a `config.json`, that the weights do not fit."""
    names = [f"{name}={changed[name]!r}" for name in changed if name not in CHANGEABLE]
    return ValueError(
        f"got {', '.join(names) or 'a config.json'}, which the weights of {checkpoint.path} do not "
        f"fit ({why}); allowed: another image size, patch size or other labels. A network of other "
        "dimensions has to begin from scratch"
    )


def no_head(checkpoint: Checkpoint) -> ValueError:
    """Returns the error for a head of an unknown size."""
    return ValueError(
        f"{checkpoint.path}: has no classification head: pass num_labels (or id2label) for a fresh "
        "one, or task='features'"
    )


def summarise(config) -> str:
    """Returns the sizes of a configuration in one line."""
    head = f", {config.num_labels} classes" if config.num_labels else ""
    return (
        f"width {config.hidden_size}, {config.num_hidden_layers} layers, "
        f"{config.num_attention_heads} heads, patch {config.patch_size}, image "
        f"{config.image_size}, pooling {config.pooling}{head}"
    )
