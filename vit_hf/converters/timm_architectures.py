# SPDX-License-Identifier: Apache-2.0
"""What timm's architecture names say that the arrays do not: heads, activation, epsilon, pooling.

A Hub folder's `config.json` names the architecture; its arguments stand in timm's source. Read from
timm 1.0.31's `vision_transformer`, `vision_transformer_hybrid` and `deit`.
"""

import re
from dataclasses import dataclass

# Families whose blocks are the plain ones, by the start of the name.
FAMILIES = re.compile(
    r"(vit_(dwee|pwee|wee|little|dlittle|xsmall|tiny|small|medium|mediumd|betwixt|base|large|so150m2?|so400m|huge"
    r"|giant|giantopt|gigantic|intern300m)|deit3?_(tiny|small|medium|base|large|huge)|flexivit_(small|base|large)"
    r"|eva_large|test_vit2?)(_|$)"
)
# Variants with other blocks or without a final norm whose arrays might pass for a plain one's.
OTHER_BLOCKS = re.compile(r"_rpn_|_xp_|_18x2_|_radio_|_intern300m_|_mci_|_distilled_|resnet\d+d|pwee|dlittle|dwee")
HEADS_BY_WIDTH = {
    64: 2, 192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 832: 13, 896: 14, 1024: 16, 1152: 16, 1280: 16,
    1408: 16, 1664: 16,
}  # fmt: skip
HEADS_BY_NAME = {r"^vit_base_patch16_gap_224$": 16, r"^vit_giantopt_": 16, r"^vit_giant_patch14_(reg\d_)?(dinov2|tipsv2)": 24}
TANH_GELU = re.compile(
    r"patch32_siglip|giantopt_patch16_siglip|large_patch16_siglip(_gap)?_512|so400m_patch16_siglip"
)
# Architectures that stand for a hybrid's stem, for writing: (stages, their least width) to the name.
STEM_ARCHITECTURES = {
    (): "vit_tiny_r_s16_p8_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
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
    """What a name of timm's says: heads, activation, LayerNorm epsilon, and whether timm pools the mean."""

    num_attention_heads: int | None
    hidden_act: str
    layer_norm_eps: float
    pooling: str | None
    final_norm: str | None


def look_up(name: str, width: int) -> Architecture:
    """Returns what timm's architecture `name` says of a model of `width`.

    Raises:
        ValueError: for a name that is not of timm's plain Vision Transformers.
    """
    name = name.split(".")[0]
    if not FAMILIES.match(name) or OTHER_BLOCKS.search(name):
        raise ValueError(
            f"got the timm architecture {name!r}, allowed: the plain Vision Transformers of timm's "
            "vision_transformer, vision_transformer_hybrid and deit (vit_*, deit_*, deit3_*, flexivit_*, eva_large_*) "
            "without other blocks or distillation. If it is one under another name, pass the weights file itself, "
            "format='timm' and num_attention_heads"
        )
    heads = next((heads for pattern, heads in HEADS_BY_NAME.items() if re.match(pattern, name)), None)
    activation = "gelu"
    if "quickgelu" in name:
        activation = "quick_gelu"
    elif TANH_GELU.search(name):
        activation = "gelu_pytorch_tanh"
    pools_mean = "_gap_" in name or name.startswith("eva_large") or name == "test_vit2"
    return Architecture(
        num_attention_heads=heads or HEADS_BY_WIDTH.get(width),
        hidden_act=activation,
        layer_norm_eps=1e-5 if "clip" in name else 1e-6,
        pooling="gap" if pools_mean else None,
        final_norm=None,
    )


def choose(config, remembered: str | None) -> str | None:
    """Returns the architecture that timm builds a configuration from, or `None` where there is none.

    Args:
        config: our configuration.
        remembered: the architecture that the checkpoint came with, kept where it still fits.
    """
    if remembered and look_up(remembered, config.hidden_size).layer_norm_eps == config.layer_norm_eps:
        return remembered
    if config.stem_blocks is not None:
        return STEM_ARCHITECTURES.get(tuple(config.stem_blocks)) if config.layer_norm_eps == 1e-6 else None
    height, width = config.patch_hw
    known = PLAIN_ARCHITECTURES.get((config.hidden_size, height)) if height == width else None
    return known if known and config.layer_norm_eps == 1e-6 else ARCHITECTURE_BY_EPS.get(config.layer_norm_eps)
