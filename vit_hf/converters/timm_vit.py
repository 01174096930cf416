# SPDX-License-Identifier: Apache-2.0
"""timm's Vision Transformers: a state dict, and on the Hub a `config.json` that names the
architecture.

The arrays tell the widths, the tokens and the norms; how many heads share a width they do not. That
is taken from the architecture's name or its arguments, and asked for where there is neither.

Shapes: `D` width, `P` prefix tokens, `N` patches.
"""

from .arrays import Arrays
from .rules import SAME, Rule, fused, rename, rule
from .timm_architectures import choose
from .timm_description import ACTIVATIONS, INTERPOLATION, PATCHES, POOLINGS, STEM, describe

# The settings of which timm's model has only these values.
HOLDS = {
    "position_embedding": ("learned_1d", "none"),
    "position_embedding_placement": ("stem",),
    "representation_size": (None,),
    "hidden_act": tuple(dict.fromkeys(ACTIVATIONS.values())),
    "layer_norm_eps": (1e-6, 1e-5),
    "stem_norm_eps": (1e-5,),
    "stem_weight_eps": (1e-8,),
    "stem_weight_eps_placement": ("variance",),
}
DEFAULT_LAYOUT: dict = {}
REMEMBERS_LAYOUT = True  # whether a model keeps how its checkpoint was spelled


def rules(config, layout: dict) -> list[Rule]:
    """Returns the rules of timm's checkpoint of a configuration."""
    embeddings = "embeddings.patch_embeddings"
    endings = ("weight", "bias") if config.patch_bias else ("weight",)
    rules = rename({PATCHES: f"{embeddings}.projection"}, theirs="", ours="", endings=endings)
    if config.stem_blocks is not None:
        rules += stem_rules(config, f"{embeddings}.stem")
    if config.class_token:
        rules.append(rule("cls_token", "embeddings.cls_token"))
    if config.num_register_tokens:
        rules.append(rule("reg_token", "embeddings.register_tokens"))
    if config.position_embedding == "learned_1d":
        rules.append(rule("pos_embed", "positions.0.table"))
    norms = {"norm_pre": "pre_layernorm"} if config.pre_encoder_norm else {}
    norms |= (
        {"norm": "layernorm"} if config.final_norm == "tokens" else {"fc_norm": "pooler.layernorm"}
    )
    rules += rename(norms, theirs="", ours="")
    for i in range(config.num_hidden_layers):
        rules += block_rules(config, f"blocks.{i}.", f"layers.{i}.")
    if config.pooling == "map":
        rules += map_rules("attn_pool.", "pooler.pooling.")
    if config.num_labels:
        rules += rename({"head": "classifier"}, theirs="", ours="")
    return rules


