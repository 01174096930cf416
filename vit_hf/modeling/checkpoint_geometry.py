# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint at another geometry: loaded as it was saved, then resized and re-headed.

So a resampled table is never confused with a mismatched one, and nothing that was trained is
re-initialised.
"""

import copy
import difflib
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from .labels import default_names, indices_of, named_labels

logger = logging.get_logger(__name__)

# Arguments that name the place of a checkpoint, for reading its configuration as saved.
PLACE_ARGUMENTS = (
    "cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token",
)  # fmt: skip


def load_pretrained(load, config_class: Any, path, *model_args, config=None, **kwargs):
    """Loads the checkpoint at `path` as it was saved, then gives it the sizes and labels wanted.

    Args:
        load: transformers' `from_pretrained` of the class.
        config_class: the class's configuration.
        path: folder or Hub id; `None` with a `state_dict` and a `config` loads nothing and adapts
            nothing.
        config: configuration wanted, or its place; `None` is the checkpoint's own. The settings
            in `kwargs` change it.
        kwargs: settings of the configuration, and arguments of transformers' `from_pretrained`.
    """
    if path is None:
        return load(path, *model_args, config=config, **kwargs)
    place = {name: kwargs[name] for name in PLACE_ARGUMENTS if name in kwargs}
    saved = read_saved_config(config_class, path, place)
    settings = take_settings(kwargs, config_class)
    if config is None:
        config = saved
    elif not isinstance(config, PreTrainedConfig):
        config = read_saved_config(config_class, config, {})
    wanted: Any = copy.deepcopy(config)
    for name, value in settings.items():
        setattr(wanted, name, value)
    wanted.validate()
    wanted.label2id = indices_of(wanted.id2label)
    has_names = saved.id2label != default_names(saved.num_labels)
    new_labels = wanted.num_labels != saved.num_labels or (
        has_names and wanted.id2label != saved.id2label
    )
    as_saved = copy.deepcopy(wanted)
    as_saved.image_size, as_saved.patch_size = saved.image_size, saved.patch_size
    if new_labels:
        as_saved.id2label, as_saved.label2id = saved.id2label, saved.label2id
    loaded = load(path, *model_args, config=as_saved, **kwargs)
    model = loaded[0] if kwargs.get("output_loading_info") else loaded
    adapt(model, wanted, new_labels=new_labels)
    return loaded


def adapt(model, wanted, *, new_labels: bool):
    """Gives a loaded model the sizes of `wanted`, and a zero head where the labels are new."""
    if (wanted.image_hw, wanted.patch_hw) != (model.config.image_hw, model.config.patch_hw):
        refuse_offloaded(model.base_model.positions, model.base_model.embeddings)
        model.set_image_size(wanted.image_size, patch_size=wanted.patch_size)
    if not new_labels:
        return
    old_count = model.config.num_labels
    if not hasattr(model, "reset_classifier"):
        model.config.id2label, model.config.label2id = wanted.id2label, wanted.label2id
        return
    refuse_offloaded(model.classifier)
    model.reset_classifier(id2label=wanted.id2label)
    bias = wanted.classifier_bias_init
    said = f", with the bias classifier_bias_init={bias}" if bias else ""
    logger.warning(
        f"Put in a fresh zero head for {wanted.num_labels} labels in place of the checkpoint's "
        f"{old_count}{said}. To rename labels and keep the head, load without id2label and set "
        "model.config.id2label."
    )


def refuse_offloaded(*parts):
    """Raises a `ValueError` where weights that are to change are not in memory."""
    if any(parameter.is_meta for part in parts for parameter in part.parameters()):
        raise ValueError(
            "got another size or other labels with a device_map that offloads the weights which "
            "they change; load the checkpoint so without device_map, save it, and load that"
        )


def read_saved_config(config_class: Any, path, place: dict):
    """Returns the configuration at `path` as saved; a `ValueError` where it is another model's."""
    config_dict, _ = config_class.get_config_dict(path, **place)
    model_type = config_dict.get("model_type", config_class.model_type)
    if model_type != config_class.model_type:
        raise ValueError(
            f"got {path}, a checkpoint of model_type {model_type!r}, allowed: "
            f"{config_class.model_type!r}; convert it first: vit_hf.converters.load_checkpoint "
            "opens transformers', timm's and the authors' checkpoints"
        )
    return config_class.from_dict(config_dict)


def take_settings(kwargs: dict, config_class: Any) -> dict:
    """Takes the configuration's settings out of `kwargs`; a `ValueError` for a misspelt one."""
    fields = set(config_class.__dataclass_fields__) - {"dtype"}
    fields |= {"num_labels", "output_attentions"}
    settings = {name: kwargs.pop(name) for name in list(kwargs) if name in fields}
    for name in kwargs:
        close = difflib.get_close_matches(name, fields, n=1, cutoff=0.8)
        if close:
            raise ValueError(f"got {name!r}, which is not a setting. Did you mean {close[0]!r}?")
    given = {name: settings.pop(name, None) for name in ("id2label", "label2id")}
    if any(names is not None for names in given.values()):  # which say the count too
        settings["id2label"] = named_labels(settings.pop("num_labels", None), **given)
    return settings
