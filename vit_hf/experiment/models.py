# SPDX-License-Identifier: Apache-2.0
"""From flags to a model: a checkpoint of any format, or an architecture with fresh weights."""

from typing import Any

from .. import VisionTransformerConfig
from ..converters import load_checkpoint, load_image_processor
from ..converters.image_processors import authors_processor
from ..converters.loading import TASKS
from ..recipes import get
from .arguments import ModelArguments, as_size, parse_settings

# What a checkpoint's configuration says beside its architecture.
NOT_ARCHITECTURE = (
    "id2label", "label2id", "architectures", "transformers_version", "model_type", "dtype",
    "auto_map",
)  # fmt: skip


def make_model(model: ModelArguments, *, task: str, names: list[str] | None):
    """Makes the model that the flags describe.

    Args:
        model: the flags.
        task: "image-classification" or "masked-patch-prediction".
        names: names of the classes, which the head gets; other names than the checkpoint's own get
            a fresh zero head.

    Returns:
        One of the models of this package.
    """
    settings = settings_of(model)
    if names is not None:
        if settings.get("num_labels", len(names)) != len(names):
            raise ValueError(
                f"got num_labels={settings['num_labels']} for images of {len(names)} classes "
                f"({', '.join(names[:5])}{', ...' * (len(names) > 5)}), which the head gets; leave "
                "num_labels out"
            )
        settings["id2label"] = dict(enumerate(names))
    source = model.model_name_or_path
    if source is not None and not model.from_scratch:
        loaded: Any = load_checkpoint(source, task=task, **settings)
        if model.fresh_positions:
            fresh = TASKS[task](loaded.config).base_model.positions.state_dict()
            loaded.base_model.positions.load_state_dict(fresh)
        return loaded
    if source is not None:
        other: Any = load_checkpoint(source)
        own = other.config.to_diff_dict()
        settings = {name: own[name] for name in own if name not in NOT_ARCHITECTURE} | settings
    if "id2label" in settings:
        settings["label2id"] = {name: label for label, name in settings["id2label"].items()}
    return TASKS[task](VisionTransformerConfig(**settings))


def settings_of(model: ModelArguments) -> dict:
    """Returns the settings of the configuration that the flags and the recipe ask for."""
    recipe = get(model.recipe) if model.recipe else None
    # A pre-training recipe describes a whole architecture: a checkpoint brings its own.
    counts = recipe and (recipe.task == "finetune" or model.model_name_or_path is None)
    settings = dict(recipe.model) if recipe and counts else {}
    given = parse_settings(model.settings, "settings")
    if settings.get("representation_size") is not None and "hidden_size" in given:
        settings["representation_size"] = given["hidden_size"]  # is as wide as the model
    settings |= given
    if model.image_size is not None:
        settings["image_size"] = as_size(model.image_size, "image_size")
    return settings


def make_image_processor(model: ModelArguments, config):
    """Returns the preprocessing to train with and to save: the checkpoint's mean and deviation."""
    processor = authors_processor(config)
    source = model.model_name_or_path
    if source is not None and not model.from_scratch:
        found = load_image_processor(source)
        processor.image_mean, processor.image_std = found.image_mean, found.image_std
    return processor
