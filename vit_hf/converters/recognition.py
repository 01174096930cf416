# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint is: a folder, a file or a Hub id is opened and its format told from its
content.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from . import authors_big_vision, authors_jax, timm_vit, transformers_vit
from .arrays import Arrays, merge, open_arrays

# The foreign formats, in the order in which arrays are offered to them.
FOREIGN: dict[str, ModuleType] = {
    "transformers": transformers_vit,
    "timm": timm_vit,
    "jax": authors_jax,
    "big_vision": authors_big_vision,
}
FORMATS = ("vit_hf", *FOREIGN)
OWN_MODEL_TYPE = "vision_transformer"
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HUB_FILES = (
    "config.json",
    "preprocessor_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
)


@dataclass
class Checkpoint:
    """An opened checkpoint: its format, its arrays (none for our own), its `config.json` and
    preprocessing.
    """

    path: Path
    format: str
    arrays: Arrays = field(default_factory=lambda: Arrays(Path(), {}, kind="none"))
    config: dict = field(default_factory=dict)
    preprocessing: dict = field(default_factory=dict)


def open_checkpoint(source, *, format: str | None = None) -> Checkpoint:
    """Opens a checkpoint and tells its format.

    Args:
        source: a folder, a file, or a Hub id such as `google/vit-base-patch16-224`.
        format: one of `FORMATS`, to insist on it; `None` is whichever it is.

    Raises:
        ValueError: for what is no Vision Transformer's checkpoint, or not of the format said.
        ConnectionError: for a Hub id where the Hub cannot be reached.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"got format={format!r}, allowed: {', '.join(FORMATS)}")
    path = find_source(source)
    config, preprocessing = (
        read_json(folder_of(path) / name) for name in ("config.json", "preprocessor_config.json")
    )
    if config.get("model_type") == OWN_MODEL_TYPE and path.suffix != ".npz":
        checkpoint = Checkpoint(
            folder_of(path), "vit_hf", config=config, preprocessing=preprocessing
        )
    else:
        checkpoint = open_foreign(path, config, preprocessing)
    # The research codebase's own loader opens the authors' files too.
    same = format in (None, checkpoint.format) or (format, checkpoint.format) == (
        "big_vision",
        "jax",
    )
    if not same:
        raise ValueError(
            f"got format={format!r}, but the content of {path} is {checkpoint.format!r}: pass "
            "that, or no format"
        )
    return checkpoint


def open_foreign(path: Path, config: dict, preprocessing: dict) -> Checkpoint:
    """Opens a checkpoint that is not ours."""
    model_type = config.get("model_type")
    if path.is_dir() and model_type not in (None, "vit"):
        raise ValueError(
            f"got {path}, a checkpoint of model_type {model_type!r}; allowed: 'vit' (transformers' "
            f"ViT), '{OWN_MODEL_TYPE}' (ours), or a config.json of timm's with an architecture"
        )
    arrays = open_arrays(path) if path.is_file() else open_folder(path)
    name = next((name for name, module in FOREIGN.items() if module.recognises(arrays)), None)
    if name is None:
        some = ", ".join(list(arrays)[:4]) or "none"
        raise ValueError(
            f"got {path}, whose {len(arrays)} arrays are no Vision Transformer's that is known "
            f"(the first are: {some}); allowed: {', '.join(FORMATS)}"
        )
    belongs = {"transformers": model_type == "vit", "timm": "architecture" in config}.get(
        name, False
    )
    if path.is_dir() and not belongs:
        raise ValueError(
            f"got {path}, whose arrays are of the format {name!r} but whose config.json does not "
            "say so: expected model_type 'vit' for transformers, an architecture for timm. Pass "
            "the weights file instead of the folder"
        )
    return Checkpoint(
        path, name, arrays, config if belongs else {}, preprocessing if belongs else {}
    )


def open_folder(folder: Path) -> Arrays:
    """Opens the weights in a folder, in one file or in shards."""
    for name in WEIGHT_FILES:
        if not (folder / name).is_file():
            continue
        if not name.endswith(".index.json"):
            return open_arrays(folder / name)
        shards = sorted(set(read_json(folder / name).get("weight_map", {}).values()))
        return merge(folder, [open_arrays(folder / Path(shard).name) for shard in shards])
    raise ValueError(
        f"got {folder}, which holds none of {', '.join(WEIGHT_FILES)}; pass the weights file itself"
    )


def folder_of(path: Path) -> Path:
    """Returns the folder itself, or the one that a file lies in."""
    return path if path.is_dir() else path.parent


def read_json(path: Path) -> dict:
    """Reads a JSON file; an empty dict where there is none, a `ValueError` where it is damaged."""
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}); fetch it again") from error
    if not isinstance(entries, dict):
        raise ValueError(
            f"{path}: holds a {type(entries).__name__}, expected an object of settings"
        )
    return entries


def find_source(source) -> Path:
    """Returns the path of a source; a Hub id is downloaded."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = str(source).removeprefix("hf-hub:").removeprefix("hf_hub:")
    if path.suffix or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(
            f"got {source}, which does not exist; give a folder, a file, or a Hub id like "
            "owner/name"
        )
    return download(name)


def download(name: str) -> Path:
    """Returns the folder of a Hub checkpoint, downloaded or from the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
        if not any(folder.glob("model*.safetensors")):
            folder = Path(
                snapshot_download(name, allow_patterns=[*HUB_FILES, "pytorch_model*.bin*"])
            )
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"got {name}, which is no folder or file here, and the Hugging Face Hub cannot be "
            "reached: check the network, or download the checkpoint elsewhere and give its folder"
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"got {name}, which the Hugging Face Hub does not give out: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return folder
