# SPDX-License-Identifier: Apache-2.0
"""What timm's architecture names say that the arrays do not: heads, activation, epsilon, pooling.

A Hub folder's `config.json` names the architecture; its arguments stand in timm's source. Read from
timm 1.0.31's `vision_transformer`, `vision_transformer_hybrid` and `deit`.
"""

import re
from dataclasses import dataclass

# The sizes in timm's names, and the heads of each width that they stand for.
SIZES = {
    "tiny": {192: 3},
    "wee": {256: 4},
    "xsmall": {256: 4},
    "little": {320: 5},
    "small": {384: 6},
    "medium": {512: 8},
    "mediumd": {512: 8},
    "betwixt": {640: 10},
    "base": {768: 12, 896: 14},
    "so150m": {896: 14},
    "so150m2": {832: 13},
    "large": {1024: 16},
    "so400m": {1152: 16},
    "huge": {1280: 16},
    "giant": {1408: 16},
    "giantopt": {1536: 16},
    "gigantic": {1664: 16},
    "vit": {64: 2},
    "vit2": {64: 2},
}
HEADS_BY_NAME = {"vit_base_patch16_gap_224": 16}  # the one that breaks with its size
FAMILIES = re.compile(r"(?:vit|deit3?|flexivit|eva|test)_([a-z0-9]+)(?:_|$)")
# Variants with other blocks or without a final norm, whose arrays might pass for a plain one's.
OTHER_BLOCKS = re.compile(
    r"_(rpn|xp|18x2|radio|intern300m|mci|distilled)(_|$)|resnet\d+d"
    r"|giant_patch14_(reg\d_)?(dinov2|tipsv2)"
)
TANH_GELU = re.compile(
    r"patch32_siglip|giantopt_patch16_siglip|large_patch16_siglip(_gap)?_512|so400m_patch16_siglip"
)
# For writing: the architecture with a hybrid's stem, by the blocks of its stages.
STEM_ARCHITECTURES = {
    (): "vit_tiny_r_s16_p8_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
# For writing: the architecture of a width and a patch size; the nearest by name, as its arguments
# are written too.
PLAIN_ARCHITECTURES = {
    (192, 16): "vit_tiny_patch16_224",
    (384, 8): "vit_small_patch8_224",
    (384, 16): "vit_small_patch16_224",
    (384, 32): "vit_small_patch32_224",
    (768, 8): "vit_base_patch8_224",
    (768, 32): "vit_base_patch32_224",
    (1024, 14): "vit_large_patch14_224",
    (1024, 16): "vit_large_patch16_224",
    (1024, 32): "vit_large_patch32_224",
    (1280, 14): "vit_huge_patch14_224",
}
# timm takes every size as an argument, but an epsilon of 1e-5 from these entry points alone.
ARCHITECTURE_BY_EPS = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}


@dataclass(frozen=True)
class Architecture:
    """What a name of timm's says; `None` where it leaves that to the arrays."""

    num_attention_heads: int | None
    hidden_act: str
    layer_norm_eps: float
    pooling: str | None


def look_up(name: str, width: int) -> Architecture:
    """Returns what timm's architecture `name` says of a model of `width`.

    Raises:
        ValueError: for a name that is not of timm's plain Vision Transformers.
    """
    name = name.split(".")[0]
    family = FAMILIES.match(name)
    if family is None or family[1] not in SIZES or OTHER_BLOCKS.search(name):
        raise ValueError(
            f"got the timm architecture {name!r}, allowed: the plain Vision Transformers of timm's "
            "vision_transformer, vision_transformer_hybrid and deit (vit_*, deit_*, deit3_*, "
            "flexivit_*, eva_large_*) without other blocks or distillation. If it is one under "
            "another name, pass the weights file itself, format='timm' and num_attention_heads"
        )
    activation = "gelu"
    if "quickgelu" in name:
        activation = "quick_gelu"
    elif TANH_GELU.search(name):
        activation = "gelu_pytorch_tanh"
    pools_mean = "_gap_" in name or name.startswith("eva_large") or name == "test_vit2"
    return Architecture(
        num_attention_heads=HEADS_BY_NAME.get(name, SIZES[family[1]].get(width)),
        hidden_act=activation,
        layer_norm_eps=1e-5 if "clip" in name else 1e-6,
        pooling="gap" if pools_mean else None,
    )


def choose(config, remembered: str | None) -> str | None:
    """Returns the architecture that timm builds a configuration from, or `None` where there is
    none.

    Args:
        config: our configuration.
        remembered: the architecture that the checkpoint came with, kept where it still fits.
    """
    if (
        remembered
        and look_up(remembered, config.hidden_size).layer_norm_eps == config.layer_norm_eps
    ):
        return remembered
    if config.stem_blocks is not None:
        return (
            STEM_ARCHITECTURES.get(tuple(config.stem_blocks))
            if config.layer_norm_eps == 1e-6
            else None
        )
    height, width = config.patch_hw
    known = PLAIN_ARCHITECTURES.get((config.hidden_size, height)) if height == width else None
    return (
        known
        if known and config.layer_norm_eps == 1e-6
        else ARCHITECTURE_BY_EPS.get(config.layer_norm_eps)
    )
