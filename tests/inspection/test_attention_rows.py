# SPDX-License-Identifier: Apache-2.0
"""Rows of attention maps: those of `output_attentions=True`, under every backend, without a map."""

import subprocess
import sys
from math import prod

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vit_hf import (
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)
from vit_hf.inspection import (
    attention_distance,
    attention_rollout,
    attention_rows,
    pooled_attention,
    record_attention,
)

BACKENDS = ["eager", "sdpa", "flex_attention"]
VARIANTS = [
    {},
    {"qk_norm": True, "pooling": "gap", "num_register_tokens": 2},
    {"position_embedding": "relative", "num_register_tokens": 1, "pooling": "map"},
    {"position_embedding": "relative", "position_embedding_placement": "stem"},
    {"position_embedding": "learned_2d", "position_embedding_placement": "every_layer"},
    {"stem_blocks": [1, 1], "stem_width": 32, "patch_size": 1},
]
FIGURES = [attention_distance, attention_rollout, pooled_attention]


@pytest.mark.parametrize("size", [(16, 24), (24, 17)])
@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_those_of_the_maps(build, images, monkeypatch, backend, settings, size):
    monkeypatch.setattr(attention_rows, "BLOCK_ROWS", 7)  # several blocks, the last one shorter
    model, pixels = build(**settings), images(size=size)
    model.set_attn_implementation(backend)
    with torch.no_grad():
        outputs = model(pixels, output_attentions=True)
    record = record_attention(model, pixels)
    assert model.config._attn_implementation == backend
    assert record.grid == model.config.grid_of(size)
    torch.testing.assert_close(record.tokens, outputs.last_hidden_state, atol=2e-5, rtol=0)
    for layer, expected in zip(record.layers, outputs.attentions, strict=True):
        torch.testing.assert_close(layer.rows(), expected, atol=2e-6, rtol=0)
        torch.testing.assert_close(layer.rows(3, 12), expected[:, :, 3:12], atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "model_class",
    [
        VisionTransformerModel,
        VisionTransformerForImageClassification,
        VisionTransformerForMaskedPatchPrediction,
    ],
)
def test_a_model_is_left_as_it_was(build, images, model_class):
    model = build(model_class, hidden_dropout_prob=0.5).train()
    frozen = model.base_model.layers[0].eval()
    model.set_attn_implementation("eager")
    first, second = (record_attention(model, images()).tokens for _ in range(2))
    torch.testing.assert_close(first, second)  # nothing is dropped out
    assert model.training and model.config._attn_implementation == "eager"
    assert not any(module.training for module in frozen.modules())
    hooks = [module._forward_pre_hooks for module in model.modules()]
    assert not any(hooks)
    with pytest.raises(ValueError, match="got pixel_values of shape"):
        record_attention(model, images()[:, :2])
    assert model.training and not any(hooks)


class Largest(TorchDispatchMode):
    """Records how many elements the largest tensor has that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor):
                # An expanded view has no memory of its own.
                held = [s for s, step in zip(each.shape, each.stride(), strict=True) if step]
                self.elements = max(self.elements, prod(held))
        return made


@pytest.mark.parametrize("pooling", ["cls", "gap", "map"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("figure", FIGURES)
def test_no_map_is_ever_held(build, images, figure, backend, pooling):
    model = build(pooling=pooling, patch_size=1, image_size=(40, 50), num_hidden_layers=2)
    model.set_attn_implementation(backend)
    num_tokens = 2000 + model.config.num_prefix_tokens
    with Largest() as largest:
        figure(model, images(count=1, size=(40, 50)))
    # A block for two heads, where a map of one head has more.
    assert largest.elements <= 2 * attention_rows.BLOCK_ROWS * num_tokens < num_tokens**2 / 4


@pytest.mark.parametrize("figure", FIGURES)
def test_with_relative_positions_no_more_than_the_model_itself_holds(build, images, figure):
    settings = {"patch_size": 1, "image_size": (20, 25), "num_hidden_layers": 2}
    model = build(position_embedding="relative", **settings)
    with Largest() as own, torch.no_grad():
        model(images(count=1, size=(20, 25)))
    with Largest() as largest:
        figure(model, images(count=1, size=(20, 25)))
    assert largest.elements <= own.elements


LARGE = """
import resource, torch
from vit_hf import VisionTransformerConfig, VisionTransformerModel
from vit_hf.inspection import attention_distance, attention_rollout, pooled_attention
model = VisionTransformerModel(VisionTransformerConfig(
    hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
    image_size=1024)).eval()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pixels = torch.rand(1, 3, 1024, 1024) * 2 - 1
assert pooled_attention(model, pixels).shape == (1, 16, 64, 64)
assert attention_rollout(model, pixels).shape == (1, 64, 64)
assert attention_distance(model, pixels).shape == (24, 16)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_vit_l16_at_1024_pixels():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, peak = (int(kilobytes) / 2**20 for kilobytes in done.stdout.split())
    print(f"peak {peak:.2f} GiB, of which the model itself {before:.2f} GiB")
    assert peak - before < 2  # GiB; the maps of all layers have 24, two of a layer 2
