# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: saved and loaded to the bit, opened at another size, with other labels."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    ViTConfig,
    ViTForImageClassification,
)

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)

CLASSES = [
    VisionTransformerModel,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
]
LOADERS = [VisionTransformerForImageClassification, AutoModelForImageClassification]
POSITIONS = ["learned_1d", "learned_2d", "relative", "sincos_2d"]
# Every kind of part that a checkpoint can hold.
PARTS = [
    {},
    {"position_embedding": "learned_2d", "pooling": "gap", "final_norm": "pooled"},
    {"position_embedding": "relative", "pooling": "map", "representation_size": 16},
    {"position_embedding": "sincos_2d", "stem_blocks": [1], "stem_width": 32, "patch_size": 2},
    {"position_embedding": "none", "pooling": "none", "qk_norm": True, "qkv_bias": False},
    {"position_embedding_placement": "every_layer", "num_register_tokens": 2}
    | {"pre_encoder_norm": True, "layer_scale_init_value": 0.1, "patch_bias": False},
]
loaders = pytest.mark.parametrize("loader", LOADERS)
positions = pytest.mark.parametrize("kind", POSITIONS)


@pytest.fixture
def saved(build, tmp_path):
    """Saves a model, and returns it and its folder."""

    def save(model_class=VisionTransformerForImageClassification, **settings):
        model = build(model_class, **settings)
        model.save_pretrained(tmp_path)
        return model, tmp_path

    return save


def assert_same_weights(before, after):
    """Asserts the same names and the same bits."""
    before, after = before.state_dict(), after.state_dict()
    assert list(before) == list(after)
    for name in before:
        assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("model_class", CLASSES)
@pytest.mark.parametrize("settings", PARTS, ids=str)
def test_save_and_load_to_the_bit(saved, images, log, model_class, settings):
    model, folder = saved(model_class, **settings)
    loaded, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert_same_weights(model, loaded)
    assert not any(info.values()), info
    assert not log.records
    assert not loaded.training
    for before, after in zip(model(images())[:1], loaded(images())[:1], strict=True):
        assert torch.equal(before, after)


def test_only_safetensors_are_written(saved):
    _, folder = saved()
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("model_class", CLASSES)
def test_sharded(build, tmp_path, model_class):
    model = build(model_class)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert_same_weights(model, model_class.from_pretrained(tmp_path))
    assert model_class.from_pretrained(tmp_path, image_size=64).config.grid == (8, 8)


