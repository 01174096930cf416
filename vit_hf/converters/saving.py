# SPDX-License-Identifier: Apache-2.0
"""One of our models, written as a checkpoint of another project: whole, or not at all.

The rules that read a format write it. What the other side cannot hold is refused by the setting's
name. Files are written under a temporary name and renamed when they are complete.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import logging

from . import image_processors
from .arrays import write_npz, write_safetensors
from .loading import TASKS
from .recognition import FOREIGN, FORMATS, OWN_MODEL_TYPE, folder_of, read_json
from .rules import expected_shape, write_parameters

logger = logging.get_logger(__name__)

FILE_FORMATS = ("jax", "big_vision")
# What a layout may ask for: the values of each entry, `None` for any text.
DTYPES = ("float32", "bfloat16")
LAYOUTS: dict[str, dict] = {
    "transformers": {"names": tuple(FOREIGN["transformers"].LAYER_NAMES)},
    "jax": {
        "prefix": None,
        "names": tuple(FOREIGN["jax"].BLOCK_NAMES),
        "group_norm": ("vector", "image"),
        "dtype": DTYPES,
    },
    "big_vision": {
        "prefix": None,
        "names": tuple(FOREIGN["jax"].BLOCK_NAMES),
        "scan": (True, False),
        "dtype": DTYPES,
    },
}
# What a conversion to a folder leaves there beside config.json, and the `model_type` in that.
WRITTEN = {
    "vit_hf": (
        "model*.safetensors*",
        "preprocessor_config.json",
        "parity.json",
        "*.py",
        "README.md",
    ),
    "transformers": ("model.safetensors", "preprocessor_config.json", "parity.json"),
    "timm": ("model.safetensors", "parity.json"),
}
MODEL_TYPES = {"vit_hf": OWN_MODEL_TYPE, "transformers": "vit", "timm": None}
# Whether the position table of a format has rows for the class token (and registers); timm can do
# either.
COVERS_PREFIX = {"jax": True, "transformers": True, "big_vision": False}
STEM_SETTINGS = ("stem_norm_eps", "stem_weight_eps", "stem_weight_eps_placement")
# Settings of training that a format may lack; they are said and not refused, as no output depends
# on them.
TRAINING_SETTINGS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "patch_dropout_rate",
    "classification_loss",
    "classifier_bias_init",
)


def save_checkpoint(
    model, path, *, format: str, image_processor=None, layout: dict | None = None
) -> Path:
    """Writes a model as a checkpoint.

    Args:
        model: any of the package's models.
        path: a folder for `"vit_hf"`, `"transformers"` and `"timm"`; a file for `"jax"` and
            `"big_vision"`.
        format: `"vit_hf"`, or `"transformers"`: a folder that stock transformers opens without
            remote code; `"timm"`: a folder that `timm.create_model("local-dir:...",
            pretrained=True)` opens; `"jax"` and `"big_vision"`: an `.npz` file as the authors' code
            reads it.
        image_processor: the preprocessing that goes with it; `None` is the authors', at the model's
            native size.
        layout: how a JAX file spells its arrays, where it is not to be as the model's source had
            it: `{"prefix": "opt/target/", "names": "released" | "linen", "group_norm": "vector" |
                "image", "scan": True,
            "dtype": "float32" | "bfloat16"}`, or some of these.

    Returns:
        The path.

    Raises:
        ValueError: for what the format cannot hold, by the name of the setting; nothing is written
            then.
    """
    if format not in FORMATS:
        raise ValueError(f"got format={format!r}, allowed: {', '.join(FORMATS)}")
    check_layout(layout, format)
    path = Path(path).expanduser()
    if format in FILE_FORMATS and path.is_dir():
        raise ValueError(
            f"got {path}, a folder; the format {format!r} is one file: give its name, such as "
            "model.npz"
        )
    if format not in FILE_FORMATS and path.is_file():
        raise ValueError(f"got {path}, a file; the format {format!r} is a folder: give its name")
    task = task_of(model)
    if format == "vit_hf":
        with staged(path, folder=True) as place:
            model.save_pretrained(place)
            image_processors.save_image_processor(image_processor, place, model.config)
        return path
    refuse(model.config, format, task)
    layout = settle_layout(model.config, format, task, layout)
    parameters = gather(model, format, task)
    rules = [
        entry
        for entry in FOREIGN[format].rules(model.config, layout)
        if entry.ours[0] in parameters
    ]
    refuse_unwritten(parameters, rules, format)
    with staged(path, folder=format not in FILE_FORMATS) as place:
        if format in FILE_FORMATS:
            write_npz(
                place, cast(write_parameters(rules, parameters), dtype_of(layout, parameters))
            )
        else:
            write_folder(
                place, model.config, format, task, layout, image_processor, rules, parameters
            )
    return path


def check_destination(path: Path, *, format: str, source: Path, beside: Sequence[str] = ()):
    """Raises a `ValueError` where a conversion would write over its source, or over something else
    than an earlier conversion to `format`.

    Args:
        path: the file or folder to write.
        format: one of `FORMATS`.
        source: the file or folder that is converted.
        beside: patterns of other files that an earlier one may have left.
    """
    if path.exists() and path.resolve() in (source.resolve(), folder_of(source).resolve()):
        raise ValueError(f"got {path}, which is the source too; give another place to write to")
    if not path.is_dir() or format in FILE_FORMATS or not any(path.iterdir()):
        return
    others = sorted(
        file.name
        for file in path.iterdir()
        if not any(file.match(name) for name in ("config.json", *WRITTEN[format], *beside))
    )
    model_type = read_json(path / "config.json").get("model_type")
    if others or model_type != MODEL_TYPES[format]:
        raise ValueError(
            f"got the folder {path}, which holds something else than an earlier conversion to "
            f"{format!r}{' (' + ', '.join(others[:3]) + ')' if others else ''}; give a new folder"
        )


def write_folder(place: Path, config, format, task, layout, image_processor, rules, parameters):
    """Writes the weights, the configuration and the preprocessing of a folder format."""
    shapes = [
        expected_shape(entry, [parameters[name].shape for name in entry.ours]) for entry in rules
    ]
    dtypes = [parameters[entry.ours[0]].dtype for entry in rules]
    names = [entry.theirs for entry in rules]
    write_safetensors(
        place / "model.safetensors",
        list(zip(names, shapes, dtypes, strict=True)),
        (tensor for _, tensor in write_parameters(rules, parameters)),
    )
    if format == "transformers":
        entries = FOREIGN[format].write_config(config, task=task, dtype=dtypes[0])
        image_processors.save_image_processor(image_processor, place, config)
    else:
        entries = FOREIGN[format].write_config(
            config,
            layout=layout,
            labels=config.id2label if has_names(config) else None,
            preprocessing=image_processors.to_timm(image_processor, config.image_hw),
        )
    (place / "config.json").write_text(
        json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def has_names(config) -> bool:
    """Whether the classes have names of their own, and not transformers' default ones."""
    return any(name != f"LABEL_{index}" for index, name in config.id2label.items())


