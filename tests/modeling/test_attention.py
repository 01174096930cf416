# SPDX-License-Identifier: Apache-2.0
"""Attention: one result and one set of maps under every backend."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vit_hf import (
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)
from vit_hf.modeling import encoder
from vit_hf.modeling.encoder import eager_attention

# Compiled by PyTorch whenever it is first used.
BACKENDS = ["eager", "sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)]
CLASSES = [
    VisionTransformerModel,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
]
VARIANTS = [
    {},
    {"position_embedding": "relative"},
    {"position_embedding": "relative", "position_embedding_placement": "stem"},
    {"qk_norm": True, "pooling": "map", "num_register_tokens": 2},
]
backends = pytest.mark.parametrize("backend", BACKENDS)
variants = pytest.mark.parametrize("settings", VARIANTS, ids=str)


@variants
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_same_outputs_and_gradients(build, images, settings, backend):
    # Heads of 16, the least that flex attention takes.
    reached = []
    for implementation in ("eager", backend):
        model = build(VisionTransformerForImageClassification, num_attention_heads=2, **settings)
        model.set_attn_implementation(implementation)
        assert model.vit.layers[0].attention.config._attn_implementation == implementation
        with torch.set_grad_enabled(backend == "sdpa"):  # flex has no backward on a CPU
            logits = model(images()).logits
            if logits.requires_grad:
                logits.square().sum().backward()
        reached.append((logits, [each.grad for each in model.parameters() if backend == "sdpa"]))
    torch.testing.assert_close(*(logits for logits, _ in reached), atol=1e-5, rtol=0)
    for eager, other in zip(*(gradients for _, gradients in reached), strict=True):
        torch.testing.assert_close(eager, other, atol=2e-5, rtol=1e-4)


@variants
@backends
@pytest.mark.parametrize("model_class", CLASSES)
@torch.no_grad()
def test_same_maps(build, images, settings, backend, model_class):
    model = build(model_class, num_attention_heads=2, **settings)
    model.set_attn_implementation("eager")
    expected = model(images(), output_attentions=True).attentions
    plain = model(images())[0]
    model.set_attn_implementation(backend)
    assert model(images()).attentions is None
    outputs = model(images(), output_attentions=True)
    tokens = 16 + model.config.num_prefix_tokens
    assert len(outputs.attentions) == 2
    for maps, eager_maps in zip(outputs.attentions, expected, strict=True):
        assert maps.shape == (2, 2, tokens, tokens)
        assert torch.equal(maps, eager_maps)
        torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, tokens))
    torch.testing.assert_close(outputs[0], plain, atol=1e-5, rtol=0)


@backends
@torch.no_grad()
def test_maps_by_the_configuration(build, images, backend):
    model = build(VisionTransformerForImageClassification, output_attentions=True)
    model.set_attn_implementation(backend)
    maps = model(images()).attentions
    assert len(maps) == 2 and all(len(each) for each in maps)
    assert model(images(), output_attentions=False).attentions is None


@torch.no_grad()
def test_maps_are_those_that_mix_the_values(build, images):
    model = build(VisionTransformerModel)
    attention, seen = model.layers[1].attention, {}
    attention.register_forward_hook(lambda module, args, out: seen.update(tokens=args[0], out=out))
    maps = model(images(), output_attentions=True).attentions[1]
    values = attention.v_proj(seen["tokens"]).unflatten(-1, (4, 8)).transpose(1, 2)
    mixed = attention.o_proj((maps @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, seen["out"][0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("model_class", CLASSES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"position_embedding_placement": "every_layer"}, {"final_norm": "pooled"}],
    ids=str,
)
@torch.no_grad()
def test_hidden_states(build, images, model_class, settings):
    model = build(model_class, pooling="gap", **settings)
    outputs = model(images(), output_hidden_states=True)
    states = outputs.hidden_states
    assert len(states) == 3 and {tuple(state.shape) for state in states} == {(2, 16, 32)}
    vit = model.base_model
    tokens, keys = vit.positions(vit.embeddings(images()), (4, 4), layer=0)
    assert torch.equal(states[0], tokens)
    assert torch.equal(states[1], vit.layers[0](tokens, keys))
    last = vit(images()).last_hidden_state
    assert torch.equal(vit.layernorm(states[2]), last)  # as they leave the layer
    as_tuple = model(images(), output_hidden_states=True, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], outputs[0])


def test_backends_without_a_bias_are_refused_for_relative_positions(build, images):
    model = build(VisionTransformerModel, position_embedding="relative")
    model.config._attn_implementation_internal = "flash_attention_2"  # needs a GPU to be set
    with pytest.raises(ValueError, match=r"'flash_attention_2'.*allowed: eager, sdpa, flex"):
        model(images())
    model(images(), output_attentions=True)  # eager computes the maps


@pytest.mark.parametrize("has_amx", [True, False])
@pytest.mark.parametrize("num_tokens", [17, 257])
def test_sdpa_is_written_out_where_that_is_faster(build, images, monkeypatch, num_tokens, has_amx):
    calls = []

    def counted(module, *tensors, **kwargs):
        calls.append(tensors[0].shape[2])
        return eager_attention(module, *tensors, **kwargs)

    monkeypatch.setattr(encoder, "eager_attention", counted)
    monkeypatch.setattr(encoder, "FAST_FUSED_FORWARD", has_amx)
    side = 8 * int((num_tokens - 1) ** 0.5)
    for dtype, with_gradients in itertools.product((torch.float32, torch.bfloat16), (True, False)):
        model = build(VisionTransformerForImageClassification, attn_implementation="sdpa")
        pixels = images(height=side).to(dtype)
        with torch.set_grad_enabled(with_gradients):
            monkeypatch.setattr(encoder, "FAST_BFLOAT16", False)
            expected = model.to(dtype)(pixels).logits
            assert not calls
            monkeypatch.setattr(encoder, "FAST_BFLOAT16", True)
            reached = model(pixels).logits
        is_written_out = num_tokens == 17 and (with_gradients or not has_amx)
        assert len(calls) == (2 if is_written_out and dtype == torch.bfloat16 else 0)
        calls.clear()
        bound = 0.05 * float(expected.detach().abs().max())
        torch.testing.assert_close(reached, expected, atol=bound, rtol=0)


class CastCounter(TorchDispatchMode):
    """Counts, within its context, the casts of tensors of a shape."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.num_casts = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_cast = func is torch.ops.aten._to_copy.default and args[0].shape == self.shape
        self.num_casts += is_cast
        return func(*args, **(kwargs or {}))


