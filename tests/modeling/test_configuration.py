# SPDX-License-Identifier: Apache-2.0
"""Every setting does something; what makes no sense is refused, with what was got and what fits."""

import json
from dataclasses import fields

import pytest
import torch
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
)

# Settings by what shows that they do something, each with what it is changed to and, where it needs
# them, the settings it stands beside.
CHANGE_PARAMETERS = [
    ("hidden_size", 64, {}),
    ("num_hidden_layers", 3, {}),
    ("intermediate_size", 48, {}),
    ("qkv_bias", False, {}),
    ("image_size", (16, 24), {}),
    ("patch_size", (4, 8), {}),
    ("num_channels", 1, {}),
    ("patch_bias", False, {}),
    ("position_embedding", "learned_2d", {}),
    ("position_embedding_placement", "every_layer", {}),
    ("prefix_position_embedding", False, {}),
    ("class_token", True, {"pooling": "gap"}),
    ("num_register_tokens", 2, {}),
    ("pre_encoder_norm", True, {}),
    ("representation_size", 16, {}),
    ("qk_norm", True, {}),
    ("layer_scale_init_value", 0.1, {}),
    ("stem_blocks", [], {"patch_size": 2}),
    ("stem_width", 32, {"stem_blocks": [], "patch_size": 2}),
]
CHANGE_OUTPUTS = [
    ("num_attention_heads", 2, {}),
    ("hidden_act", "gelu_pytorch_tanh", {}),
    ("layer_norm_eps", 1e-2, {}),
    ("position_embedding_placement", "every_layer_shared", {}),
    ("pooling", "gap", {"class_token": True}),
    ("final_norm", "pooled", {"pooling": "gap"}),
    ("stem_norm_eps", 1e-1, {"stem_blocks": [], "patch_size": 2}),
    ("stem_weight_eps", 1e-1, {"stem_blocks": [], "patch_size": 2}),
    ("stem_weight_eps_placement", "variance", {"stem_blocks": [], "patch_size": 2}),
]
CHANGE_FRESH_WEIGHTS = [("initializer_range", 0.5, {}), ("classifier_bias_init", -10.0, {})]
CHANGE_TRAINING = [
    ("hidden_dropout_prob", 0.5, {}),
    ("attention_probs_dropout_prob", 0.5, {}),
    ("drop_path_rate", 0.5, {}),
    ("patch_dropout_rate", 0.5, {}),
]
CHANGE_OTHER_THINGS = {
    "interpolation",
    "classification_loss",
    "prediction_target",
    "corruption_ratio",
    "corruption_mix",
    "source_layout",  # of the converters, which test it
}  # each has its test below


def own_settings() -> set[str]:
    """Returns the names of our settings, without those of transformers."""
    return {field.name for field in fields(VisionTransformerConfig)} - {
        field.name for field in fields(PreTrainedConfig)
    }


