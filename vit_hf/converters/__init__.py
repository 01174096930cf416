# SPDX-License-Identifier: Apache-2.0
"""Foreign checkpoints to ours and back: the authors' JAX files, transformers' in-tree ViT, timm."""

from .image_processors import load_image_processor
from .loading import load_checkpoint
from .recognition import FORMATS
from .saving import save_checkpoint

__all__ = ["FORMATS", "load_checkpoint", "load_image_processor", "save_checkpoint"]
