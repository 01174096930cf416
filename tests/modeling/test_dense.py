# SPDX-License-Identifier: Apache-2.0
"""Dense layers: packed weights give the same numbers, and nothing but speed tells them apart."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from vit_hf import VisionTransformerForImageClassification as Classifier
from vit_hf.modeling import dense
from vit_hf.modeling.dense import Dense, can_pack_type

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN"
)

TYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if can_pack_type(dtype)]
LAYERS = 2
DENSE_PER_LAYER = 6  # q, k, v, o, and two of the MLP


@pytest.fixture(autouse=True)
def packs_whatever_is_faster(monkeypatch):
    """Has packed weights used here, also where this processor is as fast without."""
    monkeypatch.setattr(dense, "HAS_AVX2_ALONE", False)


@pytest.fixture
def packed_calls(monkeypatch):
    """Lists the activations of the products with packed weights, as they are made."""
    calls = []
    multiply = Dense.multiply

    def counted(self, inputs, activation="none", algorithm=""):
        calls.append(activation)
        return multiply(self, inputs, activation, algorithm)

    monkeypatch.setattr(Dense, "multiply", counted)
    return calls


@torch.no_grad()
def logits_of(model, pixels):
    """Returns what a model says where no gradients are asked for."""
    return model(pixels).logits


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_pytorch_tanh", "relu", "silu"])
def test_same_numbers(build, images, packed_calls, hidden_act, dtype):
    model = build(Classifier, hidden_act=hidden_act).to(dtype)
    pixels = images().to(dtype)
    plain = logits_of(model, pixels)
    assert not packed_calls
    model.pack_weights()
    packed = logits_of(model, pixels)
    assert len(packed_calls) == LAYERS * DENSE_PER_LAYER
    assert packed_calls.count("none") == len(packed_calls) - (hidden_act != "silu") * LAYERS
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(packed, plain, atol=tolerance * float(plain.abs().max()), rtol=0)


@pytest.mark.parametrize("num_threads, num_packed", [(1, 0), (2, 1)])
def test_avx2_multiplies_few_rows_packed(monkeypatch, packed_calls, num_threads, num_packed):
    monkeypatch.setattr(dense, "HAS_AVX2_ALONE", True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    layer = Dense(8, 16)
    layer.pack()
    with torch.no_grad():
        for few_rows in ((1, 8), (2, dense.NUM_FEW_ROWS // 2, 8)):
            packed_calls.clear()
            layer(torch.ones(few_rows))
            assert len(packed_calls) == num_packed
        packed_calls.clear()
        layer(torch.ones(dense.NUM_FEW_ROWS + 1, 8))
        assert not packed_calls


@pytest.mark.parametrize("name, fused", [("gelu", "none"), ("relu", "relu")])
def test_avx2_applies_gelu_apart(monkeypatch, packed_calls, name, fused):
    monkeypatch.setattr(dense, "HAS_AVX2_ALONE", True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    layer, inputs = Dense(8, 16), torch.randn(4, 8)
    layer.pack()
    with torch.no_grad():
        expected = ACT2FN[name](nn.functional.linear(inputs, layer.weight, layer.bias))
        activated = layer.activated(inputs, name, ACT2FN[name])
    assert packed_calls == [fused]
    torch.testing.assert_close(activated, expected)


def test_keys_files_and_copies_are_those_of_a_plain_model(build, images, packed_calls, tmp_path):
    model = build(Classifier)
    model.save_pretrained(tmp_path / "plain")
    keys = list(model.state_dict())
    model.pack_weights()
    expected = logits_of(model, images())
    model.save_pretrained(tmp_path / "packed")
    assert list(model.state_dict()) == keys
    plain, packed = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "packed")
    )
    assert plain == packed
    for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        packed_calls.clear()
        torch.testing.assert_close(logits_of(duplicate, images()), expected, atol=0, rtol=0)
        assert packed_calls, "a copy packs its own"


@pytest.mark.skipif(torch.bfloat16 in TYPES, reason="this processor packs bfloat16")
def test_a_processor_without_packed_bfloat16_says_so_and_goes_on(build, images, packed_calls):
    model = build(Classifier)
    model.pack_weights()
    model.to(torch.bfloat16)
    logits_of(model, images().to(torch.bfloat16))
    assert not packed_calls
    with pytest.raises(ValueError, match=r"AVX512.*allowed here: torch\.float32"):
        model.pack_weights()


def test_weights_that_were_replaced_twice_are_not_taken_for_the_first(build, images):
    model = build(Classifier)
    model.pack_weights()
    expected = logits_of(copy.deepcopy(model).to(torch.bfloat16).float(), images())
    model.to(torch.bfloat16).float()  # rounded; their memory may be that of the first
    torch.testing.assert_close(logits_of(model, images()), expected, atol=0, rtol=0)


@pytest.mark.parametrize("change", ["in place", "loaded", "another type", "another tensor"])
def test_changed_weights_are_packed_anew(build, images, change):
    model, other = build(Classifier), build(Classifier, seed=1)
    model.pack_weights()
    before, pixels = logits_of(model, images()), images()
    if change == "in place":
        with torch.no_grad():
            for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
                mine.copy_(theirs)
    elif change == "loaded":
        model.load_state_dict(other.state_dict())
    elif change == "another type":
        model, other = model.to(torch.bfloat16), copy.deepcopy(model).to(torch.bfloat16)
        other.unpack_weights()
        pixels = pixels.to(torch.bfloat16)
    else:
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.data = theirs.data.clone()
    after, expected = logits_of(model, pixels), logits_of(other, pixels)
    torch.testing.assert_close(after, expected, atol=0.03 * float(expected.abs().max()), rtol=0)
    assert change == "another type" or (after - before).abs().max() > 0.1


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_weights_that_a_fused_optimizer_changed_are_packed_anew(build, images, optimizer):
    model = build(Classifier)
    model.pack_weights()
    before = logits_of(model, images())
    updates = optimizer(model.parameters(), lr=0.1, fused=True)
    model(images()).logits.square().sum().backward()
    updates.step()
    after = logits_of(model, images())
    model.unpack_weights()
    expected = logits_of(model, images())
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(after, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_threads_that_pack_at_once_get_the_same_numbers():
    layer, inputs = Dense(256, 512), torch.randn(4, 256)

    @torch.no_grad()
    def multiplied(_):
        return layer(inputs)

    expected = multiplied(None)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(50):
            layer.pack()
            for outputs in threads.map(multiplied, range(8)):
                torch.testing.assert_close(outputs, expected)


def test_weights_that_changed_unnoticed_are_packed_anew_on_request(packed_calls):
    layer, inputs = Dense(8, 16), torch.randn(2, 8)
    layer.pack()
    with torch.no_grad():
        layer(inputs)
        layer.weight.data.zero_()
        layer.pack()
        torch.testing.assert_close(layer(inputs), layer.bias.expand(2, 16))
    assert packed_calls == ["none", "none"]


def test_weights_made_in_inference_mode_can_be_packed(build, images, packed_calls):
    with torch.inference_mode():
        model = build(Classifier)
        model.pack_weights()
        assert model(images()).logits.isfinite().all()
    assert packed_calls


@pytest.mark.parametrize("way", ["gradients", "autocast", "another type of input"])
def test_other_calls_are_plain(build, images, packed_calls, way):
    model = build(Classifier)
    plain = copy.deepcopy(model)
    model.pack_weights()
    if way == "gradients":
        for each in (model, plain):
            each(images()).logits.square().sum().backward()
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.equal(mine.grad, theirs.grad)
    elif way == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(logits_of(model, images()), logits_of(plain, images()))
    else:
        dense = model.vit.layers[0].mlp.fc1
        with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
            dense(torch.ones(2, dense.in_features, dtype=torch.float64))
    assert not packed_calls


def test_hooks_see_what_they_see_of_a_plain_model(build, images):
    seen = {True: [], False: []}
    for is_packed in seen:
        model = build(Classifier)
        if is_packed:
            model.pack_weights()
        layer = model.vit.layers[0]
        for module in (layer.attention, layer.attention.q_proj, layer.mlp.fc1, layer.mlp):
            module.register_forward_hook(
                lambda module, args, output, place=seen[is_packed]: place.append(
                    output[0] if isinstance(output, tuple) else output
                )
            )
        logits_of(model, images())
    for packed, plain in zip(seen[True], seen[False], strict=True):
        torch.testing.assert_close(packed, plain, atol=1e-4, rtol=1e-4)


def test_maps_and_hidden_states_of_a_packed_model(build, images):
    model = build(Classifier)
    with torch.no_grad():
        plain = model(images(), output_attentions=True, output_hidden_states=True)
        model.pack_weights()
        packed = model(images(), output_attentions=True, output_hidden_states=True)
    for name in ("attentions", "hidden_states"):
        for mine, theirs in zip(packed[name], plain[name], strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_a_packed_model_compiles_whole(build, images):
    model = build(Classifier)
    model.pack_weights()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    torch.testing.assert_close(
        logits_of(compiled, images()), logits_of(model, images()), atol=1e-4, rtol=1e-4
    )


def test_unpacking_lets_go(build, images, packed_calls):
    model = build(Classifier)
    model.pack_weights()
    model.unpack_weights()
    assert all(each.packed is None for each in model.modules() if isinstance(each, Dense))
    logits_of(model, images())
    assert not packed_calls


@pytest.mark.parametrize(
    "move, named",
    [(lambda model: model.half(), "float16"), (lambda model: model.to("meta"), "meta")],
)
def test_what_cannot_be_packed_is_named(build, move, named):
    with pytest.raises(ValueError, match=named):
        move(build(Classifier)).pack_weights()