@loaders
@positions
@pytest.mark.parametrize("size", [48, (24, 40), (16, 64)])
@torch.no_grad()
def test_another_image_size(saved, images, tmp_path_factory, log, loader, kind, size):
    model, folder = saved(position_embedding=kind)
    loaded = loader.from_pretrained(folder, image_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    grid = (height // 8, width // 8)
    assert loaded.config.grid == grid
    assert f"from the grid (4, 4) to {grid}" in log.text and kind in log.text
    assert "newly initialized" not in log.text and "MISSING" not in log.text
    pixels = images(height=height, width=width)
    expected = model(pixels).logits  # interpolated as it goes
    torch.testing.assert_close(loaded(pixels).logits, expected, atol=1e-6, rtol=0)
    again = tmp_path_factory.mktemp("again")
    loaded.save_pretrained(again)
    log.clear()
    reopened = loader.from_pretrained(again)
    assert reopened.config.grid == grid and not log.records
    assert_same_weights(loaded, reopened)


@loaders
def test_same_count_other_shape(saved, log, loader):
    _, folder = saved(image_size=112)
    loaded = loader.from_pretrained(folder, image_size=(56, 224))
    assert loaded.config.grid == (7, 28)
    assert "from the grid (14, 14) to (7, 28)" in log.text
    stored = load_file(folder / "model.safetensors")["vit.positions.0.table"]
    assert stored.shape == loaded.vit.positions[0].table.shape
    assert not torch.equal(stored, loaded.vit.positions[0].table)


@loaders
@torch.no_grad()
def test_another_patch_size(saved, images, log, loader):
    model, folder = saved()
    loaded = loader.from_pretrained(folder, patch_size=16, image_size=64)
    assert loaded.config.grid == (4, 4)
    assert "from (8, 8) to (16, 16)" in log.text and "grid" not in log.text
    upsized = torch.nn.functional.interpolate(images(), scale_factor=2, mode="nearest")
    assert loaded(upsized).logits.shape == model(images()).logits.shape
    smaller = loader.from_pretrained(folder, patch_size=(4, 8))
    assert smaller.config.grid == (8, 4) and smaller.config.image_hw == (32, 32)


@loaders
@pytest.mark.parametrize(
    "labels",
    [
        {"num_labels": 37},
        {"id2label": {0: "cat", 1: "dog", 2: "owl"}},
        {"num_labels": 3, "id2label": {"0": "cat", "1": "dog", "2": "owl"}},
    ],
    ids=str,
)
def test_other_labels_get_a_fresh_zero_head(saved, images, tmp_path_factory, log, loader, labels):
    model, folder = saved(classifier_bias_init=-10.0)
    loaded = loader.from_pretrained(folder, **labels)
    count = labels.get("num_labels") or len(labels["id2label"])
    assert loaded.config.num_labels == loaded.num_labels == count
    assert not loaded.classifier.weight.any()
    assert torch.equal(loaded.classifier.bias, torch.full((count,), -10.0))
    assert f"fresh zero head for {count} labels" in log.text
    assert "ignore_mismatched_sizes" not in log.text and "MISMATCH" not in log.text
    if "id2label" in labels:
        assert loaded.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
        assert loaded.config.label2id == {"cat": 0, "dog": 1, "owl": 2}
    assert_same_weights(model.vit, loaded.vit)
    again = tmp_path_factory.mktemp("again")
    loaded.save_pretrained(again)
    reopened = loader.from_pretrained(again)
    assert reopened(images()).logits.shape == (2, count)
    assert reopened.config.id2label == loaded.config.id2label


@loaders
def test_all_at_once(saved, images, loader):
    _, folder = saved()
    loaded = loader.from_pretrained(
        folder, image_size=(48, 32), patch_size=4, num_labels=5, hidden_dropout_prob=0.1
    )
    assert (loaded.config.grid, loaded.config.num_labels) == ((12, 8), 5)
    assert loaded.config.hidden_dropout_prob == 0.1 and loaded.vit.dropout.p == 0.1
    assert loaded(images(height=48, width=32)).logits.shape == (2, 5)


@loaders
def test_the_checkpoints_own_labels_keep_the_head(saved, log, loader):
    names = {0: "cat", 1: "dog", 2: "owl"}
    model, folder = saved(id2label=names, label2id={name: i for i, name in names.items()})
    for labels in ({"num_labels": 3}, {"id2label": names}, {"num_labels": 3, "id2label": names}):
        assert_same_weights(model, loader.from_pretrained(folder, **labels))
    assert not log.records
    other = loader.from_pretrained(folder, id2label={0: "oak", 1: "elm", 2: "ash"})
    assert not other.classifier.weight.any() and "rename" in log.text


@loaders
def test_names_for_a_head_without(saved, loader):
    model, folder = saved(num_labels=3)
    loaded = loader.from_pretrained(folder, id2label={0: "cat", 1: "dog", 2: "owl"})
    assert_same_weights(model, loaded)
    assert loaded.config.label2id == {"cat": 0, "dog": 1, "owl": 2}


@loaders
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, "num_labels=3 and an id2label of 2"),
        ({"num_labels": 3, "label2id": {"a": 0}}, "num_labels=3 and a label2id of 1"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"c": 0}}, "an id2label in which 0 is 'a'"),
        ({"id2label": {1: "a", 2: "b"}}, "the indices 1, 2, allowed: 0 ... 1"),
        ({"num_labels": -2}, "num_labels=-2, allowed: an int of 0 or more"),
    ],
    ids=str,
)
def test_labels_that_cannot_be(saved, loader, labels, words):
    _, folder = saved()
    with pytest.raises(ValueError, match=words):
        loader.from_pretrained(folder, **labels)


@loaders
@pytest.mark.parametrize("beside", [{}, {"num_labels": 3}, {"id2label": {0: "x", 1: "y", 2: "z"}}])
def test_label2id_through_every_class(saved, log, loader, beside):
    _, folder = saved()
    names = {"x": 0, "y": 1, "z": 2}
    loaded = loader.from_pretrained(folder, label2id=names, **beside)
    assert loaded.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert loaded.config.label2id == names and loaded.classifier.out_features == 3
    assert "fresh zero head for 3 labels" in log.text and "incompatible" not in log.text


def test_a_fresh_heads_bias_is_said(saved, log):
    _, folder = saved(classifier_bias_init=-10.0)
    VisionTransformerForImageClassification.from_pretrained(folder, num_labels=3)
    assert "with the bias classifier_bias_init=-10.0" in log.text


