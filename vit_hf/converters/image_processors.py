# SPDX-License-Identifier: Apache-2.0
"""The image processor that belongs to a checkpoint: size, resampling, crop, mean, deviation."""

from math import floor

from transformers import ViTImageProcessorPil
from transformers.utils.import_utils import is_torchvision_available

from ..modeling.configuration_vision_transformer import as_pair
from .geometry import Size
from .recognition import FOREIGN, Checkpoint, open_checkpoint

RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
# The authors' preprocessing: squashed to the size, bilinear, pixels in [-1, 1].
AUTHORS = {"resample": RESAMPLING["bilinear"], "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
# Settings of a preprocessor_config.json that both generations of transformers' processors know.
KNOWN_SETTINGS = (
    "do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean",
    "image_std", "do_center_crop", "crop_size",
)  # fmt: skip


def load_image_processor(
    source,
    *,
    format: str | None = None,
    native_image_size: Size | None = None,
    image_size: Size | None = None,
):
    """Returns the image processor of a checkpoint.

    Args:
        source: a folder, a file or a Hub id, as for `load_checkpoint`.
        format: the format, to insist on it.
        native_image_size: the size that the checkpoint was trained at, where it does not say.
        image_size: the size wanted; `None` is the checkpoint's own.

    Returns:
        transformers' `ViTImageProcessor`, or its PIL twin where torchvision is not installed.

    Raises:
        ValueError: as for `load_checkpoint`.
    """
    checkpoint = open_checkpoint(source, format=format)
    if checkpoint.format == "vit_hf":
        settings = {
            name: value
            for name, value in checkpoint.preprocessing.items()
            if name in KNOWN_SETTINGS
        }
        settings = AUTHORS | settings
        native = checkpoint.config["image_size"]
        channels = checkpoint.config.get("num_channels", 3)
    else:
        # What is asked here needs no heads, which timm's arrays do not say.
        description = FOREIGN[checkpoint.format].describe(
            checkpoint,
            native_image_size=native_image_size,
            wanted_image_size=image_size,
            overrides={"num_attention_heads": 1},
        )
        native, channels = description.settings["image_size"], description.settings["num_channels"]
        settings = SETTINGS[checkpoint.format](checkpoint)
    return build(
        settings,
        as_pair(image_size or native),
        num_channels=channels,
        resized=image_size is not None,
    )


def authors_processor(config):
    """Returns the authors' preprocessing at a model's native size."""
    return build(AUTHORS, config.image_hw, num_channels=config.num_channels)


def build(
    settings: dict, image_hw: tuple[int, ...], *, num_channels: int = 3, resized: bool = False
):
    """Builds a processor from settings and a size.

    Args:
        settings: of transformers' ViT processors, with `crop_pct` and `crop_mode` as timm has them,
            or none.
        image_hw: height and width that the model gets.
        num_channels: channels of the image.
        resized: whether the size was asked for, and replaces the one in `settings`.
    """
    settings = dict(settings)
    crop_share, crop_mode = (
        settings.pop("crop_pct", None),
        settings.pop("crop_mode", None) or "center",
    )
    if crop_share is not None:
        settings |= crop_settings(image_hw, crop_share, crop_mode)
    elif resized or "size" not in settings:
        settings["size"] = {"height": image_hw[0], "width": image_hw[1]}
        if settings.pop("do_center_crop", False):
            settings |= {"do_center_crop": True, "crop_size": settings["size"]}
    if num_channels == 3:
        settings["do_convert_rgb"] = True
    else:
        for name in ("image_mean", "image_std"):
            settings[name] = [settings[name][0]] * num_channels
    return processor_class()(**settings)


def crop_settings(image_hw: tuple[int, ...], share: float, mode: str) -> dict:
    """Returns the settings of timm's evaluation crop: resized to `size / share`, then cropped from
    the centre.
    """
    height, width = image_hw
    larger = {"height": floor(height / share), "width": floor(width / share)}
    if mode != "squash" and height == width:
        larger = {"shortest_edge": larger["height"]}
    return {"size": larger, "do_center_crop": True, "crop_size": {"height": height, "width": width}}


def processor_class():
    """Returns the processor with torchvision's backend, or with PIL's where it is not installed."""
    if not is_torchvision_available():
        return ViTImageProcessorPil
    from transformers import ViTImageProcessor

    return ViTImageProcessor


def timm_settings(checkpoint: Checkpoint) -> dict:
    """Returns the settings in timm's `pretrained_cfg`; without one, those of timm's ViTs: the
    authors'.
    """
    config = checkpoint.config.get("pretrained_cfg") or checkpoint.config
    if "mean" not in config:
        return dict(AUTHORS)
    return {
        "resample": RESAMPLING[config.get("interpolation") or "bicubic"],
        "image_mean": list(config["mean"]),
        "image_std": list(config["std"]),
        "crop_pct": config.get("crop_pct") or 0.875,
        "crop_mode": config.get("crop_mode"),
    }


def transformers_settings(checkpoint: Checkpoint) -> dict:
    """Returns the settings in `preprocessor_config.json`; without one, those of transformers' ViT
    processor.
    """
    settings = {
        name: value for name, value in checkpoint.preprocessing.items() if name in KNOWN_SETTINGS
    }
    return AUTHORS | settings


def authors_settings(checkpoint: Checkpoint) -> dict:
    """Returns the authors' settings, which their files do not mention."""
    return dict(AUTHORS)


SETTINGS = {
    "transformers": transformers_settings,
    "timm": timm_settings,
    "jax": authors_settings,
    "big_vision": authors_settings,
}


def to_timm(processor, image_hw: tuple[int, int]) -> dict:
    """Returns timm's `pretrained_cfg` entries of a processor; `None` is the authors'."""
    processor = processor or build(AUTHORS, image_hw)
    size = processor.size
    edge = dict(size).get("shortest_edge")
    resized = (edge, edge) if edge else (size["height"], size["width"])
    # Rounded down, so that timm's floor(wanted / share) gives the size back.
    shares = [
        floor(wanted / got * 1e6) / 1e6 for wanted, got in zip(image_hw, resized, strict=True)
    ]
    name = next(name for name, number in RESAMPLING.items() if number == int(processor.resample))
    return {
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "interpolation": name,
        "crop_pct": min(1.0, *shares),
        "crop_mode": "center" if edge else "squash",
    }
