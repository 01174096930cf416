# SPDX-License-Identifier: Apache-2.0
"""From bytes to batches: sources, transforms, corruption, collation."""

from .collation import collate_images
from .corruption import MaskedPatchCollator
from .sources import load_images
from .transforms import ImageTransform, normalize

__all__ = ["ImageTransform", "MaskedPatchCollator", "collate_images", "load_images", "normalize"]