@pytest.mark.parametrize("kind", ["none", "sincos_2d"])
def test_no_table_is_not_said_to_be_resampled(build, log, kind):
    build(VisionTransformerModel, position_embedding=kind).set_image_size(24)
    assert "Resampled" not in log.text and "no position table" in log.text


@pytest.mark.parametrize("change", [{"image_size": 24}, {"num_labels": 3}], ids=str)
def test_offloaded_weights_that_would_change(saved, tmp_path, change):
    _, folder = saved()
    places = dict.fromkeys(["vit.embeddings", "vit.positions", "classifier"], "disk")
    places |= dict.fromkeys(["vit.layers", "vit.layernorm", "vit.pooler"], "cpu")
    with pytest.raises(ValueError, match="without device_map, save it, and load that"):
        VisionTransformerForImageClassification.from_pretrained(
            folder, device_map=places, offload_folder=tmp_path / "offloaded", **change
        )


def test_names_that_were_set_alone_survive(saved, tmp_path):
    model, _ = saved()
    model.config.id2label = {0: "cat", 1: "dog"}  # and label2id is that of other names
    model.save_pretrained(tmp_path / "named")
    loaded = VisionTransformerForImageClassification.from_pretrained(tmp_path / "named")
    assert_same_weights(model, loaded)
    assert loaded.config.label2id == {"cat": 0, "dog": 1}


def test_label2id_alone(saved):
    _, folder = saved()
    loaded = VisionTransformerForImageClassification.from_pretrained(
        folder, label2id={"cat": 0, "dog": 1, "owl": 2}
    )
    assert loaded.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert loaded.classifier.out_features == 3


def test_labels_that_contradict(saved):
    _, folder = saved()
    with pytest.raises(ValueError, match="num_labels=3 and an id2label of 2"):
        VisionTransformerForImageClassification.from_pretrained(
            folder, num_labels=3, id2label={0: "a", 1: "b"}
        )


@loaders
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"image_sise": 64}, "image_size"),
        ({"num_label": 3}, "num_labels"),
        ({"position_embeding": "none"}, "position_embedding"),
        ({"position_embedding": "learned2d"}, "learned_2d"),
        ({"patch_size": 64}, "no patch"),
        ({"class_token": False}, "pooling='cls'"),
    ],
    ids=str,
)
def test_misspelt_and_impossible(saved, loader, kwargs, message):
    _, folder = saved()
    with pytest.raises(ValueError, match=message):
        loader.from_pretrained(folder, **kwargs)


def test_another_models_checkpoint(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**sizes, intermediate_size=64, image_size=32, patch_size=8)
    ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model_type 'vit'.*load_checkpoint"):
        VisionTransformerForImageClassification.from_pretrained(tmp_path)


@loaders
def test_arguments_of_transformers(saved, loader, tmp_path):
    model, folder = saved()
    half = loader.from_pretrained(folder, dtype=torch.bfloat16, image_size=48, num_labels=3)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert loader.from_pretrained(folder, dtype="float16").dtype == torch.float16
    eager = loader.from_pretrained(folder, attn_implementation="eager", image_size=48)
    assert eager.config._attn_implementation == "eager"
    spread = loader.from_pretrained(folder, device_map="auto", image_size=48, num_labels=3)
    assert spread.config.grid == (6, 6) and spread.classifier.weight.device == spread.device
    other, info = loader.from_pretrained(folder, output_loading_info=True, num_labels=3)
    assert other.config.num_labels == 3 and not any(info.values())
    model.save_pretrained(tmp_path / "below" / "inner")
    inner = loader.from_pretrained(tmp_path / "below", subfolder="inner", image_size=48)
    assert inner.config.grid == (6, 6)
    assert loader.from_pretrained(
        folder, local_files_only=True, low_cpu_mem_usage=True, use_safetensors=True, token=None
    )


@loaders
def test_a_configuration_of_ones_own(saved, loader):
    _, folder = saved()
    config = VisionTransformerConfig.from_pretrained(folder, image_size=48, num_labels=3)
    loaded = loader.from_pretrained(folder, config=config)
    assert loaded.config.grid == (6, 6) and loaded.classifier.out_features == 3
    assert config.grid == (6, 6)
    with pytest.raises((RuntimeError, ValueError)):  # a width is nothing to resize
        loader.from_pretrained(folder, config=config, hidden_size=64)


def test_a_configuration_by_its_place(saved, tmp_path):
    _, folder = saved()
    VisionTransformerConfig.from_pretrained(folder, image_size=48).save_pretrained(tmp_path / "c")
    for place in (tmp_path / "c", str(tmp_path / "c")):
        loaded = VisionTransformerModel.from_pretrained(folder, config=place)
        assert loaded.config.grid == (6, 6)