def block_rules(config, theirs: str, ours: str) -> list[Rule]:
    """The rules of one encoder block; query, key and value are one array."""
    modules = {
        "norm1": "layernorm_before",
        "attn.proj": "attention.o_proj",
        "norm2": "layernorm_after",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    if config.qk_norm:
        modules |= {"attn.q_norm": "attention.q_norm", "attn.k_norm": "attention.k_norm"}
    rules = rename(modules, theirs=theirs, ours=ours)
    for ending in ("weight", "bias") if config.qkv_bias else ("weight",):
        names = (f"{ours}attention.{part}_proj.{ending}" for part in "qkv")
        rules.append(rule(f"{theirs}attn.qkv.{ending}", *names, form=fused(3)))
    if config.layer_scale_init_value is not None:
        rules.append(rule(f"{theirs}ls1.gamma", f"{ours}attention_scale.scale"))
        rules.append(rule(f"{theirs}ls2.gamma", f"{ours}mlp_scale.scale"))
    return rules


def map_rules(theirs: str, ours: str) -> list[Rule]:
    """The rules of attention pooling; key and value are one array."""
    modules = {
        "q": "q_proj",
        "proj": "o_proj",
        "norm": "layernorm",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    rules = [rule(f"{theirs}latent", f"{ours}probe"), *rename(modules, theirs=theirs, ours=ours)]
    for ending in ("weight", "bias"):
        names = (f"{ours}{part}_proj.{ending}" for part in "kv")
        rules.append(rule(f"{theirs}kv.{ending}", *names, form=fused(2)))
    return rules


def stem_rules(config, ours: str) -> list[Rule]:
    """The rules of the hybrid's ResNet stem; its root is named otherwise where there are stages."""
    root = f"{STEM}.stem" if config.stem_blocks else STEM
    rules = [rule(f"{root}.conv.weight", f"{ours}.conv.weight", form=SAME)]
    rules += rename({"norm": "norm"}, theirs=f"{root}.", ours=f"{ours}.")
    for stage, num_blocks in enumerate(config.stem_blocks):
        for block in range(num_blocks):
            theirs, our_block = (
                f"{STEM}.stages.{stage}.blocks.{block}.",
                f"{ours}.stages.{stage}.{block}.",
            )
            convolutions = {f"conv{i}": f"conv{i}" for i in (1, 2, 3)}
            norms = {f"norm{i}": f"norm{i}" for i in (1, 2, 3)}
            if block == 0:
                convolutions["downsample.conv"], norms["downsample.norm"] = (
                    "shortcut_conv",
                    "shortcut_norm",
                )
            rules += rename(convolutions, theirs=theirs, ours=our_block, endings=("weight",))
            rules += rename(norms, theirs=theirs, ours=our_block)
    return rules


def refused(config) -> str | None:
    """Returns what timm's model cannot hold beside the settings of `HOLDS`, or `None`."""
    if config.patch_bias == config.pre_encoder_norm:
        return (
            f"patch_bias={config.patch_bias} with pre_encoder_norm={config.pre_encoder_norm}; "
            "allowed: one of the two, as timm's pre_norm leaves the bias out"
        )
    if choose(config, None) is None:
        return (
            f"stem_blocks={config.stem_blocks} with layer_norm_eps={config.layer_norm_eps}; timm "
            "has stems of [], [3, 4, 9], [2, 2, 2, 2] and [3, 4, 6, 3] blocks with an epsilon of "
            "1e-6"
        )
    if config.stem_blocks is not None and config.stem_width != 64:
        return f"stem_width={config.stem_width}; allowed: 64"
    return None


def recognises(arrays: Arrays) -> bool:
    """Whether the arrays are named as timm names them."""
    return (
        arrays.kind in ("safetensors", "pytorch")
        and f"{PATCHES}.weight" in arrays
        and any(key.startswith("blocks.") for key in arrays)
    )


def mlp_ratio(config) -> float:
    """Returns the ratio from which timm's `int(width * ratio)` gives the width of the MLP."""
    ratio = config.intermediate_size / config.hidden_size
    exact = int(config.hidden_size * ratio) == config.intermediate_size
    return ratio if exact else (config.intermediate_size + 0.5) / config.hidden_size


def write_config(
    config, *, layout: dict, labels: dict[int, str] | None, preprocessing: dict
) -> dict:
    """Returns the `config.json` from which timm's `create_model` builds the model."""
    pool = next(theirs for theirs, ours in POOLINGS.items() if ours == config.pooling)
    act = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.hidden_act)
    arguments = {
        "img_size": list(config.image_hw),
        "patch_size": config.patch_hw[0]
        if config.patch_hw[0] == config.patch_hw[1]
        else list(config.patch_hw),
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": mlp_ratio(config),
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "init_values": config.layer_scale_init_value,
        "class_token": config.class_token,
        "no_embed_class": bool(config.num_prefix_tokens) and not config.prefix_position_embedding,
        "reg_tokens": config.num_register_tokens,
        "pre_norm": config.pre_encoder_norm,
        "fc_norm": config.final_norm == "pooled",
        "global_pool": pool,
        "act_layer": act,
    }
    if config.position_embedding == "none":
        arguments["pos_embed"] = "none"
    if config.num_channels != 3:
        arguments["in_chans"] = config.num_channels
    arguments = {name: value for name, value in arguments.items() if value is not None}
    num_classes = config.num_labels or 0
    written = {
        "architecture": choose(config, layout.get("architecture")),
        "num_classes": num_classes,
        "num_features": config.hidden_size,
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": num_classes,
            "input_size": [config.num_channels, *config.image_hw],
            "fixed_input_size": True,
            "first_conv": f"{STEM}.stem.conv"
            if config.stem_blocks
            else f"{STEM}.conv"
            if config.stem_blocks is not None
            else PATCHES,
            "classifier": "head",
            **preprocessing,
        },
    }
    if labels:
        written["label_names"] = [labels[index] for index in range(num_classes)]
    return written


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
