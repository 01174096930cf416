# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of any format, opened as one of our models: described, read, filled once, then
resized.

Every array of the file is used, or known and said to be left out; anything else is refused. The
model is built without memory and takes the arrays as they are read, so the weights exist once.
"""

import os
from collections.abc import Iterable

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import logging

from ..modeling.checkpoint_geometry import default_names
from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from .geometry import Size
from .own_folders import FRESH_FOR_MASKED, TASKS, Loaded, load_own, no_head, own_task, summarise
from .recognition import FOREIGN, Checkpoint, open_checkpoint
from .rules import Description, read_parameters

logger = logging.get_logger(__name__)


def load_checkpoint(
    source,
    *,
    format: str | None = None,
    task: str | None = None,
    native_image_size: Size | None = None,
    image_size: Size | None = None,
    patch_size: Size | None = None,
    num_labels: int | None = None,
    id2label: dict[int, str] | None = None,
    **config_overrides,
):
    """Opens a checkpoint of ours, of transformers' ViT, of timm, or of the authors' JAX code.

    Args:
        source: a folder, a file or a Hub id. Its format is told from its content.
        format: `"vit_hf" | "transformers" | "timm" | "jax" | "big_vision"`, to insist on it.
        task: `"image-classification" | "features" | "masked-patch-prediction"`; `None` is the
            checkpoint's own.
        native_image_size: the size in pixels that the checkpoint was trained at, where its arrays
            do not say.
        image_size: the size wanted, an int or `(height, width)`; positions are resampled with the
            source's kernel.
        patch_size: the patch size wanted.
        num_labels: the number of classes wanted; another than the checkpoint's gets a fresh zero
            head.
        id2label: the names of the classes, in place of `num_labels`.
        **config_overrides: settings of `VisionTransformerConfig` that the checkpoint does not say
            (`num_attention_heads`, `hidden_act`), says ambiguously (`pooling="none"`) or that are
            to be dropped (`representation_size=None`).

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: for a source that is damaged, incomplete or of another kind, and for a fact that
            it lacks; the message names the file, the array, what was expected, and what to pass.
        ConnectionError: for a Hub id where the Hub cannot be reached.
    """
    loaded = load(
        source,
        format=format,
        task=task,
        native_image_size=native_image_size,
        image_size=image_size,
        patch_size=patch_size,
        num_labels=num_labels,
        id2label=id2label,
        config_overrides=config_overrides,
    )
    logger.info(f"{source}: recognised {loaded.recognised}")
    for change in loaded.changes:
        logger.warning(f"{source}: {change}")
    return loaded.model


def load(
    source,
    *,
    format=None,
    task=None,
    native_image_size=None,
    image_size=None,
    patch_size=None,
    num_labels=None,
    id2label=None,
    config_overrides: dict | None = None,
) -> Loaded:
    """Does what `load_checkpoint` does, and gives the account of it instead of logging it."""
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"got source={source!r}, allowed: a folder, a file or a Hub id")
    if task is not None and task not in TASKS:
        raise ValueError(f"got task={task!r}, allowed: {', '.join(TASKS)}")
    if id2label is not None:
        id2label = {int(index): name for index, name in id2label.items()}
        if num_labels not in (None, len(id2label)):
            raise ValueError(
                f"got num_labels={num_labels} and an id2label of {len(id2label)}; give one of them"
            )
        num_labels = len(id2label)
    overrides = dict(config_overrides or {})
    VisionTransformerConfig.refuse_unknown_names(overrides)
    checkpoint = open_checkpoint(source, format=format)
    if checkpoint.format == "vit_hf":
        if native_image_size is not None:
            raise ValueError(
                f"got native_image_size={native_image_size}; the config.json of {source} has its "
                "own"
            )
        wanted = {
            "image_size": image_size,
            "patch_size": patch_size,
            "num_labels": num_labels if id2label is None else None,
            "id2label": id2label,
        }
        wanted = {name: value for name, value in wanted.items() if value is not None}
        saved = own_task(checkpoint)
        return load_own(checkpoint, saved, settle_task(task, saved, num_labels), wanted | overrides)
    description = FOREIGN[checkpoint.format].describe(
        checkpoint,
        native_image_size=native_image_size,
        wanted_image_size=image_size,
        overrides=overrides,
    )
    task = settle_task(task, description.task, num_labels)
    loaded = fill(
        checkpoint, description, task, overrides, num_labels=num_labels, id2label=id2label
    )
    loaded.changes += resize(loaded.model, image_size, patch_size)
    loaded.model.eval()
    return loaded


def settle_task(task: str | None, saved: str, num_labels: int | None) -> str:
    """Returns the task to load for: as asked for, or else the checkpoint's own; an encoder that is
    given labels becomes a classifier.

    Raises:
        ValueError: for labels with a task that has none.
    """
    if task is None:
        wants_head = num_labels is not None and saved == "features"
        task = "image-classification" if wants_head else saved
    if num_labels is not None and task != "image-classification":
        raise ValueError(
            f"got num_labels={num_labels} with task={task!r}, which has no classes; leave one of "
            "them out"
        )
    return task


def fill(
    checkpoint: Checkpoint,
    description: Description,
    task: str,
    overrides: dict,
    *,
    num_labels: int | None,
    id2label: dict[int, str] | None,
) -> Loaded:
    """Builds the model that a description says and fills every parameter from the arrays, once."""
    settings = {**description.settings, **overrides}
    if task == "masked-patch-prediction":
        settings["representation_size"] = None
    dropped = dict(description.known)
    if settings.get("representation_size") is None:
        dropped |= dict.fromkeys(description.representation_keys, "the representation layer")
    kept_labels = labels_kept(checkpoint, description, task, settings, num_labels, id2label)
    if not kept_labels:
        dropped |= dict.fromkeys(description.head_keys, "the head")
    layout = description.layout if FOREIGN[checkpoint.format].REMEMBERS_LAYOUT else None
    config = VisionTransformerConfig(**{**settings, "source_layout": layout or None})
    set_labels(config, kept_labels, (id2label or description.id2label) if kept_labels else None)
    with torch.device("meta"):
        model = TASKS[task](config)
    recognised = f"{description.recognised}: {summarise(config)}"
    used = read_into(model, checkpoint, description, task, dropped)
    left_out = {key: why for key, why in dropped.items() if key in checkpoint.arrays}
    left_out = {key: why for key, why in left_out.items() if key not in used}
    refuse_leftovers(checkpoint.arrays, used | set(left_out), checkpoint.format)
    changes = [*description.notes, *say_left_out(left_out)]
    if task == "image-classification":
        count = description.num_labels if num_labels is None else num_labels
        changes += settle_head(model, kept_labels, count, id2label)
    return Loaded(model, checkpoint.format, checkpoint.path, recognised, changes)


def labels_kept(checkpoint, description, task: str, settings: dict, num_labels, id2label) -> int:
    """Returns the number of classes of the checkpoint's head, or 0 where another takes its place.

    Raises:
        ValueError: where a head is wanted, the checkpoint has none, and its size is not given.
    """
    if task != "image-classification":
        return 0
    if description.num_labels is None:
        if num_labels is None:
            raise no_head(checkpoint)
        return 0
    same_count = num_labels in (None, description.num_labels)
    same_names = id2label is None or description.id2label in (None, id2label)
    # A head was trained on what its representation layer gives.
    had, has = (where.get("representation_size") for where in (description.settings, settings))
    return description.num_labels if same_count and same_names and had == has else 0


def settle_head(model, kept_labels: int, num_labels: int | None, id2label) -> list[str]:
    """Puts in a fresh head where none was kept; returns what there is to say about the head."""
    if not kept_labels:
        model.reset_classifier(
            **({"num_labels": num_labels} if id2label is None else {"id2label": id2label})
        )
        return [f"Put in a fresh zero head for {model.num_labels} labels."]
    if model.classifier.weight.any():
        return []
    return [
        "The head is all zeros, as those of ImageNet-21k checkpoints are: it predicts nothing "
        "before it is fine-tuned."
    ]


def set_labels(config, num_labels: int, id2label: dict[int, str] | None):
    """Sets the classes of a configuration; without names they get transformers' default ones."""
    config.id2label = id2label or default_names(num_labels)
    config.label2id = {name: index for index, name in config.id2label.items()}


