# SPDX-License-Identifier: Apache-2.0
"""Products by oneDNN: the same numbers and gradients, and whoever looks sees PyTorch's own."""

import copy

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from vit_hf import VisionTransformerForImageClassification as Classifier
from vit_hf.modeling import onednn_products
from vit_hf.modeling.dense import Dense
from vit_hf.modeling.onednn_products import NUM_FEW_ROWS, is_amd_with_avx512

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN"
)

LAYERS = 2
DENSE_PER_LAYER = 6  # q, k, v, o, and two of the MLP
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(autouse=True)
def faster_from_the_first_row_on(monkeypatch):
    """Has oneDNN multiply here, whatever the processor and however few the rows."""
    monkeypatch.setattr(onednn_products, "IS_FASTER", True)
    monkeypatch.setattr(onednn_products, "NUM_FEW_ROWS", 1)


@pytest.fixture
def products(monkeypatch):
    """Lists the shapes of oneDNN's products, as they are made."""
    shapes = []
    multiply = onednn_products.multiply

    def counted(inputs, weight, *others):
        outputs = multiply(inputs, weight, *others)
        shapes.append(tuple(outputs.shape))
        return outputs

    monkeypatch.setattr(onednn_products, "multiply", counted)
    return shapes


@pytest.fixture
def plainly(monkeypatch):
    """Calls something as on a processor where PyTorch's products are as fast."""

    def call(function, *arguments):
        with monkeypatch.context() as patches:
            patches.setattr(onednn_products, "IS_FASTER", False)
            return function(*arguments)

    return call


def loss_and_gradients(model, pixels):
    """Returns the logits of a model in training, and the gradients of their sum of squares."""
    model.zero_grad()
    logits = model(pixels).logits
    logits.square().sum().backward()
    return [logits.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("use_reentrant", [None, True, False])
def test_same_gradients_of_a_model(build, images, products, plainly, qkv_bias, use_reentrant):
    model = build(Classifier, qkv_bias=qkv_bias).train()
    if use_reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    expected = plainly(loss_and_gradients, model, images())
    assert not products
    found = loss_and_gradients(model, images())
    forward_passes = 1 if use_reentrant is None else 2
    assert len(products) == LAYERS * DENSE_PER_LAYER * (forward_passes + 2)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)
        assert mine.stride() == theirs.stride()


def test_inference_needs_no_packing(build, images, products, plainly):
    model = build(Classifier).eval()
    with torch.inference_mode():
        expected = plainly(model, images()).logits
        torch.testing.assert_close(model(images()).logits, expected, **CLOSE)
    assert len(products) == LAYERS * DENSE_PER_LAYER


@pytest.mark.parametrize("lead", [(5,), (2, 3), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients_of_gradients(products, plainly, lead, has_bias):
    layer = Dense(4, 6, bias=has_bias)
    inputs = torch.randn(*lead, 4, requires_grad=True)
    leaves = [inputs, *layer.parameters()]

    def gradients():
        first = torch.autograd.grad(layer(inputs).sin().sum(), leaves, create_graph=True)
        return *first, *torch.autograd.grad(sum(each.square().sum() for each in first), leaves)

    expected = plainly(gradients)
    assert not products
    for mine, theirs in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)
    assert len(products) > 3


def test_gradients_that_lie_otherwise(products):
    layer, inputs = Dense(4, 6), torch.randn(8, 3, 4).transpose(0, 1)
    for gradient in (torch.ones(1).expand(3, 8, 6), torch.randn(6, 8, 3).permute(2, 1, 0)):
        outputs = layer(inputs)
        found = torch.autograd.grad(outputs, list(layer.parameters()), gradient)
        outputs = functional.linear(inputs, layer.weight, layer.bias)
        expected = torch.autograd.grad(outputs, list(layer.parameters()), gradient)
        torch.testing.assert_close(found, expected, **CLOSE)
    assert len(products) == 4


def test_what_is_frozen_gets_no_gradient(products):
    layer = Dense(4, 6).requires_grad_(False)
    inputs = torch.randn(3, 4, requires_grad=True)
    layer(inputs).sum().backward()
    assert layer.weight.grad is None
    assert products == [(3, 6), (3, 4)]
    layer.weight.requires_grad_(True)
    products.clear()
    layer(inputs.detach()).sum().backward()
    assert products == [(3, 6), (6, 4)]


def of_samples(layer, inputs):
    """Returns the gradients of each row of inputs."""

    def loss(parameters, row):
        return torch.func.functional_call(layer, parameters, (row[None],)).square().sum()

    parameters = dict(layer.named_parameters())
    return torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, inputs)


