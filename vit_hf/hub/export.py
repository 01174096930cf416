# SPDX-License-Identifier: Apache-2.0
"""A model to a folder that opens anywhere: weights, configuration, image processor, and the code
that runs them.
"""

import json
import shutil
import tempfile
from pathlib import Path

from transformers import ViTImageProcessorPil
from transformers.image_processing_utils import BaseImageProcessor

from .. import modeling

# Which class of the suitcase each Auto class opens; `save_pretrained` writes the saved one alone.
MODELING = "modeling_vision_transformer"
AUTO_MAP = {
    "AutoConfig": "configuration_vision_transformer.VisionTransformerConfig",
    "AutoModel": f"{MODELING}.VisionTransformerModel",
    "AutoModelForImageClassification": f"{MODELING}.VisionTransformerForImageClassification",
    "AutoModelForMaskedImageModeling": f"{MODELING}.VisionTransformerForMaskedPatchPrediction",
}


def export_checkpoint(model, folder, *, image_processor: BaseImageProcessor | None = None) -> Path:
    """Writes a folder that opens with `AutoModel*`, `AutoImageProcessor` and `pipeline`.

    Where this package is not installed, opening takes `trust_remote_code=True` and runs the files
    of `vit_hf.modeling` that the folder holds.

    Args:
        model: any of the package's models.
        folder: where to; made if it is not there, its files replaced once all are written.
        image_processor: the preprocessing; `None` is the authors', at the model's native size.

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
        image_processor = image_processor or default_image_processor(model.config)
        image_processor.save_pretrained(staged)
        # The name every release of transformers knows; without torchvision it opens the PIL twin.
        write_json(
            staged / "preprocessor_config.json", {"image_processor_type": "ViTImageProcessor"}
        )
        for file in staged.iterdir():
            file.replace(folder / file.name)
    return folder


def default_image_processor(config) -> ViTImageProcessorPil:
    """The authors' preprocessing at the model's native size: squashed to it, bilinear, [-1, 1],
    RGB.
    """
    height, width = config.image_hw
    return ViTImageProcessorPil(
        size={"height": height, "width": width},
        image_mean=[0.5] * config.num_channels,
        image_std=[0.5] * config.num_channels,
        do_convert_rgb=config.num_channels == 3 or None,
    )


def write_json(path: Path, entries: dict):
    """Adds entries to a JSON file."""
    path.write_text(
        json.dumps({**json.loads(path.read_text()), **entries}, indent=2, sort_keys=True) + "\n"
    )