def read_into(
    model, checkpoint: Checkpoint, description: Description, task: str, dropped: dict[str, str]
) -> set[str]:
    """Reads every parameter of a model that is on no device; returns the keys that were read.

    Arrays that the format has rules for, but the model no parameters, are added to `dropped`.
    """
    module, config, arrays = FOREIGN[checkpoint.format], model.config, checkpoint.arrays
    place = "" if task == "features" else "vit."
    names = {name.removeprefix(place): name for name in dict(model.named_parameters())}
    shapes = {name: tuple(model.get_parameter(full).shape) for name, full in names.items()}
    wanted = []
    for entry in module.rules(config, module.DEFAULT_LAYOUT | description.layout):
        may_be_fresh = entry.ours[0] in FRESH_FOR_MASKED and entry.theirs not in arrays
        if entry.ours[0] in shapes and not may_be_fresh:
            wanted.append(entry)
        else:
            dropped.setdefault(entry.theirs, f"not part of {type(model).__name__}")
    fresh = set(shapes) - {name for entry in wanted for name in entry.ours}
    if fresh - set(FRESH_FOR_MASKED):
        raise ValueError(
            f"{arrays.path}: the format {checkpoint.format!r} has no array for "
            f"{', '.join(sorted(fresh - set(FRESH_FOR_MASKED)))}, which the settings given ask "
            "for: leave those settings out"
        )
    dtypes = {arrays.dtype(entry.theirs) for entry in wanted if entry.theirs in arrays}
    # Flax's parameters are used in float32 whatever they are stored in; PyTorch's stay as stored.
    dtype = torch.float32 if arrays.kind == "npz" or len(dtypes) > 1 else None
    parameters = read_parameters(arrays, wanted, shapes, dtype=dtype)
    state = {names[name]: tensor for name, tensor in parameters.items()}
    model.load_state_dict(state, strict=False, assign=True)
    start_afresh(model, fresh, dtype=dtype or next(iter(dtypes)))
    return {entry.theirs for entry in wanted}