def shapes(config) -> dict:
    """Returns the shape of every parameter."""
    with torch.device("meta"):
        model = VisionTransformerForImageClassification(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def test_every_setting_is_tried():
    tried = CHANGE_PARAMETERS + CHANGE_OUTPUTS + CHANGE_FRESH_WEIGHTS + CHANGE_TRAINING
    assert {name for name, _, _ in tried} | CHANGE_OTHER_THINGS == own_settings()


@pytest.mark.parametrize(("name", "value", "beside"), CHANGE_PARAMETERS)
def test_changes_parameters(tiny_config, name, value, beside):
    assert shapes(tiny_config(**beside)) != shapes(tiny_config(**beside, **{name: value}))


@pytest.mark.parametrize(("name", "value", "beside"), CHANGE_OUTPUTS)
def test_changes_outputs(tiny_config, build, images, name, value, beside):
    before = build(VisionTransformerForImageClassification, **beside)
    after = VisionTransformerForImageClassification(tiny_config(**beside, **{name: value})).eval()
    state = before.state_dict()
    if name == "final_norm":
        state = {key.replace("vit.layernorm", "vit.pooler.layernorm"): state[key] for key in state}
    after.load_state_dict(state)
    with torch.no_grad():
        difference = before(images()).logits - after(images()).logits
    assert difference.abs().max() > 1e-6


@pytest.mark.parametrize(("name", "value", "beside"), CHANGE_FRESH_WEIGHTS)
def test_changes_fresh_weights(tiny_config, name, value, beside):
    def state_of(config):
        torch.manual_seed(0)
        return VisionTransformerForImageClassification(config).state_dict()

    before, after = state_of(tiny_config(**beside)), state_of(tiny_config(**{name: value}))
    assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(("name", "value", "beside"), CHANGE_TRAINING)
def test_changes_training(build, images, name, value, beside):
    model = build(VisionTransformerForImageClassification, **beside, **{name: value})
    still = model(images()).logits
    assert torch.equal(still, model(images()).logits)
    torch.manual_seed(1)
    assert not torch.equal(still, model.train()(images()).logits)


@pytest.mark.parametrize("name", ["bicubic", "bicubic_antialias"])
def test_interpolation_changes_foreign_sizes(build, images, name):
    logits = [
        build(VisionTransformerForImageClassification, interpolation=how)(images(height=24)).logits
        for how in ("bilinear_corners", name)
    ]
    assert (logits[0] - logits[1]).abs().max() > 1e-4


def test_classification_loss_changes_the_loss(build, images):
    losses = [
        build(VisionTransformerForImageClassification, classification_loss=how)(
            images(), labels=torch.tensor([0, 1])
        ).loss
        for how in ("softmax", "sigmoid")
    ]
    assert losses[0] != losses[1]


def test_prediction_target_changes_the_predictions(build, images):
    shapes = {
        build(VisionTransformerForMaskedPatchPrediction, prediction_target=how)(
            images()
        ).logits.shape[2:]
        for how in ("mean_color", "downsampled_color", "raw_pixels")
    }
    assert shapes == {(512,), (16, 512), (3, 8, 8)}


def test_corruption_settings_travel_with_the_model(tiny_config, tmp_path):
    # The collator reads them, which its own test shows.
    tiny_config(corruption_ratio=0.15, corruption_mix=(1.0, 0.0, 0.0)).save_pretrained(tmp_path)
    config = VisionTransformerConfig.from_pretrained(tmp_path)
    assert (config.corruption_ratio, list(config.corruption_mix)) == (0.15, [1.0, 0.0, 0.0])


def test_defaults_are_those_of_the_design():
    config = VisionTransformerConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (
        768,
        12,
        3072,
    )
    assert (config.grid, config.num_patches, config.num_prefix_tokens) == ((14, 14), 196, 1)
    assert (config.layer_norm_eps, config.hidden_act, config.qkv_bias) == (1e-6, "gelu", True)
    assert (config.corruption_ratio, tuple(config.corruption_mix)) == (0.5, (0.8, 0.1, 0.1))
    assert VisionTransformerConfig.model_type == "vision_transformer"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"position_embedding": "learned1d"}, ["learned1d", "learned_1d", "sincos_2d"]),
        ({"position_embedding_placement": "each_layer"}, ["each_layer", "every_layer'", "stem"]),
        ({"pooling": "mean"}, ["mean", "cls", "gap", "map", "none"]),
        ({"final_norm": "token"}, ["'token'", "Did you mean 'tokens'"]),
        ({"interpolation": "bilinear"}, ["'bilinear'", "Did you mean 'bilinear_corners'"]),
        ({"prediction_target": "mean_colour"}, ["Did you mean 'mean_color'"]),
        ({"classification_loss": "sigmoide"}, ["Did you mean 'sigmoid'"]),
        ({"stem_weight_eps_placement": "std"}, ["'std'", "deviation", "variance"]),
        ({"hidden_act": "gelu_tanh"}, ["gelu_tanh", "Did you mean", "gelu_pytorch_tanh"]),
        ({"hidden_siez": 32}, ["hidden_siez", "Did you mean 'hidden_size'", "patch_size"]),
        ({"num_attention_heads": 5}, ["num_attention_heads=5", "hidden_size=32", "4"]),
        ({"hidden_size": "32"}, ["hidden_size='32'", "int"]),
        ({"hidden_dropout_prob": 1.0}, ["hidden_dropout_prob=1.0", "< 1"]),
        ({"drop_path_rate": float("nan")}, ["drop_path_rate=nan"]),
        ({"patch_dropout_rate": 1.0}, ["patch_dropout_rate=1.0", "< 1"]),
        (
            {"patch_dropout_rate": 0.5, "position_embedding_placement": "every_layer"},
            ["patch_dropout_rate=0.5", "'every_layer'", "patch_dropout_rate=0"],
        ),
        (
            {
                "patch_dropout_rate": 0.5,
                "position_embedding": "relative",
                "position_embedding_placement": "stem",
            },
            ["'relative'", "patch_dropout_rate=0"],
        ),
        ({"patch_dropout_rate": 0.5, "pooling": "none"}, ["pooling='none'", "one vector"]),
        ({"layer_norm_eps": 0.0}, ["layer_norm_eps=0.0", "above 0"]),
        ({"image_size": (32, 32, 3)}, ["image_size=(32, 32, 3)", "int or list or (int, int)"]),
        ({"image_size": 0}, ["image_size=0", "positive"]),
        ({"image_size": [32]}, ["image_size=[32]", "(height, width)"]),
        ({"patch_size": 33}, ["image_size=32", "patch_size=33", "no patch"]),
        ({"patch_size": 16, "stem_blocks": [1]}, ["64x64 pixels", "cells of the stem"]),
        ({"num_channels": 0}, ["num_channels=0", "1 or more"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers=0", "1 or more"]),
        ({"num_register_tokens": -1}, ["num_register_tokens=-1", "0 or more"]),
        ({"representation_size": 0}, ["representation_size=0", "1 or more"]),
        ({"stem_blocks": [1, 0], "patch_size": 1}, ["stem_blocks=[1, 0]", "positive"]),
        ({"stem_blocks": [], "stem_width": 40, "patch_size": 1}, ["stem_width=40", "is 32"]),
        (
            {"pooling": "cls", "class_token": False},
            ["pooling='cls'", "class_token=False", "'gap', 'map', 'none'"],
        ),
        (
            {"position_embedding": "none", "position_embedding_placement": "every_layer"},
            ["'none'", "'every_layer'", "'stem'"],
        ),
        (
            {"position_embedding": "sincos_2d", "prefix_position_embedding": True},
            ["prefix_position_embedding=True", "learned_1d", "sincos_2d"],
        ),
        (
            {"position_embedding": "sincos_2d", "hidden_size": 36, "num_attention_heads": 6}
            | {"hidden_size": 42},
            ["hidden_size=42", "multiple of 4"],
        ),
        (
            {"position_embedding": "learned_2d", "hidden_size": 33, "num_attention_heads": 3},
            ["hidden_size=33", "even"],
        ),
        (
            {"classification_loss": "sigmoid", "problem_type": "regression"},
            ["'sigmoid'", "'regression'"],
        ),
        ({"to_dict": 3}, ["'to_dict'", "not a setting"]),
        ({"validate": 1}, ["'validate'", "not a setting"]),
        ({"stem_blocks": [1.5]}, ["stem_blocks=[1.5]", "a list's elements: int"]),
        ({"image_size": [32.5, 32]}, ["image_size=[32.5, 32]", "a list's elements: int"]),
        ({"layer_norm_eps": float("inf")}, ["layer_norm_eps=inf", "finite"]),
        ({"layer_scale_init_value": float("nan")}, ["layer_scale_init_value=nan", "finite"]),
        ({"classifier_bias_init": float("nan")}, ["classifier_bias_init=nan", "finite"]),
        ({"corruption_mix": (float("nan"), 0.5, 0.5)}, ["corruption_mix=(nan", "sum to 1"]),
        (
            {"position_embedding": "learned_2d", "prefix_position_embedding": True},
            ["'learned_2d'", "set prefix_position_embedding=False"],
        ),
        ({"num_labels": -1}, ["num_labels=-1", "0 or more"]),
        ({"num_labels": "5"}, ["num_labels='5'", "an int"]),
        ({"id2label": ["a"]}, ["id2label=['a']", "dict"]),
        ({"id2label": {1: "a", 2: "b"}}, ["indices 1, 2", "0 ... 1"]),
        ({"id2label": {0: "a", 1: "b"}, "num_labels": 3}, ["num_labels=3 and an id2label of 2"]),
        ({"label2id": {"a": 0}, "num_labels": 3}, ["num_labels=3 and a label2id of 1"]),
        ({"id2label": {0: "a"}, "label2id": {"b": 0}}, ["label2id={'b': 0}", "'a'"]),
        ({"problem_type": "foo"}, ["'foo'", "regression", "multi_label_classification"]),
        ({"corruption_ratio": 0.0}, ["corruption_ratio=0.0"]),
        ({"corruption_mix": (0.5, 0.1, 0.1)}, ["corruption_mix=(0.5, 0.1, 0.1)", "sum to 1"]),
    ],
    ids=str,
)
def test_refused(tiny_config, settings, words):
    with pytest.raises(ValueError) as error:
        tiny_config(**settings)
    for word in words:
        assert word in str(error.value)


