# SPDX-License-Identifier: Apache-2.0
"""Products that are fused on a GPU: the same numbers, and whoever looks at a layer still sees it.

Where there is no GPU they are fused on the CPU, in float32, to be held against the layers.
"""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers.activations import ACT2FN

from vit_hf import VisionTransformerForImageClassification as Classifier
from vit_hf.modeling import dense, embeddings, encoder, fused_products
from vit_hf.modeling.dense import Dense
from vit_hf.modeling.fused_products import can_fuse

LAYERS = 2
ACTIVATION_TYPES = {"gelu": (torch.float32,)}  # on a CPU what cuBLAS approximates is exact


@pytest.fixture
def calls(monkeypatch):
    """Lists the fused products, as they are made."""
    made = []

    def count(module, name):
        function = getattr(fused_products, name)

        def counted(*arguments):
            made.append(name)
            return function(*arguments)

        monkeypatch.setattr(module, name, counted)

    count(embeddings, "multiply_patches")
    count(encoder, "multiply_at_once")
    count(dense, "multiply_and_activate")
    return made


@pytest.fixture
def on_gpu(monkeypatch, calls):
    """Has products fused here, too; lists them."""
    monkeypatch.setattr(fused_products, "is_half_on_gpu", lambda inputs: True)
    monkeypatch.setattr(fused_products, "TYPES_OF_ACTIVATIONS", ACTIVATION_TYPES)
    return calls


@torch.no_grad()
def logits_of(model, pixels):
    """Returns what a model says where no gradients are asked for."""
    return model(pixels).logits


@pytest.mark.parametrize(
    "settings, num_at_once, num_activated",
    [
        ({}, LAYERS - 1, LAYERS),  # the last layer has other queries than keys
        ({"hidden_act": "silu"}, LAYERS - 1, 0),
        ({"qkv_bias": False, "patch_bias": False, "pooling": "gap"}, LAYERS, LAYERS),
        ({"position_embedding": "relative"}, LAYERS, LAYERS),
        ({"patch_size": (8, 4), "image_size": (32, 24), "num_channels": 1}, LAYERS - 1, LAYERS),
    ],
    ids=str,
)
def test_inference_has_the_same_numbers(
    build, images, monkeypatch, calls, settings, num_at_once, num_activated
):
    model = build(Classifier, **settings)
    channels, (height, width) = model.config.num_channels, model.config.image_hw
    pixels = images(height=height + 3, width=width + 1, channels=channels)  # some fill no patch
    expected = logits_of(model, pixels)
    assert not calls, "on a CPU nothing is fused"
    monkeypatch.setattr(fused_products, "is_half_on_gpu", lambda inputs: True)
    monkeypatch.setattr(fused_products, "TYPES_OF_ACTIVATIONS", ACTIVATION_TYPES)
    torch.testing.assert_close(logits_of(model, pixels), expected, atol=1e-5, rtol=1e-5)
    assert calls.count("multiply_patches") == 1
    assert calls.count("multiply_at_once") == num_at_once
    assert calls.count("multiply_and_activate") == num_activated


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_training_has_the_same_gradients(build, images, monkeypatch, calls, dtype):
    gradients = []
    for is_fused in (False, True):
        monkeypatch.setattr(fused_products, "is_half_on_gpu", lambda inputs, fuse=is_fused: fuse)
        model = build(Classifier).train()
        pixels = images().requires_grad_()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = model(pixels, labels=torch.tensor([0, 1])).loss
        loss.backward()
        gradients.append([pixels.grad, *(parameter.grad for parameter in model.parameters())])
    assert calls == ["multiply_patches"], "the others are for inference"
    for plain, fused in zip(*gradients, strict=True):
        tolerance = 1e-5 if dtype is None else 0.02
        atol = tolerance * max(0.01, float(plain.abs().max()))  # some are zero
        torch.testing.assert_close(fused, plain, atol=atol, rtol=0)


def test_a_stem_is_projected_alike(build, images, on_gpu, monkeypatch):
    model = build(Classifier, stem_blocks=(1, 1), stem_width=32, patch_size=1)
    fused = logits_of(model, images())
    assert on_gpu.count("multiply_patches") == 1
    monkeypatch.setattr(fused_products, "is_half_on_gpu", lambda inputs: False)
    torch.testing.assert_close(fused, logits_of(model, images()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.patch_embeddings.projection",
        "layers.0.attention.k_proj",
        "layers.0.mlp.fc1",
        "layers.0.mlp.activation",
    ],
)
@pytest.mark.parametrize(
    "register",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"],
)
def test_a_hook_sees_its_layer(build, images, on_gpu, name, register):
    model = build(Classifier, pooling="gap")
    logits_of(model, images())
    before = len(on_gpu)
    seen = []
    getattr(model.vit.get_submodule(name), register)(lambda *given: seen.append(given[0]))
    if "backward" in register:
        model(images().requires_grad_()).logits.sum().backward()
    else:
        on_gpu.clear()
        logits_of(model, images())
        assert len(on_gpu) == before - 1, "all but the one that is looked at"
    assert len(seen) == 1