def task_of(model) -> str:
    """Returns the task of a model, by its class."""
    for task, model_class in TASKS.items():
        if isinstance(model, model_class):
            return task
    names = ", ".join(model_class.__name__ for model_class in TASKS.values())
    raise ValueError(f"got a {type(model).__name__}, allowed: {names}")


def refuse(config, format: str, task: str):
    """Raises a `ValueError` with the setting that `format` cannot hold; says which training
    settings it lacks.
    """
    module = FOREIGN[format]
    for name, allowed in module.HOLDS.items():
        value = getattr(config, name)
        if config.stem_blocks is None and name in STEM_SETTINGS:
            continue
        if value not in allowed:
            raise ValueError(
                f"the format {format!r} cannot hold {name}={value!r}; allowed: a model with "
                f"{name}={' or '.join(map(repr, allowed))}, or the format 'vit_hf', which holds "
                "everything"
            )
    problem = module.refused(config)
    if problem is None and format == "transformers":
        problem = module.refused_by_task(config, task)
    elif problem is None and task == "masked-patch-prediction":
        problem = (
            "a head for masked patch prediction; save model.vit, the encoder, or write 'vit_hf'"
        )
    if problem is not None:
        raise ValueError(f"the format {format!r} cannot hold {problem}")
    say_what_is_lost(config, format, task)


def say_what_is_lost(config, format: str, task: str):
    """Logs the settings that a format lacks and on which no output at the native size depends, and
    what the code that opens it puts in their place.
    """
    defaults = type(config)()
    lacking = [
        name for name in TRAINING_SETTINGS if getattr(config, name) != getattr(defaults, name)
    ]
    if format == "transformers":
        lacking = [name for name in lacking if not name.endswith("_prob")]
        if task == "features" and config.representation_size is None:
            logger.warning(
                "transformers' AutoModel and ViTModel add a pooler that was never trained, whose "
                "pooler_output differs at each loading: open the folder with "
                "add_pooling_layer=False, and take the class token of last_hidden_state."
            )
    if lacking:
        settings = ", ".join(f"{name}={getattr(config, name)}" for name in lacking)
        logger.warning(f"The format {format!r} has no place for the training settings {settings}.")
    theirs = FOREIGN[format].INTERPOLATION
    if config.interpolation != theirs and config.position_embedding == "learned_1d":
        logger.warning(
            f"At other image sizes a model of the format {format!r} resizes its positions by "
            f"{theirs}, not by {config.interpolation}; at {config.image_size} the outputs are the "
            "same."
        )