def test_a_state_dict(build):
    model = build(VisionTransformerForImageClassification)
    loaded = VisionTransformerForImageClassification.from_pretrained(
        None, config=model.config, state_dict=model.state_dict()
    )
    assert_same_weights(model, loaded)


def test_a_fresh_head_is_zero_and_said_to_be(saved, images, log):
    _, folder = saved(VisionTransformerForMaskedPatchPrediction)
    model = VisionTransformerForImageClassification.from_pretrained(folder, num_labels=4)
    assert not model.classifier.weight.any() and not model.classifier.bias.any()
    log.clear()
    model(images())
    model(images())
    said = [record for record in log.records if "all zeros" in record.getMessage()]
    assert len(said) == 1
    log.clear()
    model.train()(images())
    model.reset_classifier(4)
    model.classifier.weight.data.fill_(0.1)
    model.eval()(images())
    assert "all zeros" not in log.text


@pytest.mark.parametrize("source", CLASSES)
@pytest.mark.parametrize("target", CLASSES)
def test_one_class_opens_another(saved, source, target):
    model, folder = saved(source)
    loaded, info = target.from_pretrained(folder, output_loading_info=True)
    assert not info["mismatched_keys"] and not info["error_msgs"]
    assert all("layers" not in name and "positions" not in name for name in info["missing_keys"])
    for name, value in model.base_model.state_dict().items():
        if name in loaded.base_model.state_dict():
            assert torch.equal(value, loaded.base_model.state_dict()[name])
    only = {
        VisionTransformerModel: set(),
        VisionTransformerForImageClassification: {"classifier.weight", "classifier.bias"},
        VisionTransformerForMaskedPatchPrediction: {
            "prediction_head.weight",
            "prediction_head.bias",
            "vit.embeddings.mask_token",
        },
    }
    assert set(info["missing_keys"]) == (only[target] if target is not source else set())


def test_auto_classes_open_each_class(saved):
    _, folder = saved(VisionTransformerForMaskedPatchPrediction)
    assert type(AutoModel.from_pretrained(folder, image_size=64)) is VisionTransformerModel
    opened = AutoModelForMaskedImageModeling.from_pretrained(folder, image_size=(16, 32))
    assert type(opened) is VisionTransformerForMaskedPatchPrediction
    assert opened.config.grid == (2, 4)


def test_reset_classifier(build, images, tmp_path):
    model = build(VisionTransformerForImageClassification, representation_size=16)
    model.reset_classifier(num_labels=7)
    assert model(images()).logits.shape == (2, 7) and not model(images()).logits.any()
    model.reset_classifier(id2label={0: "a", 1: "b", 2: "c"})
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}
    model.reset_classifier(num_labels=0)
    assert torch.equal(model(images()).logits, model.vit(images(), pooled_only=True).pooler_output)
    model.save_pretrained(tmp_path)
    reopened = VisionTransformerForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(reopened(images()).logits, model(images()).logits)
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {}
    with pytest.raises(ValueError, match="num_labels=-1"):
        model.reset_classifier(-1)
    for wrong in ({}, {"num_labels": 2, "id2label": {0: "a", 1: "b"}}):
        with pytest.raises(ValueError, match="give one of them"):
            model.reset_classifier(**wrong)


def test_initialisation_is_that_of_the_authors(tiny_config):
    torch.manual_seed(0)
    model = VisionTransformerForImageClassification(tiny_config(hidden_size=192, pooling="map"))
    vit, layer = model.vit, model.vit.layers[0]
    assert not model.classifier.weight.any() and not model.classifier.bias.any()
    projection = vit.embeddings.patch_embeddings.projection
    assert projection.weight.std().item() == pytest.approx((1 / 192) ** 0.5, rel=0.02)
    assert not projection.bias.any() and vit.embeddings.cls_token is None
    assert vit.positions[0].table.std().item() == pytest.approx(0.02, rel=0.05)
    bound = (6 / (192 + 192)) ** 0.5
    for dense in (layer.attention.q_proj, layer.attention.o_proj):
        assert dense.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert dense.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
        assert not dense.bias.any()
    for dense in (layer.mlp.fc1, layer.mlp.fc2, vit.pooler.pooling.mlp.fc1):
        assert 0 < dense.bias.abs().max() < 1e-5
    classifier = VisionTransformerForImageClassification(tiny_config(num_register_tokens=2))
    assert not classifier.vit.embeddings.cls_token.any()
