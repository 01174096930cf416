# SPDX-License-Identifier: Apache-2.0
"""The weights that the contenders share: one model, written in each one's own format."""

from pathlib import Path
from typing import Any

import torch

from ..converters import save_checkpoint
from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from ..modeling.modeling_vision_transformer import VisionTransformerForImageClassification

HEAD_DEVIATION = 0.02  # a fresh head is zeros, and two models with zeros for logits always agree
SEED = 0


def write_weights(settings: dict, folder: Path, *, formats: set[str]) -> dict[str, str]:
    """Writes a classifier with random weights.

    Args:
        settings: of its configuration.
        folder: gets a folder for each format, of its name.
        formats: `"vit_hf"`, `"transformers"`, `"timm"`.

    Returns:
        The formats that cannot hold the model, and why.
    """
    torch.manual_seed(SEED)
    model: Any = VisionTransformerForImageClassification(VisionTransformerConfig(**settings))
    with torch.no_grad():
        model.classifier.weight.normal_(std=HEAD_DEVIATION)
    refused = {}
    for name in sorted(formats):
        try:
            save_checkpoint(model, folder / name, format=name)
        except ValueError as error:
            refused[name] = str(error)
    return refused
