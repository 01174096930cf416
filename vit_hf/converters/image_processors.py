# SPDX-License-Identifier: Apache-2.0
"""The image processor that belongs to a checkpoint: size, resampling, crop, mean, deviation."""

import json
from math import floor
from pathlib import Path
from typing import Any

from transformers import ViTImageProcessorPil
from transformers.image_processing_utils import get_size_dict
from transformers.utils import logging
from transformers.utils.import_utils import is_torchvision_available

from ..modeling.configuration_vision_transformer import as_pair
from .geometry import Size
from .recognition import FOREIGN, Checkpoint, open_checkpoint

logger = logging.get_logger(__name__)

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
        image_size: the size wanted; `None` is the checkpoint's own. At its native size its settings
            stay as they are; at another the crop keeps its share of the resized image. Settings
            that leave images of several sizes give way to a resize to the size wanted.

    Returns:
        transformers' `ViTImageProcessor`, or its PIL twin where torchvision is not installed.

    Raises:
        ValueError: as for `load_checkpoint`.
    """
    checkpoint = open_checkpoint(source, format=format)
    if checkpoint.format == "vit_hf":
        native = as_pair(checkpoint.config["image_size"])
        channels = checkpoint.config.get("num_channels", 3)
    else:
        # What is asked here needs no heads, which timm's arrays do not say.
        description = FOREIGN[checkpoint.format].describe(
            checkpoint,
            native_image_size=native_image_size,
            wanted_image_size=image_size,
            overrides={"num_attention_heads": 1},
        )
        native = as_pair(description.settings["image_size"])
        channels = description.settings["num_channels"]
    settings = SETTINGS[checkpoint.format](checkpoint, native)
    if image_size is not None:
        settings = at_size(settings, as_pair(image_size), native_hw=native)
    return build(settings, native, num_channels=channels)


def authors_processor(config):
    """Returns the authors' preprocessing at a model's native size."""
    return build(AUTHORS, config.image_hw, num_channels=config.num_channels)


def build(settings: dict, image_hw: tuple[int, ...], *, num_channels: int = 3):
    """Builds a processor from settings of transformers' ViT processors.

    Args:
        settings: which may lack a size.
        image_hw: height and width that an image is resized to where they do.
        num_channels: channels of the image.
    """
    settings = {"size": size_of(image_hw)} | settings
    if num_channels == 3:
        settings["do_convert_rgb"] = True
    else:
        for name in ("image_mean", "image_std"):
            settings[name] = [settings[name][0]] * num_channels
    return processor_class()(**settings)


def at_size(settings: dict, image_hw: tuple[int, ...], *, native_hw: tuple[int, ...]) -> dict:
    """Returns settings that give images of another size than the native one."""
    size = get_size_dict(settings.get("size", size_of(native_hw)))
    is_cropped = settings.get("do_center_crop", False)
    is_resized = settings.get("do_resize", True)
    has_one_size = is_cropped or (is_resized and {"height", "width"} <= set(size))
    if image_hw == native_hw and has_one_size:
        return settings
    wanted = size_of(image_hw)
    if not is_cropped:
        return settings | {"do_resize": True, "size": wanted}
    crop = get_size_dict(settings["crop_size"])
    larger = max(wanted, key=lambda side: wanted[side] / crop[side])  # so that the crop is filled
    size = {
        name: length * wanted[side] // crop[side]
        for name, length in size.items()
        for side in (name if name in wanted else larger,)
    }
    return settings | {"size": size, "crop_size": wanted}


def size_of(image_hw: tuple[int, ...]) -> dict[str, int]:
    """Returns a size as transformers' processors spell it."""
    return {"height": image_hw[0], "width": image_hw[1]}


def crop_settings(image_hw: tuple[int, ...], share: float) -> dict:
    """Returns the settings that squash an image to `size / share`, and crop it from the centre."""
    larger = (floor(side / share) for side in image_hw)
    return {
        "size": size_of(tuple(larger)),
        "do_center_crop": True,
        "crop_size": size_of(image_hw),
    }


