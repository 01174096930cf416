# SPDX-License-Identifier: Apache-2.0
"""The limit's products are the model's own: as many operations as planning counts."""

import pytest
import torch

from vit_hf import VisionTransformerConfig
from vit_hf.benchmark.products import filled_up, products_of
from vit_hf.planning import forward_flops


@pytest.mark.parametrize(
    "settings", [{}, {"stem_blocks": [1, 1], "patch_size": 2, "image_size": 64}, {"pooling": "map"}]
)
def test_forward(settings):
    config = VisionTransformerConfig(**{"num_hidden_layers": 2, "image_size": 64, **settings})
    products = products_of(config, batch_size=3, is_training=False)
    assert total(products) == 3 * forward_flops(config)


def test_training_is_three_times_that_without_the_images_own_gradient():
    config = VisionTransformerConfig(num_hidden_layers=2, image_size=64)
    products = products_of(config, batch_size=3, is_training=True)
    num_patches, patch_values = 16, 3 * 16 * 16
    patches = 2 * 3 * num_patches * patch_values * config.hidden_size
    assert total(products) == 3 * 3 * forward_flops(config) - patches


def test_a_product_counts_as_often_as_the_model_has_it():
    shallow, deep = (
        products_of(
            VisionTransformerConfig(num_hidden_layers=depth), batch_size=1, is_training=False
        )
        for depth in (1, 4)
    )
    assert set(shallow) == set(deep)
    widest = max(deep, key=lambda product: product.flops)
    assert deep[widest] == 4 * shallow[widest] > 0


def total(products):
    return sum(product.flops * count for product, count in products.items())


@pytest.mark.parametrize("is_transposed", [False, True])
def test_filled_up_a_factor_lies_as_before(is_transposed):
    values = torch.randn(2, 197, 64)
    factor = values.mT.contiguous().mT if is_transposed else values
    filled = filled_up(factor)
    assert filled.shape == (2, 200, 64)
    assert torch.equal(filled[:, :197], values) and not filled[:, 197:].any()
    assert (filled.stride(1) == 1) == (factor.stride(1) == 1) == is_transposed