def test_autocast_casts_once_what_queries_keys_and_values_are_made_of(build):
    attention = build(VisionTransformerModel).layers[0].attention
    tokens = torch.randn(2, 17, 32, requires_grad=True)
    with CastCounter(tokens.shape) as counter, torch.autocast("cpu", torch.bfloat16):
        mixed, _ = attention(tokens)
    assert mixed.dtype == torch.bfloat16 and counter.num_casts == 1
    mixed.float().square().sum().backward()
    reached, tokens.grad = tokens.grad, None
    attention(tokens)[0].square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):  # which leaves float64 alone
        assert attention.double()(tokens.double())[0].dtype == torch.float64
    assert (reached - tokens.grad).norm() < 0.02 * tokens.grad.norm()


def test_written_out_attention_sums_in_float32():
    # Half of the weights at 1, so that a sum in bfloat16, of 8 bits, would stop growing at 256.
    query = torch.zeros(1, 1, 2000, 16, dtype=torch.bfloat16)
    value = torch.ones(1, 1, 2000, 16, dtype=torch.bfloat16)
    mixed, maps = eager_attention(torch.nn.Module(), query, query, value)
    torch.testing.assert_close(maps.float().sum(-1), torch.ones(1, 1, 2000), atol=4e-3, rtol=0)
    torch.testing.assert_close(mixed.float(), torch.ones(1, 2000, 1, 16), atol=4e-3, rtol=0)
