# SPDX-License-Identifier: Apache-2.0
"""What the head sees: class token, mean of the patches, attention pooling, or every token."""

import pytest
import torch

from vit_hf import VisionTransformerModel

PREFIX = {"class_token": True, "num_register_tokens": 2}


@pytest.mark.parametrize("settings", [{}, {"representation_size": 16}, {"final_norm": "pooled"}])
@pytest.mark.parametrize("pooling", ["cls", "gap", "map", "none"])
@torch.no_grad()
def test_against_the_definition(build, images, pooling, settings):
    model = build(VisionTransformerModel, pooling=pooling, **PREFIX, **settings)
    outputs = model(images())
    tokens = outputs.last_hidden_state  # (B, 3 + 16, D)
    assert tokens.shape == (2, 19, 32)
    pooled = {
        "cls": lambda: tokens[:, 0],
        "gap": lambda: tokens[:, 3:].mean(1),
        "map": lambda: attended(model.pooler.pooling, tokens[:, 3:]),
        "none": lambda: tokens,
    }[pooling]()
    if "final_norm" in settings:
        norm = model.pooler.layernorm
        pooled = torch.nn.functional.layer_norm(pooled, (32,), norm.weight, norm.bias, 1e-6)
    if "representation_size" in settings:
        layer = model.pooler.representation
        pooled = (pooled @ layer.weight.T + layer.bias).tanh()
    torch.testing.assert_close(outputs.pooler_output, pooled, atol=1e-5, rtol=0)


def attended(pooling, patches: torch.Tensor) -> torch.Tensor:
    """Returns what the probe reads from `patches` `(B, N, D)`, head by head."""
    query, key, value = (
        pooling.q_proj(pooling.probe),
        pooling.k_proj(patches),
        pooling.v_proj(patches),
    )
    heads = []
    for head in range(4):
        part = slice(8 * head, 8 * head + 8)
        shares = (query[..., part] @ key[..., part].mT / 8**0.5).softmax(-1)  # (B, 1, N)
        heads.append(shares @ value[..., part])
    read = pooling.o_proj(torch.cat(heads, -1))[:, 0]
    return read + pooling.mlp(pooling.layernorm(read))


@pytest.mark.parametrize("pooling", ["cls", "gap"])
def test_no_pooler_that_was_never_trained(build, pooling):
    assert not list(build(VisionTransformerModel, pooling=pooling).pooler.parameters())
