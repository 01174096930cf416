# SPDX-License-Identifier: Apache-2.0
"""transformers' in-tree ViT: `model_type: vit`, with the names of the Hub's files and those of
transformers 5.

`ViTModel`, with or without its tanh pooler (our representation layer on the class token),
`ViTForImageClassification`, and `ViTForMaskedImageModeling` (our prediction of raw pixels).
"""

import re

import torch
from transformers import ViTConfig

from ..modeling.configuration_vision_transformer import as_pair
from .arrays import Arrays
from .rules import POINTWISE, Description, Rule, rename, rule

# The names inside a layer, theirs to ours: of the Hub's files, and of transformers 5 in memory.
LAYER_NAMES = {
    "v4": {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    },
    "v5": {
        name: name
        for name in (
            "attention.q_proj",
            "attention.k_proj",
            "attention.v_proj",
            "attention.o_proj",
            "mlp.fc1",
            "mlp.fc2",
        )
    },
}
LAYERS = {"v4": "encoder.layer", "v5": "layers"}
INTERPOLATION = "bicubic"  # how position tables are resized
# The settings that both configurations have under one name.
SHARED_SETTINGS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "qkv_bias",
)
# The settings of which transformers' ViT has only these values.
HOLDS = {
    "position_embedding": ("learned_1d",),
    "position_embedding_placement": ("stem",),
    "class_token": (True,),
    "num_register_tokens": (0,),
    "pooling": ("cls",),
    "final_norm": ("tokens",),
    "pre_encoder_norm": (False,),
    "qk_norm": (False,),
    "layer_scale_init_value": (None,),
    "patch_bias": (True,),
    "stem_blocks": (None,),
}
DEFAULT_LAYOUT = {"names": "v4", "prefix": "vit."}
REMEMBERS_LAYOUT = False  # whether a model keeps how its checkpoint was spelled
ARCHITECTURES = {
    "features": "ViTModel",
    "image-classification": "ViTForImageClassification",
    "masked-patch-prediction": "ViTForMaskedImageModeling",
}


def rules(config, layout: dict) -> list[Rule]:
    """Returns the rules of transformers' checkpoint of a configuration, of every class there is."""
    prefix, names = layout["prefix"], LAYER_NAMES[layout["names"]]
    patches = "embeddings.patch_embeddings.projection"
    rules = [
        rule(f"{prefix}embeddings.cls_token", "embeddings.cls_token"),
        rule(f"{prefix}embeddings.mask_token", "embeddings.mask_token"),
        rule(f"{prefix}embeddings.position_embeddings", "positions.0.table"),
        *rename({patches: patches, "layernorm": "layernorm"}, theirs=prefix, ours=""),
    ]
    names = {"layernorm_before": "layernorm_before", "layernorm_after": "layernorm_after"} | names
    for i in range(config.num_hidden_layers):
        place = {"theirs": f"{prefix}{LAYERS[layout['names']]}.{i}.", "ours": f"layers.{i}."}
        for theirs, ours in names.items():
            is_input = ours.endswith(("q_proj", "k_proj", "v_proj"))
            endings = ("weight",) if is_input and not config.qkv_bias else ("weight", "bias")
            rules += rename({theirs: ours}, endings=endings, **place)
    if config.representation_size is not None:
        rules += rename({"pooler.dense": "pooler.representation"}, theirs=prefix, ours="")
    if config.num_labels:
        rules += rename({"classifier": "classifier"}, theirs="", ours="")
    rules.append(rule("decoder.0.weight", "prediction_head.weight", form=POINTWISE))
    rules.append(rule("decoder.0.bias", "prediction_head.bias"))
    return rules


def refused(config) -> str | None:
    """Returns what transformers' ViT cannot hold beside the settings of `HOLDS`, or `None`."""
    return None


def refused_by_task(config, task: str) -> str | None:
    """Returns what transformers' class for `task` cannot hold, or `None`."""
    if task == "image-classification" and config.representation_size is not None:
        return (
            f"representation_size={config.representation_size}; allowed: None, as "
            "ViTForImageClassification has no layer before its head. Save model.vit, which becomes "
            "a ViTModel with its pooler"
        )
    if task == "masked-patch-prediction" and config.prediction_target != "raw_pixels":
        return f"prediction_target={config.prediction_target!r}; allowed: 'raw_pixels'"
    if task == "masked-patch-prediction" and config.patch_hw[0] != config.patch_hw[1]:
        return (
            f"patch_size={config.patch_size}; allowed: a square one for ViTForMaskedImageModeling"
        )
    return None


