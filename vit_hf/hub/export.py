# SPDX-License-Identifier: Apache-2.0
"""A model to a folder that opens anywhere: weights, configuration, image processor, and the code
that runs them.
"""

import filecmp
import json
import shutil
import tempfile
from pathlib import Path

from transformers.image_processing_utils import BaseImageProcessor

from .. import modeling
from ..converters.image_processors import save_image_processor

# Which class of the suitcase each Auto class opens; `save_pretrained` writes the saved one alone.
MODELING = "modeling_vision_transformer"
AUTO_MAP = {
    "AutoConfig": "configuration_vision_transformer.VisionTransformerConfig",
    "AutoModel": f"{MODELING}.VisionTransformerModel",
    "AutoModelForImageClassification": f"{MODELING}.VisionTransformerForImageClassification",
    "AutoModelForMaskedImageModeling": f"{MODELING}.VisionTransformerForMaskedPatchPrediction",
}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
# What a run or a conversion leaves beside the weights, for the card, and the pictures in it.
ACCOUNTS = ("parity.json", "recipe.json", "results.json")
PICTURES = "*.png"


def export_checkpoint(
    model, folder, *, image_processor: BaseImageProcessor | None = None, parity=None
) -> Path:
    """Writes a folder that opens with `AutoModel*`, `AutoImageProcessor` and `pipeline`.

    Where this package is not installed, opening takes `trust_remote_code=True` and runs the files
    of `vit_hf.modeling` that the folder holds.

    Args:
        model: any of the package's models.
        folder: where to; made if it is not there, its files replaced once all are written. Where it
            holds other weights, their accounts (`results.json`, `recipe.json`, `parity.json`) are
            removed.
        image_processor: the preprocessing; `None` is the authors', at the model's native size.
        parity: the `parity.json` of the conversion that the weights come from, carried along where
            it is given; see `vit-hf convert --verify`.

    Returns:
        The folder.

    Raises:
        ValueError: where `folder` is a file.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"got {folder}, which is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        staged = Path(name)
        model.save_pretrained(staged)
        write_json(staged / "config.json", {"auto_map": AUTO_MAP})
        for file in Path(modeling.__file__).parent.glob("*.py"):
            if file.name != "__init__.py":
                shutil.copyfile(file, staged / file.name)
        save_image_processor(image_processor, staged, model.config)
        remove_other_weights(folder, staged)
        if parity is not None:
            shutil.copyfile(parity, staged / "parity.json")
        for file in staged.iterdir():
            file.replace(folder / file.name)
    return folder


def remove_other_weights(folder: Path, staged: Path):
    """Removes the weights of `folder` that differ from those in `staged`, with their accounts."""
    other = [
        file
        for file in folder.glob("model*.safetensors*")
        if not (staged / file.name).is_file()
        or not filecmp.cmp(file, staged / file.name, shallow=False)
    ]
    for file in [*(folder / name for name in ACCOUNTS if other), *other]:
        file.unlink(missing_ok=True)


def missing_from_export(folder) -> list[str]:
    """Returns what a folder lacks of an exported checkpoint; nothing where it is one."""
    folder = Path(folder)
    config = folder / "config.json"
    if not config.is_file():
        return ["config.json"]
    auto_map = json.loads(config.read_text(encoding="utf-8")).get("auto_map") or {}
    missing = [f"{name} in its auto_map" for name in AUTO_MAP if name not in auto_map]
    files = {f"{reference.split('.')[0]}.py" for reference in AUTO_MAP.values()}
    files |= {"preprocessor_config.json"}
    missing += sorted(name for name in files if not (folder / name).is_file())
    return missing if any((folder / name).is_file() for name in WEIGHTS) else [*missing, WEIGHTS[0]]


def copy_accounts(source, folder):
    """Copies what the card of a checkpoint is rendered from, out of the folder it was in before."""
    for pattern in (*ACCOUNTS, PICTURES):
        for file in Path(source).glob(pattern):
            shutil.copyfile(file, Path(folder) / file.name)


def write_json(path: Path, entries: dict):
    """Adds entries to a JSON file."""
    path.write_text(
        json.dumps({**json.loads(path.read_text()), **entries}, indent=2, sort_keys=True) + "\n"
    )
