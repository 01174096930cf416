# SPDX-License-Identifier: Apache-2.0
"""transformers' `Trainer` with what a ViT needs: pixels normalised on the device, weight decay on
kernels only.
"""

import torch
from torch import nn
from transformers import Trainer

from ..data.transforms import normalize


class VisionTransformerTrainer(Trainer):
    """A `Trainer` for the models of this package; its loop is transformers' own."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names the kernels of dense layers and convolutions: all that the authors' code decays.

        transformers' own choice also decays the class token and the position table.
        """
        return [
            f"{name}.weight" if name else "weight"
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        ]

    def _prepare_inputs(self, inputs: dict) -> dict:
        """Moves a batch to the device, and normalises uint8 pixels there."""
        inputs = super()._prepare_inputs(inputs)
        if inputs["pixel_values"].dtype == torch.uint8:
            inputs["pixel_values"] = normalize(inputs["pixel_values"])
        return inputs
