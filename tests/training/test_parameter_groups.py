# SPDX-License-Identifier: Apache-2.0
"""Which parameters decay, and how fast each layer learns."""

import pytest

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.training.parameter_groups import decayed_names, depth_of, parameter_groups

CONFIG = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 4,
}


def make_groups(layer_decay):
    model = VisionTransformerForImageClassification(VisionTransformerConfig(**CONFIG))
    groups = parameter_groups(
        model, num_layers=3, learning_rate=0.1, weight_decay=0.3, layer_decay=layer_decay
    )
    return model, groups


def test_every_parameter_is_in_one_group():
    model, groups = make_groups(0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_learning_rates_fall_from_the_head_down():
    model, groups = make_groups(0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert found["classifier.weight"] == found["vit.layernorm.weight"] == 0.1
    assert [found[f"vit.layers.{layer}.mlp.fc1.weight"] for layer in range(3)] == pytest.approx(
        [0.0125, 0.025, 0.05]
    )
    stem = [rate for name, rate in found.items() if "embeddings" in name or "positions" in name]
    assert len(stem) >= 3 and stem == pytest.approx([0.00625] * len(stem))
    assert groups[0]["lr"] == 0.1  # what transformers logs as the learning rate


def test_without_layer_decay_there_are_two_groups():
    _, groups = make_groups(1.0)
    found = [(group["lr"], group["weight_decay"]) for group in groups]
    assert found == [(0.1, 0.3), (0.1, 0.0)]


def test_kernels_alone_decay():
    model, groups = make_groups(0.9)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        kernel = parameter.dim() > 1 and "token" not in name and "position" not in name
        assert decay[id(parameter)] == (0.3 if kernel else 0.0), name
        assert (name in decayed_names(model)) == kernel, name


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("vit.embeddings.cls_token", 0),
        ("vit.positions.table", 0),
        ("vit.layers.0.mlp.fc1.weight", 1),
        ("vit.layers.11.mlp.fc1.weight", 12),
        ("vit.layernorm.weight", 13),
        ("classifier.weight", 13),
    ],
)
def test_depth(name, depth):
    assert depth_of(name, 12) == depth
