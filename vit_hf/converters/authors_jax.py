# SPDX-License-Identifier: Apache-2.0
"""The authors' JAX checkpoints: flat `.npz` files of a flax model, as released, AugReg, SAM and
hybrids.

The position table has a row for the class token, before the patches'. Blocks carry the names of the
releases or those that the present code saves (linen's); both are read, and either can be written.
The research codebase shares the blocks' layout, see `authors_big_vision`.

Shapes: `D` width, `A` heads, `E = D / A`, `M` width of the MLP, `N` patches.
"""

import re

from .arrays import Arrays
from .geometry import find_native_size
from .rules import (
    CONVOLUTION,
    DENSE,
    IMAGE_VECTOR,
    SAME,
    Description,
    Form,
    Rule,
    heads_bias,
    heads_in,
    heads_out,
    rule,
    stacked,
)

ATTENTION, MLP = "MultiHeadDotProductAttention", "MlpBlock"
# The names inside an encoder block: attention, the norm before it, the norm after it, the MLP.
BLOCK_NAMES = {
    "released": (f"{ATTENTION}_1", "LayerNorm_0", "LayerNorm_2", f"{MLP}_3"),
    "linen": (f"{ATTENTION}_0", "LayerNorm_0", "LayerNorm_1", f"{MLP}_0"),
}
POSITIONS = "Transformer/posembed_input/pos_embedding"
INTERPOLATION = "bilinear_corners"  # how position tables are resized
# What the authors' code fixes, and so says of every checkpoint of theirs.
SETTINGS = {
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "interpolation": INTERPOLATION,
}
# The settings of which the authors' model has only these values.
HOLDS = {
    "position_embedding": ("learned_1d",),
    "position_embedding_placement": ("stem",),
    "num_register_tokens": (0,),
    "pooling": ("cls", "gap", "none"),
    "final_norm": ("tokens",),
    "pre_encoder_norm": (False,),
    "qk_norm": (False,),
    "layer_scale_init_value": (None,),
    "qkv_bias": (True,),
    "patch_bias": (True,),
    "hidden_act": ("gelu_pytorch_tanh",),
    "layer_norm_eps": (1e-6,),
    "stem_norm_eps": (1e-6,),
    "stem_weight_eps": (1e-5,),
    "stem_weight_eps_placement": ("deviation",),
}
DEFAULT_LAYOUT = {"prefix": "", "names": "released", "group_norm": "vector", "dtype": "float32"}
REMEMBERS_LAYOUT = True  # whether a model keeps how its checkpoint was spelled


def norm_rules(theirs: str, ours: str, *, form: Form = SAME) -> list[Rule]:
    """The rules of a LayerNorm or GroupNorm."""
    return [
        rule(f"{theirs}/scale", f"{ours}.weight", form=form),
        rule(f"{theirs}/bias", f"{ours}.bias", form=form),
    ]


def dense_rules(theirs: str, ours: str) -> list[Rule]:
    """The rules of a dense layer."""
    return [
        rule(f"{theirs}/kernel", f"{ours}.weight", form=DENSE),
        rule(f"{theirs}/bias", f"{ours}.bias"),
    ]


def mlp_rules(theirs: str, ours: str) -> list[Rule]:
    """The rules of an MLP."""
    return [
        *dense_rules(f"{theirs}/Dense_0", f"{ours}.fc1"),
        *dense_rules(f"{theirs}/Dense_1", f"{ours}.fc2"),
    ]


def attention_rules(theirs: str, ours: str, num_heads: int) -> list[Rule]:
    """The rules of multi-head attention, whose arrays have an axis of heads."""
    rules = []
    for name in ("query", "key", "value"):
        projection = f"{ours}.{name[0]}_proj"
        rules.append(
            rule(f"{theirs}/{name}/kernel", f"{projection}.weight", form=heads_out(num_heads))
        )
        rules.append(
            rule(f"{theirs}/{name}/bias", f"{projection}.bias", form=heads_bias(num_heads))
        )
    rules.append(rule(f"{theirs}/out/kernel", f"{ours}.o_proj.weight", form=heads_in(num_heads)))
    return [*rules, rule(f"{theirs}/out/bias", f"{ours}.o_proj.bias")]


def block_rules(theirs: str, ours: str, num_heads: int, *, names: str) -> list[Rule]:
    """The rules of one encoder block."""
    attention, norm_before, norm_after, mlp = BLOCK_NAMES[names]
    return [
        *norm_rules(f"{theirs}/{norm_before}", f"{ours}.layernorm_before"),
        *attention_rules(f"{theirs}/{attention}", f"{ours}.attention", num_heads),
        *norm_rules(f"{theirs}/{norm_after}", f"{ours}.layernorm_after"),
        *mlp_rules(f"{theirs}/{mlp}", f"{ours}.mlp"),
    ]