def of_tangents(layer, inputs):
    """Returns the derivative in the direction of ones."""
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(
            layer(forward_ad.make_dual(inputs, torch.ones_like(inputs)))
        ).tangent


WAYS = {
    "per-sample gradients": of_samples,
    "torch.func.jvp": lambda layer, inputs: torch.func.jvp(
        layer, (inputs,), (torch.ones_like(inputs),)
    ),
    "forward-mode differentiation": of_tangents,
    "torch.compile": lambda layer, inputs: torch.compile(
        copy.deepcopy(layer), backend="eager", fullgraph=True
    )(inputs),
    "torch.jit.trace": lambda layer, inputs: torch.jit.trace(layer, inputs, check_trace=False)(
        inputs
    ),
    "torch.export": lambda layer, inputs: torch.export.export(layer, (inputs,)).module()(inputs),
}


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", WAYS)
def test_who_looks_within_sees_a_plain_layer(products, plainly, way):
    layer, inputs = Dense(4, 6), torch.randn(3, 4)
    found, expected = WAYS[way](layer, inputs), plainly(WAYS[way], layer, inputs)
    torch.testing.assert_close(found, expected)
    assert not products


def test_operations_are_counted(build, images, products, plainly):
    model = build(Classifier)

    def count():
        with FlopCounterMode(display=False) as counter:
            model(images()).logits.sum().backward()
        return counter.get_total_flops()

    assert count() == plainly(count) > 0
    assert not products


@pytest.mark.parametrize("is_batched", [True, False], ids=["is_grads_batched", "vmap"])
def test_backward_passes_in_a_batch(products, is_batched):
    layer, inputs = Dense(4, 6), torch.randn(3, 4, requires_grad=True)
    outputs = layer(inputs)
    assert products
    basis = torch.eye(outputs.numel()).reshape(-1, *outputs.shape)

    def gradient(vectors, **settings):
        return torch.autograd.grad(outputs, inputs, vectors, retain_graph=True, **settings)[0]

    settings = {"is_grads_batched": True}
    found = gradient(basis, **settings) if is_batched else torch.vmap(gradient)(basis)
    torch.testing.assert_close(found, torch.stack([gradient(each) for each in basis]))


def test_operations_of_a_backward_pass_alone_are_counted(products):
    layer, inputs = Dense(4, 6), torch.randn(3, 4, requires_grad=True)
    outputs = layer(inputs)
    assert products
    with FlopCounterMode(display=False) as counter:
        outputs.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 3 * 4 * 6


def test_outputs_may_be_changed_in_place(products):
    layer = Dense(4, 6)
    for shape in ((3, 4), (2, 3, 4)):
        outputs = layer(torch.randn(shape))
        outputs[..., 0] = 0
        outputs.mul_(2).sum().backward()
    assert products
    assert layer.weight.grad[0].count_nonzero() == 0


def test_a_parametrised_weight_is_made_once(products):
    calls = []

    class Doubled(torch.nn.Module):
        def forward(self, weight):
            calls.append(weight)
            return 2 * weight

    layer = parametrize.register_parametrization(Dense(4, 6), "weight", Doubled())
    calls.clear()
    inputs = torch.randn(3, 4)
    found = layer(inputs)
    assert len(calls) == len(products) == 1
    torch.testing.assert_close(found, functional.linear(inputs, layer.weight, layer.bias))


