# SPDX-License-Identifier: Apache-2.0
"""Where numbers stop being finite: each kind of accident is found at its origin."""

import pytest
import torch

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
)
from vit_hf.training.divergence import NonFiniteLoss, first_bad_module

NAN, INF = float("nan"), float("inf")
SMALL = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 2,
}


@pytest.fixture
def model():
    return build(VisionTransformerForImageClassification)


def build(model_class, **settings):
    torch.manual_seed(0)
    model = model_class(VisionTransformerConfig(**{**SMALL, **settings})).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def batch_of(num_images=4):
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.rand(num_images, 3, 8, 8, generator=generator) * 2 - 1
    return {"pixel_values": pixel_values, "labels": torch.ones(num_images, dtype=torch.long)}


@torch.no_grad()
def scale(parameter, factor):
    parameter.mul_(factor)


def test_where_all_is_finite(model):
    model(**batch_of()).loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    assert first_bad_module(model, batch_of()) is None
    assert first_bad_module(model) is None
    for parameter, gradient in zip(model.parameters(), gradients):
        assert torch.equal(parameter.grad, gradient)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("vit.layers.1.mlp.fc1.weight", NAN, "vit.layers.1.mlp.fc1 (its weight holds nan)"),
        ("vit.layers.1.mlp.fc1.bias", INF, "vit.layers.1.mlp.fc1 (its bias holds inf)"),
        ("vit.embeddings.cls_token", NAN, "vit.embeddings (its cls_token holds nan)"),
        ("vit.positions.0.table", -INF, "vit.positions.0 (its table holds inf)"),
        ("classifier.weight", NAN, "classifier (its weight holds nan)"),
    ],
)
def test_a_parameter(model, name, value, place):
    with torch.no_grad():
        model.get_parameter(name).flatten()[0] = value
    assert first_bad_module(model, batch_of()) == place
    assert first_bad_module(model) == place  # without a batch


def test_a_parameter_of_a_module_with_parts():
    model = build(VisionTransformerForImageClassification, pooling="map")
    with torch.no_grad():
        model.vit.pooler.pooling.probe[0, 0, 0] = NAN
    assert first_bad_module(model, batch_of()) == "vit.pooler.pooling (its probe holds nan)"


def test_of_several_the_first_in_execution(model):
    with torch.no_grad():
        for name in ("classifier.bias", "vit.layers.2.mlp.fc2.bias", "vit.layers.0.mlp.fc2.bias"):
            model.get_parameter(name)[0] = NAN
    assert first_bad_module(model, batch_of()).startswith("vit.layers.0.mlp.fc2 ")


def test_an_input():
    model, batch = build(VisionTransformerForImageClassification), batch_of()
    batch["pixel_values"][1, 0, 0, 0], batch["pixel_values"][3] = NAN, INF
    assert first_bad_module(model, batch) == "the input pixel_values (images 1, 3 of the batch)"
    shares = torch.tensor([[0.5, 0.5], [NAN, 1.0]])
    batch = {**batch_of(2), "labels": shares}
    assert first_bad_module(model, batch) == "the input labels (images 1 of the batch)"


def test_an_overflow_in_half_precision(model):
    scale(model.vit.layers[1].mlp.fc2.weight, 3e5)
    assert first_bad_module(model, batch_of()) is None  # in float32 it has room
    place = first_bad_module(model.half(), batch_of())
    assert place.startswith("vit.layers.1.mlp.fc2 (its weight holds inf")
    model = build(VisionTransformerForImageClassification)
    scale(model.vit.layers[1].mlp.fc1.weight, 3e3)
    scale(model.vit.layers[1].mlp.fc2.weight, 3e3)
    place = first_bad_module(model.half(), batch_of())
    assert place.startswith("vit.layers.1.mlp.fc2 (its inputs reach ")
    assert place.endswith(", its output is float16, which ends at 6.55e+04)")


def test_arithmetic_between_modules(model):
    for projection in (model.vit.layers[1].attention.q_proj, model.vit.layers[1].attention.k_proj):
        scale(projection.weight, 1e21)
    assert first_bad_module(model, batch_of()) == (
        "vit.layers.1.attention (what it gives to vit.layers.1.attention.o_proj)"
    )


def test_only_the_loss(model):
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([3e38, -3e38]))
    assert not torch.isfinite(model(**batch_of()).loss)
    assert first_bad_module(model, batch_of()) == "the loss alone (the model's outputs reach 3e+38)"


def test_masked_patch_prediction():
    model = build(VisionTransformerForMaskedPatchPrediction)
    with torch.no_grad():
        model.vit.embeddings.mask_token.fill_(NAN)
    pixel_values = batch_of()["pixel_values"]
    batch = {"pixel_values": pixel_values, "bool_masked_pos": torch.ones(4, 4, dtype=torch.bool)}
    assert first_bad_module(model, batch) == "vit.embeddings (its mask_token holds nan)"


def test_a_gradient(model):
    """One that overflows on its way back through the middle layer."""
    middle = model.vit.layers[1].mlp.fc2
    middle.register_full_backward_hook(lambda module, given, got: (given[0] * INF,))
    model(**batch_of()).loss.backward()
    expected = "the gradient of vit.layers.1.mlp.fc1.bias (nan; those above are finite)"
    assert first_bad_module(model) in (expected, expected.replace("nan", "nan and inf"))
    assert first_bad_module(model, batch_of()) == first_bad_module(model)


def test_dropout_is_drawn_again():
    """The values of one draw overflow, those of others do not: the same seed finds them."""
    one_token = {"patch_size": 8, "pooling": "gap"}
    model = build(VisionTransformerForImageClassification, hidden_dropout_prob=0.5, **one_token)
    with torch.no_grad():
        model.vit.layers[2].mlp.fc2.bias[0] = 2e38  # dropout makes twice that of it, or nothing
    batch, found = batch_of(1), set()
    for seed in range(10):
        torch.manual_seed(seed)
        is_finite = bool(torch.isfinite(model(**batch).loss))
        torch.manual_seed(seed)
        place = first_bad_module(model, batch)
        assert (place is None) == is_finite, seed
        found.add(place)
    assert len(found) > 1


def test_a_compiled_model(model):
    model.compile(backend="eager")
    with torch.no_grad():
        model(**batch_of())  # compiled without hooks
        model.vit.layers[2].attention.v_proj.bias[0] = NAN
    assert first_bad_module(model, batch_of()).startswith("vit.layers.2.attention.v_proj ")


def test_the_error_is_not_taken_for_one_of_memory():
    # accelerate tries again with smaller batches at some RuntimeErrors.
    assert issubclass(NonFiniteLoss, FloatingPointError)
    assert not issubclass(NonFiniteLoss, RuntimeError)