def test_a_hook_for_all_modules_sees_every_layer(build, images, on_gpu):
    model, seen = build(Classifier), []
    layers = {module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    handle = nn.modules.module.register_module_forward_hook(lambda *given: seen.append(given[0]))
    try:
        logits_of(model, images())
    finally:
        handle.remove()
    assert not on_gpu and layers <= set(seen)


def test_another_activation_is_applied(build, images, on_gpu):
    model = build(Classifier)
    for layer in model.vit.layers:
        layer.mlp.activation = nn.ReLU()
    found = logits_of(model, images())
    assert "multiply_and_activate" not in on_gpu
    for layer in model.vit.layers:
        layer.mlp.hidden_act = "relu"
    torch.testing.assert_close(found, logits_of(model, images()))


def test_what_is_computed_again_is_computed_alike(build, images, on_gpu):
    """Gradient checkpointing of the older kind makes its first pass without gradients."""
    model = build(Classifier).train()
    logits_of(model, images())
    assert on_gpu == ["multiply_patches"]


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 4},
        {"padding": 2},
        {"padding": "same", "stride": 1},
        {"dilation": 2},
        {"groups": 3},
    ],
    ids=str,
)
def test_another_convolution_is_no_product_of_patches(on_gpu, settings):
    convolutions = [nn.Conv2d(3, 6, 8, **{"stride": 8, **changed}) for changed in ({}, settings)]
    images = torch.randn(1, 3, 16, 16)
    can = [fused_products.can_multiply_patches(each, images) for each in convolutions]
    assert can == [True, False]


def test_layers_with_and_without_biases_stay_apart(on_gpu):
    layers, inputs = [Dense(8, 8, bias=bias).eval() for bias in (True, False)], torch.randn(2, 8)
    with torch.no_grad():
        assert fused_products.can_multiply_at_once(layers[:1], Dense, inputs)
        assert not fused_products.can_multiply_at_once(layers, Dense, inputs)


def adapted(layer: Dense) -> nn.Module:
    """Returns a layer with an adapter, which shows the weights that it adds to."""

    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = layer

        weight = property(lambda self: self.base.weight)
        bias = property(lambda self: self.base.bias)
        forward = lambda self, inputs: self.base(inputs) + 1  # noqa: E731

    return Adapted()


class Doubled(nn.Module):
    """A parametrisation."""

    def forward(self, weight):
        return 2 * weight


class OtherDense(Dense):
    """A layer of someone else's."""

    def forward(self, inputs):
        return super().forward(inputs) + 1


def offloaded(layer: Dense) -> Dense:
    """Has a layer's forward pass replaced, as accelerate does."""
    layer.forward = lambda inputs: Dense.forward(layer, inputs) + 1
    return layer


CHANGES = {
    "an adapter": adapted,
    "a parametrisation": lambda layer: parametrize.register_parametrization(
        layer, "weight", Doubled()
    ),
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "another class": lambda layer: OtherDense(layer.in_features, layer.out_features),
    "another forward pass": offloaded,
    "another device": lambda layer: layer.to("meta"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_layer_that_someone_changed_is_called(on_gpu, what):
    layer, inputs = Dense(8, 8), torch.randn(2, 8)
    assert can_fuse(layer, Dense, inputs)
    assert not can_fuse(CHANGES[what](layer), Dense, inputs)


@pytest.mark.slow
def test_compiled_without_a_break(build, images, on_gpu):
    model = build(Classifier)
    expected = logits_of(model, images())
    model.compile(fullgraph=True)
    torch.testing.assert_close(logits_of(model, images()), expected, atol=1e-5, rtol=1e-5)


def test_under_autocast_weights_may_be_of_a_higher_type():
    """Autocast on a GPU does not know the operation; here it is left out for that."""
    layer, inputs = Dense(8, 8), torch.randn(2, 8).bfloat16()
    with torch.no_grad():
        found = fused_products.multiply_and_activate(inputs, layer)
        expected = nn.functional.gelu(layer(inputs.float()))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)


def test_float16_takes_no_other_formula_for_exact_gelu():
    with torch.no_grad():
        layer = Dense(8, 8).half().eval()
        inputs = torch.randn(2, 8).half()
        assert not fused_products.can_activate(layer, "gelu", inputs)
        assert fused_products.can_activate(layer, "gelu_pytorch_tanh", inputs)
        assert fused_products.can_activate(layer.bfloat16(), "gelu", inputs.bfloat16())
    assert not fused_products.can_activate(layer, "gelu", inputs.bfloat16()), "gradients are kept"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_gelu_is_nearer_to_the_exact_one(calls):
    torch.manual_seed(0)
    layer, gelu = Dense(1024, 4096).cuda().bfloat16().eval(), ACT2FN["gelu"]
    inputs = torch.randn(2000, 1024, device="cuda").bfloat16()
    exact = nn.functional.gelu(
        nn.functional.linear(inputs.double(), layer.weight.double(), layer.bias.double())
    )
    with torch.no_grad():
        fused = layer.activated(inputs, "gelu", gelu)
        assert calls == ["multiply_and_activate"]
        apart = nn.functional.gelu(layer(inputs))
    errors = [float((found.double() - exact).square().mean()) for found in (fused, apart)]
    assert errors[0] < 0.75**2 * errors[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_on_a_gpu_a_model_has_its_logits(build, images, calls, dtype):
    model = build(Classifier)
    expected = logits_of(model, images())
    atol = 0.03 * float(expected.abs().max())
    with torch.autocast("cuda", dtype):
        found = logits_of(model.cuda(), images().cuda()).float().cpu()
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
    found = logits_of(model.to(dtype), images().cuda().to(dtype)).float().cpu()
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
    assert {"multiply_patches", "multiply_at_once"} <= set(calls)
