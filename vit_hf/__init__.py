# SPDX-License-Identifier: Apache-2.0
"""`vit_hf`: the Vision Transformer of Dosovitskiy et al. (2020), complete, for transformers.

Importing the package registers its models with transformers' Auto classes, so that their
checkpoints open without `trust_remote_code`.
"""

import contextlib

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    ViTImageProcessorPil,
)
from transformers.utils.import_utils import is_torchvision_available

from .modeling.configuration_vision_transformer import VisionTransformerConfig
from .modeling.modeling_vision_transformer import (
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)
from .version import __version__

AutoConfig.register(VisionTransformerConfig.model_type, VisionTransformerConfig, exist_ok=True)
AutoModel.register(VisionTransformerConfig, VisionTransformerModel, exist_ok=True)
AutoModelForImageClassification.register(
    VisionTransformerConfig, VisionTransformerForImageClassification, exist_ok=True
)
AutoModelForMaskedImageModeling.register(
    VisionTransformerConfig, VisionTransformerForMaskedPatchPrediction, exist_ok=True
)
# Some builds of transformers have no image processors without torchvision.
with contextlib.suppress(ImportError):
    image_processors: dict[str, type] = {"pil": ViTImageProcessorPil}
    if is_torchvision_available():
        from transformers import ViTImageProcessor

        image_processors["torchvision"] = ViTImageProcessor
    AutoImageProcessor.register(
        VisionTransformerConfig, image_processor_classes=image_processors, exist_ok=True
    )

__all__ = [
    "VisionTransformerConfig",
    "VisionTransformerForImageClassification",
    "VisionTransformerForMaskedPatchPrediction",
    "VisionTransformerModel",
    "__version__",
]
