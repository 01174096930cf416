# SPDX-License-Identifier: Apache-2.0
"""The patch projection: one product of patches that is the convolution it stands for."""

import pytest
import torch
from torch import nn

from vit_hf.modeling.embeddings import PatchProjection

SIZES = {
    "square": ((8, 8), (32, 32)),
    "wide patches": ((4, 16), (32, 48)),
    "remainder": ((8, 8), (39, 25)),
    "one cell": ((1, 1), (3, 5)),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_is_the_convolution(size, bias):
    patch_hw, image_hw = SIZES[size]
    torch.manual_seed(0)
    projection = PatchProjection(3, 6, patch_hw, bias=bias)
    convolution = nn.Conv2d(3, 6, patch_hw, stride=patch_hw, bias=bias)
    convolution.load_state_dict(projection.state_dict())
    reached = []
    for module in (projection, convolution):
        image = torch.randn(2, 3, *image_hw, generator=torch.Generator().manual_seed(1))
        output = module(image.requires_grad_())
        output.square().sum().backward()
        reached.append((output, image.grad, *(each.grad for each in module.parameters())))
    for mine, theirs in zip(*reached, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