def check_layout(layout: dict | None, format: str):
    """Raises a `ValueError` for a layout that `format` does not have."""
    allowed = LAYOUTS.get(format, {})
    if set(layout or {}) - set(allowed):
        names = ", ".join(allowed) or "none"
        raise ValueError(f"got layout={layout}, allowed for the format {format!r}: {names}")
    for name, value in (layout or {}).items():
        values = allowed[name]
        if not (isinstance(value, str) if values is None else value in values):
            words = "any text" if values is None else ", ".join(map(repr, values))
            raise ValueError(
                f"got {name}={value!r} in the layout, allowed for the format {format!r}: {words}"
            )


def settle_layout(config, format: str, task: str, layout: dict | None) -> dict:
    """Returns the layout to write: the format's own, as the model's source had it, as asked for."""
    module = FOREIGN[format]
    remembered = config.source_layout or {}
    settled = (
        module.DEFAULT_LAYOUT
        | (remembered if remembered.get("format") == format else {})
        | (layout or {})
    )
    if format == "transformers":
        settled["prefix"] = "" if task == "features" else "vit."
    return settled


def gather(model, format: str, task: str) -> dict[str, torch.Tensor]:
    """Returns the parameters by the encoder's names, the position table as the format has it."""
    place = "" if task == "features" else "vit."
    parameters = {
        name.removeprefix(place): tensor.detach() for name, tensor in model.named_parameters()
    }
    if (
        task != "masked-patch-prediction"
        and parameters.pop("embeddings.mask_token", None) is not None
    ):
        logger.warning(f"Left out the mask token, which the format {format!r} has no place for.")
    config = model.config
    covers = COVERS_PREFIX.get(format)
    if config.position_embedding != "learned_1d" or not config.num_prefix_tokens or covers is None:
        return parameters
    if covers and not config.prefix_position_embedding:  # the same sums, with rows of zeros
        table = parameters["positions.0.table"]
        rows = table.new_zeros(1, config.num_prefix_tokens, table.shape[2])
        parameters["positions.0.table"] = torch.cat([rows, table], dim=1)
    if (
        not covers and config.prefix_position_embedding
    ):  # the same sums, made before they are stored
        table = parameters["positions.0.table"]
        parameters["embeddings.cls_token"] = parameters["embeddings.cls_token"] + table[:, :1]
        parameters["positions.0.table"] = table[:, 1:]
    return parameters


def refuse_unwritten(parameters: dict, rules: list, format: str):
    """Raises a `ValueError` where a parameter would be left behind."""
    left = set(parameters) - {name for entry in rules for name in entry.ours}
    if left:
        raise ValueError(
            f"the format {format!r} has no place for the parameters {', '.join(sorted(left))}"
        )


def dtype_of(layout: dict, parameters: dict[str, torch.Tensor]) -> torch.dtype | None:
    """Returns the dtype to write: the layout's where it holds every number exactly, otherwise the
    parameters' own.
    """
    dtype = getattr(torch, layout["dtype"])
    narrower = dtype.itemsize < max(tensor.dtype.itemsize for tensor in parameters.values())
    if not narrower:
        return None
    if all(
        torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) for tensor in parameters.values()
    ):
        return dtype
    logger.warning(
        f"The source was stored in {layout['dtype']}, which no longer holds the weights: written "
        "as they are."
    )
    return None


def cast(arrays, dtype: torch.dtype | None):
    """Yields named tensors in `dtype`; `None` leaves them."""
    for key, tensor in arrays:
        yield key, tensor if dtype is None else tensor.to(dtype)


@contextlib.contextmanager
def staged(path: Path, *, folder: bool):
    """Gives a temporary place beside `path` to write to, and moves it there when all went well.

    Files in an existing folder are replaced one by one; others in it stay.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        target = place if folder else place / path.name
        yield target
        if not folder:
            target.replace(path)
            return
        path.mkdir(exist_ok=True)
        for file in sorted(place.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(path / file.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)