def recognises(arrays: Arrays) -> bool:
    """Whether the arrays are named as transformers names those of its ViT."""
    return any(
        key.removeprefix("vit.") == "embeddings.patch_embeddings.projection.weight"
        for key in arrays
    )


def describe(checkpoint, *, native_image_size, wanted_image_size, overrides: dict) -> Description:
    """Says what transformers' checkpoint is, from its `config.json` and the names of its arrays."""
    arrays = checkpoint.arrays
    if not checkpoint.config:
        raise ValueError(
            f"{checkpoint.path}: transformers' ViT needs the config.json that belongs to it: pass "
            "the folder of both"
        )
    known_names = {
        *SHARED_SETTINGS,
        "pooler_act",
        "encoder_stride",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
    }
    config = ViTConfig(
        **{name: value for name, value in checkpoint.config.items() if name in known_names}
    )
    settings = {name: getattr(config, name) for name in SHARED_SETTINGS}
    for name in ("image_size", "patch_size"):
        settings[name] = (
            tuple(settings[name]) if isinstance(settings[name], list) else settings[name]
        )
    settings |= {
        "pooling": "cls",
        "class_token": True,
        "interpolation": INTERPOLATION,
        "prefix_position_embedding": True,
    }
    if native_image_size is not None:
        settings["image_size"] = native_image_size
    prefix = "vit." if any(key.startswith("vit.") for key in arrays) else ""
    names = "v5" if any(re.match(r"(vit\.)?layers\.", key) for key in arrays) else "v4"
    has_head, has_decoder = "classifier.weight" in arrays, "decoder.0.weight" in arrays
    pooler = f"{prefix}pooler.dense"
    if f"{pooler}.weight" in arrays:
        if config.pooler_act != "tanh":
            raise ValueError(
                f"{checkpoint.path}: got pooler_act={config.pooler_act!r}, allowed: 'tanh'"
            )
        settings["representation_size"] = arrays.shape(f"{pooler}.weight")[0]
    if has_head:
        settings["problem_type"] = config.problem_type
    if has_decoder:
        settings["prediction_target"] = "raw_pixels"
        if (config.encoder_stride,) * 2 != as_pair(config.patch_size):
            raise ValueError(
                f"{checkpoint.path}: got encoder_stride={config.encoder_stride} with "
                f"patch_size={config.patch_size}; allowed: equal ones, so that every patch "
                "predicts its own pixels"
            )
    task = (
        "masked-patch-prediction"
        if has_decoder
        else "image-classification"
        if has_head
        else "features"
    )
    names_given = checkpoint.config.get("id2label") or {}
    labels = {int(index): name for index, name in names_given.items()} or None
    return Description(
        settings=settings,
        recognised=f"transformers' {ARCHITECTURES[task]} ({names} names)",
        task=task,
        num_labels=arrays.shape("classifier.weight")[0] if has_head else None,
        id2label=labels if has_head else None,
        layout={"names": names, "prefix": prefix},
        head_keys=("classifier.weight", "classifier.bias"),
        representation_keys=(f"{pooler}.weight", f"{pooler}.bias"),
    )


def write_config(config, *, task: str, dtype: torch.dtype) -> dict:
    """Returns the `config.json` of transformers' ViT."""
    settings = {name: getattr(config, name) for name in SHARED_SETTINGS}
    for name in ("image_size", "patch_size"):
        settings[name] = (
            list(settings[name]) if isinstance(settings[name], tuple) else settings[name]
        )
    theirs = ViTConfig(**settings)
    if task == "features" and config.representation_size is not None:
        theirs.pooler_output_size = config.representation_size
    if task == "masked-patch-prediction":
        theirs.encoder_stride = config.patch_hw[0]
    if task == "image-classification":
        theirs.id2label, theirs.label2id = config.id2label, config.label2id
        theirs.problem_type = config.problem_type
    theirs.architectures = [ARCHITECTURES[task]]
    return {**theirs.to_dict(), "dtype": str(dtype).removeprefix("torch.")}


# What every format's module gives, see `recognition.FOREIGN`.
__all__ = [
    "DEFAULT_LAYOUT",
    "HOLDS",
    "INTERPOLATION",
    "REMEMBERS_LAYOUT",
    "describe",
    "recognises",
    "refused",
    "rules",
]