def save_image_processor(processor, folder: Path, config) -> None:
    """Writes a model's `preprocessor_config.json`; a processor of `None` is the authors'.

    The name of the class is the one that every release of transformers knows; without torchvision
    it opens the PIL twin. Grey, palette, CMYK and transparent images are errors without the
    conversion to RGB.
    """
    processor = processor or authors_processor(config)
    processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    entries["image_processor_type"] = "ViTImageProcessor"
    if config.num_channels == 3:
        entries["do_convert_rgb"] = True
    path.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def processor_class():
    """Returns the processor with torchvision's backend, or with PIL's where it is not installed."""
    if not is_torchvision_available():
        return ViTImageProcessorPil
    from transformers import ViTImageProcessor

    return ViTImageProcessor


def timm_settings(checkpoint: Checkpoint, native_hw: tuple[int, ...]) -> dict:
    """Returns the settings in timm's `pretrained_cfg`; without one, those of timm's ViTs: the
    authors'.
    """
    config = checkpoint.config.get("pretrained_cfg") or checkpoint.config
    if "mean" not in config:
        return dict(AUTHORS)
    crop = crop_settings(native_hw, config.get("crop_pct") or 0.875)
    mode, height, width = config.get("crop_mode") or "center", *native_hw
    if mode == "center" and height == width:
        crop["size"] = {"shortest_edge": crop["size"]["height"]}
    elif mode != "squash":
        logger.warning(
            f"{checkpoint.path}: timm's crop_mode={mode!r} at {height}x{width} pixels keeps an "
            "image's aspect in a way that transformers' image processor cannot: it is squashed "
            "here, and images of another aspect get other numbers than timm's."
        )
    return crop | {
        "resample": RESAMPLING[config.get("interpolation") or "bicubic"],
        "image_mean": list(config["mean"]),
        "image_std": list(config["std"]),
    }


def transformers_settings(checkpoint: Checkpoint, native_hw: tuple[int, ...]) -> dict:
    """Returns the settings in `preprocessor_config.json`; without one, those of transformers' ViT
    processor.
    """
    return AUTHORS | {
        name: value for name, value in checkpoint.preprocessing.items() if name in KNOWN_SETTINGS
    }


def authors_settings(checkpoint: Checkpoint, native_hw: tuple[int, ...]) -> dict:
    """Returns the authors' settings, which their files do not mention."""
    return dict(AUTHORS)


SETTINGS = {
    "vit_hf": transformers_settings,
    "transformers": transformers_settings,
    "timm": timm_settings,
    "jax": authors_settings,
    "big_vision": authors_settings,
}


def to_timm(processor: Any, image_hw: tuple[int, int]) -> dict:
    """Returns timm's `pretrained_cfg` entries of a processor; `None` is the authors'.

    Raises:
        ValueError: for a processor that leaves images of several sizes, which timm's never does.
    """
    processor = processor or build(AUTHORS, image_hw)
    size = {name: side for name, side in dict(processor.size).items() if side is not None}
    edge = size.get("shortest_edge")
    kept = dict(processor.crop_size) if processor.do_center_crop else size
    if not processor.do_resize or "height" not in kept:
        raise ValueError(
            f"the format 'timm' cannot hold an image processor with do_resize="
            f"{processor.do_resize}, size={size} and do_center_crop={processor.do_center_crop}; "
            "allowed: one that resizes, to a height and width or to be cropped"
        )
    # Rounded down, so that timm's floor(wanted / share) gives the size back.
    shares = [floor(kept[side] / (edge or size[side]) * 1e6) / 1e6 for side in ("height", "width")]
    name = next(name for name, number in RESAMPLING.items() if number == int(processor.resample))
    mean, deviation = processor.image_mean, processor.image_std
    if not processor.do_normalize:
        mean, deviation = [0.0] * len(mean), [1.0] * len(mean)
    # timm divides by 255, whatever the factor.
    unit = 255 * processor.rescale_factor if processor.do_rescale else 255
    return {
        "mean": [value / unit for value in mean],
        "std": [value / unit for value in deviation],
        "interpolation": name,
        "crop_pct": min(1.0, *shares),
        "crop_mode": "center" if edge else "squash",
    }