def encoder_rules(config, layout: dict) -> list[Rule]:
    """The rules of everything but stem, positions and pooling, which the two codebases store
    differently.
    """
    prefix, heads, names = layout["prefix"], config.num_attention_heads, layout["names"]
    blocks = [
        block_rules(f"{prefix}Transformer/encoderblock_{i}", f"layers.{i}", heads, names=names)
        for i in range(config.num_hidden_layers)
    ]
    if layout.get("scan"):
        blocks = [
            [
                rule(
                    same[0].theirs.replace("encoderblock_0", "encoderblock"),
                    *(entry.ours[0] for entry in same),
                    form=stacked(same[0].form),
                )
                for same in zip(*blocks, strict=True)
            ]
        ]
    patches = "embeddings.patch_embeddings.projection"
    rules = [
        rule(f"{prefix}embedding/kernel", f"{patches}.weight", form=CONVOLUTION),
        rule(f"{prefix}embedding/bias", f"{patches}.bias"),
        *(entry for block in blocks for entry in block),
        *norm_rules(f"{prefix}Transformer/encoder_norm", "layernorm"),
    ]
    if config.class_token:
        rules.append(rule(f"{prefix}cls", "embeddings.cls_token"))
    if config.representation_size is not None:
        rules += dense_rules(f"{prefix}pre_logits", "pooler.representation")
    if config.num_labels:
        rules += dense_rules(f"{prefix}head", "classifier")
    return rules


def stem_rules(config, layout: dict) -> list[Rule]:
    """The rules of the hybrid's ResNet stem."""
    prefix, ours = layout["prefix"], "embeddings.patch_embeddings.stem"
    form = {"image": IMAGE_VECTOR, "vector": SAME}[layout["group_norm"]]
    rules = [
        rule(f"{prefix}conv_root/kernel", f"{ours}.conv.weight", form=CONVOLUTION),
        *norm_rules(f"{prefix}gn_root", f"{ours}.norm", form=form),
    ]
    for stage, num_blocks in enumerate(config.stem_blocks):
        for block in range(num_blocks):
            their_unit, our_block = (
                f"{prefix}block{stage + 1}/unit{block + 1}",
                f"{ours}.stages.{stage}.{block}",
            )
            parts = [(f"conv{i}", f"gn{i}", f"conv{i}", f"norm{i}") for i in (1, 2, 3)]
            if block == 0:  # channels or resolution change
                parts.append(("conv_proj", "gn_proj", "shortcut_conv", "shortcut_norm"))
            for their_conv, their_norm, our_conv, our_norm in parts:
                kernel = rule(
                    f"{their_unit}/{their_conv}/kernel",
                    f"{our_block}.{our_conv}.weight",
                    form=CONVOLUTION,
                )
                rules += [
                    kernel,
                    *norm_rules(f"{their_unit}/{their_norm}", f"{our_block}.{our_norm}", form=form),
                ]
    return rules


def rules(config, layout: dict) -> list[Rule]:
    """Returns the rules of the authors' checkpoint of a configuration."""
    stem = stem_rules(config, layout) if config.stem_blocks is not None else []
    return [
        *stem,
        *encoder_rules(config, layout),
        rule(f"{layout['prefix']}{POSITIONS}", "positions.0.table"),
    ]


def refused(config) -> str | None:
    """Returns what the authors' model cannot hold beside the settings of `HOLDS`, or `None`."""
    if config.pooling == "gap" and config.class_token:
        return "class_token=True with pooling='gap'; allowed: class_token=False"
    return None


def recognises(arrays: Arrays) -> bool:
    """Whether the arrays are the authors', by the place of the position table or the stem."""
    return arrays.kind == "npz" and any(
        key.endswith(POSITIONS) or f"/{ATTENTION}_1/" in key or key.endswith("conv_root/kernel")
        for key in arrays
    )


def find_prefix(arrays: Arrays) -> str:
    """Returns what stands before the encoder's names, such as `opt/target/` or `params/img/`."""
    found = {match[1] for key in arrays if (match := re.match(r"(.*?)Transformer/encoder", key))}
    found = {prefix for prefix in found if not prefix.startswith("opt/state")} or {""}
    if len(found) > 1:
        raise ValueError(
            f"{arrays.path}: holds several encoders, under {', '.join(map(repr, sorted(found)))}; "
            "expected one. Save the one you want to a file of its own"
        )
    return found.pop()