def test_refused_when_set_and_when_a_model_is_built(tiny_config):
    config = tiny_config()
    with pytest.raises(ValueError, match="Did you mean 'learned_2d'"):
        config.position_embedding = "learned2d"
    config.pooling, config.class_token = "cls", False
    with pytest.raises(ValueError, match="class_token=False"):
        VisionTransformerForImageClassification(config)


def test_survives_save_and_load(tiny_config, tmp_path):
    config = tiny_config(
        image_size=(32, 48),
        patch_size=(4, 2),
        stem_blocks=[],
        position_embedding="relative",
        pooling="map",
        representation_size=5,
        id2label={0: "cat", 1: "dog", 2: "owl"},
        label2id={"cat": 0, "dog": 1, "owl": 2},
        layer_scale_init_value=1e-5,
    )
    config.save_pretrained(tmp_path)
    for loaded in (
        VisionTransformerConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
    ):
        assert type(loaded) is VisionTransformerConfig
        assert loaded.grid == config.grid == (2, 6)
        before, after = (json.loads(each.to_json_string()) for each in (config, loaded))
        for name in own_settings() | {"id2label", "label2id"}:
            assert before.get(name) == after.get(name), name


def test_opens_a_config_of_another_version(tiny_config, tmp_path, log):
    tiny_config(pooling="gap").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    written |= {
        "setting_of_the_future": 3,
        "transformers_version": "5.99.0",
        "torch_dtype": "bfloat16",
    }
    path.write_text(json.dumps(written))
    config = VisionTransformerConfig.from_pretrained(tmp_path)
    assert config.pooling == "gap" and not hasattr(config, "setting_of_the_future")
    assert "setting_of_the_future" in log.text
    model = VisionTransformerForImageClassification(config)
    model.save_pretrained(tmp_path)
    assert VisionTransformerForImageClassification.from_pretrained(tmp_path).config.pooling == "gap"


def test_from_pretrained_takes_settings_and_refuses_misspelt_ones(tiny_config, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    assert VisionTransformerConfig.from_pretrained(tmp_path, image_size=64).grid == (8, 8)
    with pytest.raises(ValueError, match=r"image_sise.*Did you mean 'image_size'"):
        VisionTransformerConfig.from_pretrained(tmp_path, image_sise=64)
    with pytest.raises(ValueError, match="Did you mean 'learned_2d'"):
        VisionTransformerConfig.from_pretrained(tmp_path, position_embedding="learned2d")
