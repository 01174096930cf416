# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint of timm is, from its arrays, its `config.json` and its architecture's name.

How many heads share a width no array tells: it is taken from the arguments or the name, and asked
for where there is neither. The rules and the writing are in `timm_vit`.
"""

import re

from .arrays import Arrays
from .geometry import count_patches, find_native_size
from .rules import Description
from .timm_architectures import look_up

PATCHES, STEM = "patch_embed.proj", "patch_embed.backbone"
# timm's names of poolings and activations, to ours.
POOLINGS = {"token": "cls", "avg": "gap", "map": "map", "": "none"}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
INTERPOLATION = "bicubic_antialias"  # how position tables are resized
# What timm fixes for its Vision Transformers.
SETTINGS = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "interpolation": INTERPOLATION}
STEM_SETTINGS = {
    "stem_norm_eps": 1e-5,
    "stem_weight_eps": 1e-8,
    "stem_weight_eps_placement": "variance",
}
# Arguments of timm's model that change nothing at inference, or that the arrays tell.
HARMLESS_ARGUMENTS = {
    "img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "mlp_ratio",
    "qkv_bias", "qk_norm", "init_values", "class_token", "no_embed_class", "reg_tokens",
    "pre_norm", "fc_norm", "dynamic_img_size", "dynamic_img_pad", "drop_rate", "pos_drop_rate",
    "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init",
    "fix_init", "num_heads", "global_pool", "act_layer", "strict_img_size",
}  # fmt: skip
# Other arguments, with the values at which the model is the plain one.
DEFAULT_ARGUMENTS = {
    "pos_embed": ("learn", "none", ""),
    "proj_bias": (True,),
    "final_norm": (True,),
}


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
        settings
        | {name: overrides[name] for name in ("prefix_position_embedding",) if name in overrides},
        given=native_image_size,
        hints=(arguments.get("img_size"), (pretrained.get("input_size") or [None])[1:] or None),
        no_embed_class=arguments.get("no_embed_class"),
    )
    notes = []
    if architecture is None and "hidden_act" not in overrides:
        notes.append(
            "A state dict alone does not say its activation: exact GELU, timm's default. Pass "
            "hidden_act if not."
        )
    if architecture and architecture.startswith("flexivit"):
        notes.append(
            "timm resizes FlexiViT's positions bilinearly when it loads them; here it is timm's "
            "bicubic."
        )
    has_head = "head.weight" in arrays
    num_labels = arrays.shape("head.weight")[0] if has_head else None
    return Description(
        settings=settings,
        recognised=f"timm's {architecture}"
        if architecture
        else "timm's state dict of a Vision Transformer",
        task="image-classification" if has_head else "features",
        num_labels=num_labels,
        id2label=read_labels(checkpoint.config, num_labels),
        layout={"format": "timm", "architecture": architecture} if architecture else {},
        known={"mask_token": "the mask token, which inference does not use"}
        if "mask_token" in arrays
        else {},
        head_keys=("head.weight", "head.bias"),
        notes=notes,
    )


def refuse_arguments(arguments: dict, checkpoint):
    """Raises a `ValueError` for arguments of timm's model that ours has no setting for."""
    unknown = {
        name: value
        for name, value in arguments.items()
        if name not in HARMLESS_ARGUMENTS
        and value is not None
        and value not in DEFAULT_ARGUMENTS.get(name, (False,))
    }
    if arguments.get("act_layer", "gelu") not in ACTIVATIONS:
        unknown["act_layer"] = arguments["act_layer"]
    if unknown:
        raise ValueError(
            f"{checkpoint.path}: config.json has the model_args {unknown}, which the plain Vision "
            f"Transformer does not have; allowed: {', '.join(sorted(HARMLESS_ARGUMENTS))}"
        )


def describe_arrays(arrays: Arrays) -> dict:
    """Returns the settings that the shapes and names of the arrays say."""
    kernel = arrays.shape(f"{PATCHES}.weight")
    if len(kernel) != 4:
        raise ValueError(
            f"{arrays.path}: {PATCHES}.weight has the shape {kernel}, expected (width, channels, "
            "h, w)"
        )
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
    root = next(
        (key for key in (f"{STEM}.stem.conv.weight", f"{STEM}.conv.weight") if key in arrays), None
    )
    if root is not None:
        width, channels = arrays.shape(root)[:2]
        units = {
            match.groups()
            for key in arrays
            if (match := re.match(STEM + r"\.stages\.(\d+)\.blocks\.(\d+)", key))
        }
        stages = [stage for stage, _ in units]
        blocks_by_stage = [stages.count(str(stage)) for stage in range(len(set(stages)))]
        settings |= STEM_SETTINGS | {
            "stem_blocks": blocks_by_stage,
            "stem_width": width,
            "num_channels": channels,
        }
    return settings


def describe_pooling(arrays: Arrays, pool: str | None, named) -> dict:
    """Returns the settings of the pooling: as said, as timm's name says, or as the arrays show."""
    if pool is not None and pool not in POOLINGS:
        raise ValueError(
            f"{arrays.path}: got global_pool={pool!r}, allowed: {', '.join(map(repr, POOLINGS))}"
        )
    has_pooled_norm = "fc_norm.weight" in arrays
    pooling = POOLINGS[pool] if pool is not None else named.pooling if named is not None else None
    if pooling is None:
        mean = has_pooled_norm or "cls_token" not in arrays
        pooling = "map" if "attn_pool.latent" in arrays else "gap" if mean else "cls"
    return {"pooling": pooling, "final_norm": "pooled" if has_pooled_norm else "tokens"}


def find_heads(arrays: Arrays, settings: dict, overrides: dict, arguments: dict, named) -> int:
    """Returns the number of heads: as given, as in the arguments, as the query norm shows, as
    timm's name says.

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
        f"{arrays.path}: the arrays do not say how many attention heads share the width "
        f"{settings['hidden_size']}, and there is no config.json with an architecture of timm's "
        "that does: pass num_attention_heads (timm's models mostly have heads of width 64)"
    )


def describe_positions(
    arrays: Arrays, settings: dict, *, given, hints: tuple, no_embed_class: bool | None
) -> dict:
    """Returns the settings of the position table: whether it covers the prefix tokens, and the
    native size.
    """
    if "pos_embed" not in arrays:
        size = given or next((hint for hint in hints if hint), None)
        if size is None:
            raise ValueError(
                f"{arrays.path}: no pos_embed, which would say the size: pass native_image_size"
            )
        return {"position_embedding": "none", "image_size": as_size(size)}
    rows = arrays.shape("pos_embed")[1]
    num_prefix = int(settings["class_token"]) + settings["num_register_tokens"]
    covers = settings.pop(
        "prefix_position_embedding", None if no_embed_class is None else not no_embed_class
    )
    options = [True, False] if covers is None else [covers]
    options = [option for option in options if num_prefix or not option] or [False]
    hints = tuple(as_size(hint) for hint in hints if hint)
    source = f"{arrays.path}: pos_embed"
    fitting = [
        option
        for option in options
        if any(
            count_patches(settings, hint) == rows - num_prefix * option
            for hint in ((given,) if given else hints)
        )
    ] or options
    found, errors = {}, []
    for option in fitting:
        num_patches = rows - num_prefix * option
        try:
            found[option] = find_native_size(
                settings, num_patches, given=given, hints=hints, source=source
            )
        except ValueError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    if len(found) > 1:
        raise ValueError(
            f"{source} has {rows} positions, which fits a square grid with and without the "
            f"{num_prefix} prefix tokens: pass native_image_size, or prefix_position_embedding"
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
