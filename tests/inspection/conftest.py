# SPDX-License-Identifier: Apache-2.0
"""Small models whose weights are all different from zero, so that every term counts."""

import pytest
import torch

from vit_hf import VisionTransformerConfig, VisionTransformerModel

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": (16, 24),
    "patch_size": 4,
}


@pytest.fixture(scope="session")
def build():
    """The function `(model_class=VisionTransformerModel, **settings) -> model`, seeded."""

    def make(model_class=VisionTransformerModel, **settings):
        torch.manual_seed(0)
        model = model_class(VisionTransformerConfig(**{**SMALL, **settings})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture(scope="session")
def images():
    """The function `(count=2, size=(16, 24)) -> (B, 3, H, W)` in [-1, 1]."""

    def make(count: int = 2, size: tuple[int, int] = (16, 24)) -> torch.Tensor:
        generator = torch.Generator().manual_seed(count)
        return torch.rand(count, 3, *size, generator=generator) * 2 - 1

    return make