def start_afresh(model, names: set[str], *, dtype: torch.dtype):
    """Gives initial values to what masked patch prediction has and the checkpoint has not."""
    if "embeddings.mask_token" in names:
        token = torch.empty(1, 1, model.config.hidden_size, dtype=dtype)
        model.vit.embeddings.mask_token = nn.Parameter(token)
        init.normal_(token, std=model.config.initializer_range)
    if "prediction_head.weight" in names:
        head = model.prediction_head
        model.prediction_head = nn.Linear(head.in_features, head.out_features, dtype=dtype)
        model._init_weights(model.prediction_head)


def say_left_out(left_out: dict[str, str]) -> list[str]:
    """Returns a line for each reason for which arrays were left out."""
    lines = []
    for why in dict.fromkeys(left_out.values()):
        keys = [key for key, reason in left_out.items() if reason == why]
        some = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
        lines.append(f"Left out {len(keys)} array{'s' * (len(keys) > 1)} ({some}): {why}.")
    return lines


def refuse_leftovers(arrays, used: Iterable[str], format: str):
    """Raises a `ValueError` for arrays that nothing has used."""
    leftovers = sorted(set(arrays) - set(used))
    if leftovers:
        raise ValueError(
            f"{arrays.path}: got {len(leftovers)} arrays that a checkpoint of the format "
            f"{format!r} with these shapes does not have: {', '.join(map(repr, leftovers[:5]))}. "
            "Expected none beside the model's. It may be another kind of model; if they are not "
            "needed, save the file again without them"
        )


def resize(model, image_size: Size | None, patch_size: Size | None) -> list[str]:
    """Gives a model the sizes wanted; returns what was changed."""
    if image_size is None and patch_size is None:
        return []
    config = model.config
    before = config.image_size, config.patch_size, config.grid
    model.set_image_size(image_size or config.image_size, patch_size=patch_size)
    changes = []
    if before[2] != config.grid:
        changes.append(
            f"Resampled the positions from the grid {before[2]} to {config.grid} "
            f"({config.interpolation}), for images of {config.image_size} in place of {before[0]}."
        )
    if before[1] != config.patch_size:
        changes.append(f"Resized the patches from {before[1]} to {config.patch_size}.")
    return changes