def describe_encoder(arrays: Arrays) -> tuple[dict, dict, dict]:
    """Reads what both codebases store alike.

    Returns:
        Settings of the configuration, the layout, and the arrays outside the model with why they
        are left out.
    """
    prefix = find_prefix(arrays)
    names = "released" if any(f"/{ATTENTION}_1/" in key for key in arrays) else "linen"
    scan = any(key.startswith(f"{prefix}Transformer/encoderblock/") for key in arrays)
    block = f"{prefix}Transformer/encoderblock" + ("" if scan else "_0")
    attention, _, _, mlp = BLOCK_NAMES[names]
    query = arrays.shape(f"{block}/{attention}/query/kernel")
    if scan:
        depth = query[0]
    else:
        pattern = re.compile(re.escape(prefix) + r"Transformer/encoderblock_(\d+)/")
        depth = len({match[1] for key in arrays if (match := pattern.match(key))})
    kernel = arrays.shape(f"{prefix}embedding/kernel")
    if len(kernel) != 4 or len(query) != 3 + scan:
        raise ValueError(
            f"{arrays.path}: {prefix}embedding/kernel has the shape {kernel} and "
            f"{block}/{attention}/query/kernel {query}; expected (height, width, channels, width) "
            "and (width, heads, width of a head)"
        )
    settings = {
        **SETTINGS,
        "patch_size": kernel[0] if kernel[0] == kernel[1] else kernel[:2],
        "num_channels": kernel[2],
        "hidden_size": kernel[3],
        "num_hidden_layers": depth,
        "num_attention_heads": query[-2],
        "intermediate_size": arrays.shape(f"{block}/{mlp}/Dense_0/kernel")[-1],
        "class_token": f"{prefix}cls" in arrays,
        "representation_size": None,
    }
    if f"{prefix}pre_logits/kernel" in arrays:
        settings["representation_size"] = arrays.shape(f"{prefix}pre_logits/kernel")[-1]
    dtypes = {
        str(arrays.dtype(key)).removeprefix("torch.") for key in arrays if key.startswith(prefix)
    }
    layout: dict = {
        "prefix": prefix,
        "names": names,
        "dtype": dtypes.pop() if len(dtypes) == 1 else "float32",
    }
    if scan:
        layout["scan"] = True
    outside = {
        key: "another part of the training state"
        for key in arrays
        if prefix and not key.startswith(prefix)
    }
    return settings, layout, {key: why for key, why in outside.items() if is_outside(key)}


def is_outside(key: str) -> bool:
    """Whether an array beside the encoder's prefix is known: the optimizer's state, or another
    tower's.
    """
    return key.startswith(("opt/", "params/")) or key in (
        "step",
        "chrono",
        "extra",
        "accum_train_time",
    )


def describe_head(arrays: Arrays, prefix: str) -> dict:
    """Returns the `Description`'s entries about the head and the representation layer."""
    has_head = f"{prefix}head/kernel" in arrays
    return {
        "num_labels": arrays.shape(f"{prefix}head/kernel")[-1] if has_head else None,
        "task": "image-classification" if has_head else "features",
        "head_keys": (f"{prefix}head/kernel", f"{prefix}head/bias"),
        "representation_keys": (f"{prefix}pre_logits/kernel", f"{prefix}pre_logits/bias"),
    }


def describe_stem(arrays: Arrays, prefix: str) -> tuple[dict, dict]:
    """Returns the settings and the layout of the ResNet stem; both are empty without one."""
    if f"{prefix}conv_root/kernel" not in arrays:
        return {}, {}
    blocks = []
    while any(key.startswith(f"{prefix}block{len(blocks) + 1}/") for key in arrays):
        units = re.compile(re.escape(f"{prefix}block{len(blocks) + 1}/") + r"unit(\d+)/")
        blocks.append(len({match[1] for key in arrays if (match := units.match(key))}))
    settings = {
        "stem_blocks": blocks,
        "stem_width": arrays.shape(f"{prefix}conv_root/kernel")[-1],
        "num_channels": arrays.shape(f"{prefix}conv_root/kernel")[2],
        "stem_norm_eps": 1e-6,
        "stem_weight_eps": 1e-5,
        "stem_weight_eps_placement": "deviation",
    }
    dims = len(arrays.shape(f"{prefix}gn_root/scale"))
    return settings, {"group_norm": "image" if dims == 4 else "vector"}


def describe(checkpoint, *, native_image_size, wanted_image_size, overrides: dict) -> Description:
    """Says what the authors' checkpoint is, from its names and shapes."""
    arrays = checkpoint.arrays
    settings, layout, known = describe_encoder(arrays)
    prefix = layout["prefix"]
    stem_settings, stem_layout = describe_stem(arrays, prefix)
    settings |= stem_settings
    settings["pooling"] = "cls" if settings["class_token"] else "gap"
    notes = []
    if "pooling" not in overrides and not settings["class_token"]:
        notes.append(
            "No class token: the mean of the patches is pooled. Pass pooling='none' for an "
            "unpooled model."
        )
    rows = arrays.shape(f"{prefix}{POSITIONS}")[1]
    settings["image_size"] = find_native_size(
        settings,
        rows - settings["class_token"],
        given=native_image_size,
        source=f"{arrays.path}: {prefix}{POSITIONS}",
    )
    hybrid = f", ResNet stem {settings['stem_blocks']}" if stem_settings else ""
    return Description(
        settings=settings,
        recognised=f"the authors' JAX checkpoint ({layout['names']} names{hybrid})",
        layout={"format": "jax", **layout, **stem_layout},
        known=known,
        notes=notes,
        **describe_head(arrays, prefix),
    )


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
