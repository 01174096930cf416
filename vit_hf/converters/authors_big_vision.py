# SPDX-License-Identifier: Apache-2.0
"""The research codebase's checkpoints: flat `.npz` files with patch positions only, MAP heads and
scanned layers.

The class token is put before the patches after their positions were added, so it has none. The
blocks are those of `authors_jax` under linen's names.
"""

from .arrays import Arrays
from .authors_jax import HOLDS as JAX_HOLDS
from .authors_jax import (
    INTERPOLATION,
    attention_rules,
    describe_encoder,
    describe_head,
    encoder_rules,
    mlp_rules,
    norm_rules,
)
from .geometry import find_native_size
from .rules import Description, Rule, rule

MAP_HEAD = "MAPHead_0"
POSITIONS = "pos_embedding"
# The settings of which the research codebase's model has only these values.
HOLDS = {
    "stem_blocks": (None,),
    **JAX_HOLDS,
    "position_embedding": ("learned_1d", "sincos_2d"),
    "pooling": ("cls", "gap", "map"),
}
DEFAULT_LAYOUT = {"prefix": "", "names": "linen", "scan": False, "dtype": "float32"}
REMEMBERS_LAYOUT = True  # whether a model keeps how its checkpoint was spelled


def rules(config, layout: dict) -> list[Rule]:
    """Returns the rules of the research codebase's checkpoint of a configuration."""
    prefix, rules = layout["prefix"], encoder_rules(config, layout)
    if config.position_embedding == "learned_1d":
        rules.append(rule(f"{prefix}{POSITIONS}", "positions.0.table"))
    if config.pooling == "map":
        theirs, ours = f"{prefix}{MAP_HEAD}", "pooler.pooling"
        rules += [
            rule(f"{theirs}/probe", f"{ours}.probe"),
            *attention_rules(
                f"{theirs}/MultiHeadDotProductAttention_0", ours, config.num_attention_heads
            ),
            *norm_rules(f"{theirs}/LayerNorm_0", f"{ours}.layernorm"),
            *mlp_rules(f"{theirs}/MlpBlock_0", f"{ours}.mlp"),
        ]
    return rules


def refused(config) -> str | None:
    """Returns what the research codebase's model cannot hold beside the settings of `HOLDS`, or
    `None`.
    """
    if config.pooling != "cls" and config.class_token:
        return f"class_token=True with pooling={config.pooling!r}; allowed: class_token=False"
    return None


def recognises(arrays: Arrays) -> bool:
    """Whether the arrays are the research codebase's: its encoder, and none of the signs of the
    authors'.
    """
    return arrays.kind == "npz" and any("Transformer/encoderblock" in key for key in arrays)


def describe(checkpoint, *, native_image_size, wanted_image_size, overrides: dict) -> Description:
    """Says what the research codebase's checkpoint is, from its names and shapes."""
    arrays = checkpoint.arrays
    settings, layout, known = describe_encoder(arrays)
    prefix = layout["prefix"]
    has_map_head = f"{prefix}{MAP_HEAD}/probe" in arrays
    settings["pooling"] = "map" if has_map_head else "cls" if settings["class_token"] else "gap"
    settings["prefix_position_embedding"] = False
    if f"{prefix}{POSITIONS}" in arrays:
        settings["image_size"] = find_native_size(
            settings,
            arrays.shape(f"{prefix}{POSITIONS}")[1],
            given=native_image_size,
            source=f"{arrays.path}: {prefix}{POSITIONS}",
        )
    else:
        settings["position_embedding"] = "sincos_2d"
        settings["image_size"] = native_image_size or wanted_image_size
        if settings["image_size"] is None:
            raise ValueError(
                f"{arrays.path}: no {prefix}{POSITIONS}, so its positions are sines and cosines, "
                "which say no size: pass native_image_size, the size in pixels that the checkpoint "
                "was trained at"
            )
    positions = f"{settings.get('position_embedding', 'learned')} positions"
    scanned = ", scanned layers" if layout.get("scan") else ""
    return Description(
        settings=settings,
        recognised=f"the research codebase's checkpoint ({positions}{scanned})",
        layout={"format": "big_vision", **layout},
        known=known,
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
