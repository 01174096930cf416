# SPDX-License-Identifier: Apache-2.0
"""Parameters and multiply-adds of every model the authors published, exactly."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.modeling.modeling_vision_transformer import VisionTransformerModel

FIXTURE = Path(__file__).parents[1] / "fixtures" / "param_counts.json"
MODELS = json.loads(FIXTURE.read_text())["models"]
VARIANTS = {
    "1000_classes": {"num_labels": 1000},
    "21843_classes": {"num_labels": 21843},
    "21843_classes_with_representation": {"num_labels": 21843, "representation": True},
    "no_head": {"num_labels": 0},
}
# In the default run every model is counted with its largest head; the others are slow.
DEFAULT = "21843_classes_with_representation"


def config_of(name: str, variant: str, side: str) -> VisionTransformerConfig:
    """Returns our configuration of a row of the table."""
    theirs, ours = MODELS[name]["config"], VARIANTS[variant]
    stem = theirs.get("resnet")
    return VisionTransformerConfig(
        image_size=int(side),
        patch_size=theirs["patches"]["size"],
        hidden_size=theirs["hidden_size"],
        num_hidden_layers=theirs["transformer"]["num_layers"],
        num_attention_heads=theirs["transformer"]["num_heads"],
        intermediate_size=theirs["transformer"]["mlp_dim"],
        pooling={"token": "cls", "gap": "gap"}[theirs["classifier"]],
        representation_size=theirs["hidden_size"] if "representation" in ours else None,
        stem_blocks=stem["num_layers"] if stem else None,
        stem_width=64 * stem["width_factor"] if stem else 64,
        num_labels=ours["num_labels"],
    )


def build_on_meta(config: VisionTransformerConfig) -> VisionTransformerForImageClassification:
    """Builds the classifier without memory for its weights."""
    with torch.device("meta"):
        return VisionTransformerForImageClassification(config).eval()


def rows_with(key: str):
    """Returns every (name, variant, side, expected count) of the table that states `key`."""
    return [
        pytest.param(
            name,
            variant,
            side,
            counts[key],
            id=f"{name}-{variant}-{side}",
            marks=() if variant == DEFAULT else pytest.mark.slow,
        )
        for name, model in MODELS.items()
        for variant in VARIANTS
        for side, counts in model[variant].items()
        if key in counts
    ]


def test_table_is_whole():
    assert len(MODELS) == 18
    assert all(set(VARIANTS) | {"config"} == set(model) for model in MODELS.values())
    assert len(rows_with("params")) == 152 and len(rows_with("macs")) == 74


@pytest.mark.parametrize("name", MODELS)
def test_parameters(name):
    for variant in VARIANTS:
        for side, expected in MODELS[name][variant].items():
            model = build_on_meta(config_of(name, variant, side))
            count = sum(parameter.numel() for parameter in model.parameters())
            assert count == expected["params"], (variant, side)
            assert count == model.num_parameters()


@pytest.mark.parametrize(("name", "variant", "side", "expected"), rows_with("macs"))
def test_multiply_adds(name, variant, side, expected):
    model = build_on_meta(config_of(name, variant, side))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        image = torch.empty(1, 3, int(side), int(side), device="meta")
        model(image, output_hidden_states=True)  # every token of every layer
    assert counter.get_total_flops() == 2 * expected


def test_h14_at_384_has_27_by_27_patches():
    assert config_of("ViT-H_14", "1000_classes", "384").grid == (27, 27)


def test_masked_patch_prediction_adds_a_mask_token_and_a_head():
    config = config_of("ViT-B_16", "no_head", "224")
    with torch.device("meta"):
        from vit_hf import VisionTransformerForMaskedPatchPrediction

        predictor, encoder = (
            VisionTransformerForMaskedPatchPrediction(config),
            VisionTransformerModel(config),
        )
    assert predictor.num_parameters() - encoder.num_parameters() == 768 + 768 * 512 + 512
