# SPDX-License-Identifier: Apache-2.0
"""From bytes to batches: sources, decoding, transforms, draws, mixing, corruption, collation."""

from .collation import ImageCollator
from .corruption import MaskedPatchCollator
from .dataset import ImageDataset
from .decoding import UndecodableImage, decode_image
from .mixing import BatchAugmentation
from .randaugment import RandAugment
from .serving import ProcessorTransform
from .sources import load_images
from .stream import ImageStream
from .transforms import ImageTransform, normalize

__all__ = [
    "BatchAugmentation",
    "ImageCollator",
    "ImageDataset",
    "ImageStream",
    "ImageTransform",
    "MaskedPatchCollator",
    "ProcessorTransform",
    "RandAugment",
    "UndecodableImage",
    "decode_image",
    "load_images",
    "normalize",
]