def test_no_more_is_kept_than_gradients_need(products):
    layer = Dense(4, 6)
    layer.weight.requires_grad_(False)
    kept = []
    inputs = torch.randn(3, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        layer(inputs)
        layer.weight.requires_grad_(True)
        layer(inputs.detach())
    assert [each.shape for each in kept] == [layer.weight.shape, inputs.shape]
    layer.weight.requires_grad_(False)
    with torch.inference_mode():
        features = torch.randn(3, 4)
    layer(features).sum().backward()  # of the bias alone
    assert len(products) == 3


def test_rows_that_lie_apart_are_brought_together(products):
    layer = Dense(4, 6)
    for inputs in (torch.randn(3, 5, 4)[:, :1], torch.randn(1, 4).expand(3, 4)):
        found = torch.autograd.grad(layer(inputs).square().sum(), layer.weight)
        outputs = functional.linear(inputs, layer.weight, layer.bias)
        expected = torch.autograd.grad(outputs.square().sum(), layer.weight)
        torch.testing.assert_close(found, expected, **CLOSE)
    assert len(products) == 4


def of_sparse(layer, inputs):
    layer.weight = torch.nn.Parameter(layer.weight.detach().to_sparse_csr(), requires_grad=False)
    return layer(inputs)


def of_columns(layer, inputs):
    layer.weight = torch.nn.Parameter(torch.randn(6, 8)[:, ::2])
    return layer(inputs)


def in_bfloat16(layer, inputs):
    return layer.to(torch.bfloat16)(inputs.to(torch.bfloat16))


def under_autocast(layer, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        return layer(inputs)


def without_onednn(layer, inputs):
    with torch.backends.mkldnn.flags(enabled=False):
        return layer(inputs)


@pytest.mark.parametrize(
    "call",
    [of_sparse, of_columns, in_bfloat16, under_autocast, without_onednn],
    ids=lambda call: call.__name__,
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_other_weights_types_and_switches(products, call):
    call(Dense(4, 6), torch.randn(3, 4))
    assert not products


def test_few_rows_are_plain(monkeypatch, products):
    monkeypatch.setattr(onednn_products, "NUM_FEW_ROWS", NUM_FEW_ROWS)
    layer = Dense(4, 6)
    layer(torch.randn(NUM_FEW_ROWS - 1, 4))
    assert not products
    layer(torch.randn(2, NUM_FEW_ROWS // 2, 4))
    assert products


def test_what_does_not_fit_is_told_by_pytorch():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Dense(4, 6)(torch.randn(3, 5))
    layer = Dense(4, 6)
    layer.bias = torch.nn.Parameter(layer.bias.detach().double())
    with pytest.raises(RuntimeError, match="dtype"):
        layer(torch.randn(3, 4))


@pytest.mark.parametrize(
    "name, capability, has_mkl, expected",
    [
        ("AMD EPYC 9654 96-Core Processor", "AVX512", True, True),
        ("AMD EPYC 9654 96-Core Processor", "AVX512", False, False),
        ("AMD EPYC 7763 64-Core Processor", "AVX2", True, False),
        ("Intel(R) Xeon(R) Platinum 8480+", "AVX512", True, False),
        (None, "AVX512", True, False),
    ],
)
def test_the_processors_where_it_is_faster(monkeypatch, name, capability, has_mkl, expected):
    if name is None:  # an older PyTorch
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda: {"cpu_name": name}, raising=False
        )
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: has_mkl)
    assert is_amd_with_avx512() == expected


def test_a_weight_that_changed_before_its_backward_pass_is_told(products):
    layer, inputs = Dense(4, 6), torch.randn(3, 4, requires_grad=True)
    outputs = layer(inputs)
    assert products
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()
