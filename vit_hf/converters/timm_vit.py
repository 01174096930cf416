# SPDX-License-Identifier: Apache-2.0
"""timm's Vision Transformers: a state dict, and on the Hub a `config.json` that names the architecture.

The arrays tell the widths, the tokens and the norms; how many heads share a width they do not. That is
taken from the architecture's name or its arguments, and asked for where there is neither.

Shapes: `D` width, `P` prefix tokens, `N` patches.
"""

import re

from .arrays import Arrays
from .geometry import count_patches, find_native_size
from .rules import SAME, Description, Rule, fused, rename, rule
from .timm_architectures import choose, look_up

PATCHES = "patch_embed.proj"
STEM = "patch_embed.backbone"
# What timm fixes for its Vision Transformers.
SETTINGS = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "interpolation": "bicubic_antialias"}
STEM_SETTINGS = {"stem_norm_eps": 1e-5, "stem_weight_eps": 1e-8, "stem_weight_eps_placement": "variance"}
POOLINGS = {"token": "cls", "avg": "gap", "map": "map", "": "none"}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Arguments of timm's model that change nothing at inference, or that the arrays tell.
HARMLESS_ARGUMENTS = {
    "img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "qk_norm",
    "init_values", "class_token", "no_embed_class", "reg_tokens", "pre_norm", "fc_norm", "dynamic_img_size",
    "dynamic_img_pad", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate",
    "drop_path_rate", "weight_init", "fix_init", "num_heads", "global_pool", "act_layer", "strict_img_size",
}  # fmt: skip
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
    norms |= {"norm": "layernorm"} if config.final_norm == "tokens" else {"fc_norm": "pooler.layernorm"}
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
    modules = {"q": "q_proj", "proj": "o_proj", "norm": "layernorm", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    rules = [rule(f"{theirs}latent", f"{ours}probe"), *rename(modules, theirs=theirs, ours=ours)]
    for ending in ("weight", "bias"):
        names = (f"{ours}{part}_proj.{ending}" for part in "kv")
        rules.append(rule(f"{theirs}kv.{ending}", *names, form=fused(2)))
    return rules


def stem_rules(config, ours: str) -> list[Rule]:
    """The rules of the hybrid's ResNet stem; its root has a name of its own where there are stages."""
    root = f"{STEM}.stem" if config.stem_blocks else STEM
    rules = [rule(f"{root}.conv.weight", f"{ours}.conv.weight", form=SAME)]
    rules += rename({"norm": "norm"}, theirs=f"{root}.", ours=f"{ours}.")
    for stage, num_blocks in enumerate(config.stem_blocks):
        for block in range(num_blocks):
            theirs, our_block = f"{STEM}.stages.{stage}.blocks.{block}.", f"{ours}.stages.{stage}.{block}."
            convolutions = {f"conv{i}": f"conv{i}" for i in (1, 2, 3)}
            norms = {f"norm{i}": f"norm{i}" for i in (1, 2, 3)}
            if block == 0:
                convolutions["downsample.conv"], norms["downsample.norm"] = "shortcut_conv", "shortcut_norm"
            rules += rename(convolutions, theirs=theirs, ours=our_block, endings=("weight",))
            rules += rename(norms, theirs=theirs, ours=our_block)
    return rules


def refused(config) -> str | None:
    """Returns what timm's model cannot hold beside the settings of `HOLDS`, or `None`."""
    if config.patch_bias == config.pre_encoder_norm:
        return (
            f"patch_bias={config.patch_bias} with pre_encoder_norm={config.pre_encoder_norm}; allowed: one of the two, "
            "as timm's pre_norm leaves the bias out"
        )
    if config.class_token and config.pooling == "map" and config.final_norm == "pooled":
        return "final_norm='pooled' with pooling='map'; allowed: final_norm='tokens'"
    if config.num_prefix_tokens and config.position_embedding == "none":
        return None
    if choose(config, None) is None:
        return (
            f"stem_blocks={config.stem_blocks} with layer_norm_eps={config.layer_norm_eps}; timm has stems of "
            "[], [3, 4, 9], [2, 2, 2, 2] and [3, 4, 6, 3] blocks with an epsilon of 1e-6"
        )
    if config.stem_blocks is not None and config.stem_width != 64:
        return f"stem_width={config.stem_width}; allowed: 64"
    return None


def recognises(arrays: Arrays) -> bool:
    """Whether the arrays are named as timm names them."""
    return arrays.kind in ("safetensors", "pytorch") and f"{PATCHES}.weight" in arrays and any(
        key.startswith("blocks.") for key in arrays
    )


def describe(checkpoint, *, native_image_size, wanted_image_size, overrides: dict) -> Description:
    """Says what timm's checkpoint is, from its arrays and its `config.json` where there is one."""
    arrays, arguments = checkpoint.arrays, dict(checkpoint.config.get("model_args") or {})
    refuse_arguments(arguments, checkpoint)
    pretrained = checkpoint.config.get("pretrained_cfg") or checkpoint.config
    settings = SETTINGS | describe_arrays(arrays)
    architecture = checkpoint.config.get("architecture")
    named = look_up(architecture, settings["hidden_size"]) if architecture else None
    if named is not None:
        settings |= {"hidden_act": named.hidden_act, "layer_norm_eps": named.layer_norm_eps}
    if "act_layer" in arguments:
        settings["hidden_act"] = ACTIVATIONS[arguments["act_layer"]]
    pool = arguments.get("global_pool", checkpoint.config.get("global_pool"))
    settings |= describe_pooling(arrays, pool, named)
    settings["num_attention_heads"] = find_heads(arrays, settings, overrides, arguments, named)
    settings |= describe_positions(
        arrays,
        settings | {name: overrides[name] for name in ("prefix_position_embedding",) if name in overrides},
        given=native_image_size,
        hints=(arguments.get("img_size"), (pretrained.get("input_size") or [None])[1:] or None),
        no_embed_class=arguments.get("no_embed_class"),
    )
    notes = []
    if architecture is None and "hidden_act" not in overrides:
        notes.append("A state dict alone does not say its activation: exact GELU, timm's default. Pass hidden_act if not.")
    if architecture and architecture.startswith("flexivit"):
        notes.append("timm resizes FlexiViT's positions bilinearly when it loads them; here it is timm's bicubic.")
    has_head = "head.weight" in arrays
    num_labels = arrays.shape("head.weight")[0] if has_head else None
    return Description(
        settings=settings,
        recognised=f"timm's {architecture}" if architecture else "timm's state dict of a Vision Transformer",
        task="image-classification" if has_head else "features",
        num_labels=num_labels,
        id2label=read_labels(checkpoint.config, num_labels),
        layout={"format": "timm", "architecture": architecture} if architecture else {},
        known={"mask_token": "the mask token, which inference does not use"} if "mask_token" in arrays else {},
        head_keys=("head.weight", "head.bias"),
        notes=notes,
    )


def refuse_arguments(arguments: dict, checkpoint):
    """Raises a `ValueError` for arguments of timm's model that ours has no setting for."""
    unknown = {name: value for name, value in arguments.items() if name not in HARMLESS_ARGUMENTS}
    unknown = {name: value for name, value in unknown.items() if value not in (None, False)}
    unknown = {name: value for name, value in unknown.items() if (name, value) not in (("proj_bias", True), ("final_norm", True), ("pos_embed", "learn"))}
    if arguments.get("act_layer", "gelu") not in ACTIVATIONS:
        unknown["act_layer"] = arguments["act_layer"]
    if unknown:
        raise ValueError(
            f"{checkpoint.path}: config.json has the model_args {unknown}, which the plain Vision Transformer does not "
            f"have; allowed: {', '.join(sorted(HARMLESS_ARGUMENTS))}"
        )


def describe_arrays(arrays: Arrays) -> dict:
    """Returns the settings that the shapes and names of the arrays say."""
    kernel = arrays.shape(f"{PATCHES}.weight")
    if len(kernel) != 4:
        raise ValueError(f"{arrays.path}: {PATCHES}.weight has the shape {kernel}, expected (width, channels, h, w)")
    blocks = {match[1] for key in arrays if (match := re.match(r"blocks\.(\d+)\.", key))}
    settings = {
        "hidden_size": kernel[0],
        "num_channels": kernel[1],
        "patch_size": kernel[2] if kernel[2] == kernel[3] else kernel[2:],
        "patch_bias": f"{PATCHES}.bias" in arrays,
        "num_hidden_layers": len(blocks),
        "intermediate_size": arrays.shape("blocks.0.mlp.fc1.weight")[0],
        "qkv_bias": "blocks.0.attn.qkv.bias" in arrays,
        "qk_norm": "blocks.0.attn.q_norm.weight" in arrays,
        "pre_encoder_norm": "norm_pre.weight" in arrays,
        "class_token": "cls_token" in arrays,
        "num_register_tokens": arrays.shape("reg_token")[1] if "reg_token" in arrays else 0,
    }
    if "blocks.0.ls1.gamma" in arrays:
        settings["layer_scale_init_value"] = 1e-5
    root = next((key for key in (f"{STEM}.stem.conv.weight", f"{STEM}.conv.weight") if key in arrays), None)
    if root is not None:
        width, channels = arrays.shape(root)[:2]
        units = {match.groups() for key in arrays if (match := re.match(STEM + r"\.stages\.(\d+)\.blocks\.(\d+)", key))}
        stages = [stage for stage, _ in units]
        blocks_by_stage = [stages.count(str(stage)) for stage in range(len(set(stages)))]
        settings |= STEM_SETTINGS | {"stem_blocks": blocks_by_stage, "stem_width": width, "num_channels": channels}
    return settings


def describe_pooling(arrays: Arrays, pool: str | None, named) -> dict:
    """Returns the settings of the pooling: as said, as timm's name says, or as the arrays show."""
    if pool is not None and pool not in POOLINGS:
        raise ValueError(f"{arrays.path}: got global_pool={pool!r}, allowed: {', '.join(map(repr, POOLINGS))}")
    has_pooled_norm = "fc_norm.weight" in arrays
    pooling = POOLINGS[pool] if pool is not None else named.pooling if named is not None else None
    if pooling is None:
        mean = has_pooled_norm or "cls_token" not in arrays
        pooling = "map" if "attn_pool.latent" in arrays else "gap" if mean else "cls"
    return {"pooling": pooling, "final_norm": "pooled" if has_pooled_norm else "tokens"}


def find_heads(arrays: Arrays, settings: dict, overrides: dict, arguments: dict, named) -> int:
    """Returns the number of heads: as given, as in the arguments, as the query norm shows, as timm's name says.

    Raises:
        ValueError: where nothing says it; it names `num_attention_heads`.
    """
    for heads in (overrides.get("num_attention_heads"), arguments.get("num_heads")):
        if heads is not None:
            return heads
    if settings["qk_norm"]:
        return settings["hidden_size"] // arrays.shape("blocks.0.attn.q_norm.weight")[0]
    if named is not None and named.num_attention_heads is not None:
        return named.num_attention_heads
    raise ValueError(
        f"{arrays.path}: the arrays do not say how many attention heads share the width {settings['hidden_size']}, and "
        "there is no config.json with an architecture of timm's that does: pass num_attention_heads (timm's models "
        "mostly have heads of width 64)"
    )


def describe_positions(arrays: Arrays, settings: dict, *, given, hints: tuple, no_embed_class: bool | None) -> dict:
    """Returns the settings of the position table: whether it covers the prefix tokens, and the native size."""
    if "pos_embed" not in arrays:
        size = given or next((hint for hint in hints if hint), None)
        if size is None:
            raise ValueError(f"{arrays.path}: no pos_embed, which would say the size: pass native_image_size")
        return {"position_embedding": "none", "image_size": as_size(size)}
    rows = arrays.shape("pos_embed")[1]
    num_prefix = int(settings["class_token"]) + settings["num_register_tokens"]
    covers = settings.pop("prefix_position_embedding", None if no_embed_class is None else not no_embed_class)
    options = [True, False] if covers is None else [covers]
    options = [option for option in options if num_prefix or not option] or [False]
    hints = tuple(as_size(hint) for hint in hints if hint)
    source = f"{arrays.path}: pos_embed"
    fitting = [
        option
        for option in options
        if any(count_patches(settings, hint) == rows - num_prefix * option for hint in ((given,) if given else hints))
    ] or options
    found, errors = {}, []
    for option in fitting:
        num_patches = rows - num_prefix * option
        try:
            found[option] = find_native_size(settings, num_patches, given=given, hints=hints, source=source)
        except ValueError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    if len(found) > 1:
        raise ValueError(
            f"{source} has {rows} positions, which fits a square grid with and without the {num_prefix} prefix tokens: "
            "pass native_image_size, or prefix_position_embedding"
        )
    ((option, size),) = found.items()
    return {"prefix_position_embedding": option, "image_size": size}


def as_size(size) -> int | tuple[int, int]:
    """Returns timm's size, an int or a list, as ours."""
    if isinstance(size, int):
        return size
    height, width = size
    return height if height == width else (height, width)


def read_labels(config: dict, num_labels: int | None) -> dict[int, str] | None:
    """Returns the class names of timm's `config.json`, where it has one for each class."""
    names = config.get("label_names") or (config.get("pretrained_cfg") or {}).get("label_names")
    if not names or num_labels is None:
        return None
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    labels = {int(index): str(name) for index, name in pairs}
    return labels if sorted(labels) == list(range(num_labels)) else None


def mlp_ratio(config) -> float:
    """Returns the ratio from which timm's `int(width * ratio)` gives the width of the MLP."""
    ratio = config.intermediate_size / config.hidden_size
    exact = int(config.hidden_size * ratio) == config.intermediate_size
    return ratio if exact else (config.intermediate_size + 0.5) / config.hidden_size


def write_config(config, *, layout: dict, labels: dict[int, str] | None, preprocessing: dict) -> dict:
    """Returns the `config.json` that timm's `create_model("local-dir:...")` builds the model from."""
    pool = next(theirs for theirs, ours in POOLINGS.items() if ours == config.pooling)
    act = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.hidden_act)
    arguments = {
        "img_size": list(config.image_hw),
        "patch_size": config.patch_hw[0] if config.patch_hw[0] == config.patch_hw[1] else list(config.patch_hw),
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
            "first_conv": f"{STEM}.stem.conv" if config.stem_blocks else f"{STEM}.conv" if config.stem_blocks is not None else PATCHES,
            "classifier": "head",
            **preprocessing,
        },
    }
    if labels:
        written["label_names"] = [labels[index] for index in range(num_classes)]
    return written
