# SPDX-License-Identifier: Apache-2.0
"""What is asked for at load: sizes, labels, tasks, settings; what is kept; the image processor that
belongs to it.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessorPil

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)
from vit_hf.converters import load_checkpoint, load_image_processor, save_checkpoint
from vit_hf.converters.loading import TASKS, load

FIXTURES = Path(__file__).parents[1] / "fixtures"
JAX = FIXTURES / "vit_jax" / "tok_smallscale.npz"
HYBRID = FIXTURES / "vit_jax" / "hybrid_rti.npz"
SIGLIP = FIXTURES / "big_vision" / "siglip_img_map.npz"
TIMM = FIXTURES / "timm" / "reg4.safetensors"
MIM = FIXTURES / "transformers_vit" / "mim" / "v4"
TRANSFORMERS = FIXTURES / "transformers_vit" / "cls_smallscale" / "v4"


def test_the_settings_are_those_of_the_source_format():
    for source, act, eps, interpolation, settings in (
        (JAX, "gelu_pytorch_tanh", 1e-6, "bilinear_corners", {}),
        (TIMM, "gelu", 1e-6, "bicubic_antialias", {"num_attention_heads": 4}),
        (TRANSFORMERS, "gelu", 1e-12, "bicubic", {}),
    ):
        config = load_checkpoint(source, **settings).config
        assert (config.hidden_act, config.layer_norm_eps, config.interpolation) == (
            act,
            eps,
            interpolation,
        )


def test_the_default_task_is_the_checkpoints():
    assert type(load_checkpoint(JAX)) is VisionTransformerForImageClassification
    assert type(load_checkpoint(SIGLIP)) is VisionTransformerModel
    assert type(load_checkpoint(MIM)) is VisionTransformerForMaskedPatchPrediction


@pytest.mark.parametrize(
    "source", [JAX, SIGLIP, TIMM, MIM, TRANSFORMERS, HYBRID], ids=lambda path: path.stem
)
def test_every_checkpoint_serves_every_task(source):
    settings = {"num_attention_heads": 4} if source == TIMM else {}
    features = load_checkpoint(source, task="features", **settings)
    masked = load_checkpoint(source, task="masked-patch-prediction", **settings)
    classifier = load_checkpoint(source, task="image-classification", num_labels=3, **settings)
    expected = dict(features.named_parameters())
    for model in (masked.vit, classifier.vit):
        for name, parameter in model.named_parameters():
            assert not parameter.is_meta and parameter.requires_grad
            if name != "embeddings.mask_token":
                assert torch.equal(parameter, expected[name]), name
    assert classifier.classifier.out_features == 3 and not classifier.classifier.weight.any()
    assert masked.vit.embeddings.mask_token.std() > 0
    assert not any(model.training for model in (features, masked, classifier))


def test_no_two_parameters_share_memory():
    for source, settings in ((TIMM, {"num_attention_heads": 4}), (JAX, {}), (SIGLIP, {})):
        parameters = list(load_checkpoint(source, **settings).parameters())
        assert len({parameter.untyped_storage().data_ptr() for parameter in parameters}) == len(
            parameters
        )


def test_a_fresh_head_needs_a_number_of_labels():
    with pytest.raises(
        ValueError, match=r"siglip_img_map\.npz: has no classification head: pass num_labels"
    ):
        load_checkpoint(SIGLIP, task="image-classification")
    assert load_checkpoint(SIGLIP, num_labels=4).config.num_labels == 4


def test_no_labels_take_the_head_away():
    model = load_checkpoint(JAX, num_labels=0)
    assert model.config.num_labels == 0
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 48)


def test_the_head_is_kept_where_the_labels_are_its_own(tmp_path):
    kept = load_checkpoint(JAX, num_labels=21)
    assert kept.classifier.weight.any()
    named = load_checkpoint(JAX, id2label={index: f"class {index}" for index in range(21)})
    assert torch.equal(named.classifier.weight, kept.classifier.weight)
    assert named.config.id2label[3] == "class 3" and named.config.label2id["class 3"] == 3
    renamed = load_checkpoint(JAX, id2label={0: "cat", 1: "dog"})
    assert not renamed.classifier.weight.any() and renamed.config.id2label == {0: "cat", 1: "dog"}


def test_no_class_names_are_made_up_and_those_there_are_kept(tmp_path):
    assert load_checkpoint(JAX).config.id2label[0] == "LABEL_0"
    folder = tmp_path / "timm"
    folder.mkdir()
    shutil.copy(TIMM, folder / "model.safetensors")
    names = [f"n{index:08d}" for index in range(9)]
    config = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"num_heads": 4},
        "label_names": names,
    }
    (folder / "config.json").write_text(json.dumps(config))
    assert list(load_checkpoint(folder).config.id2label.values()) == names


def test_a_head_does_not_outlive_the_layer_it_was_trained_on(tmp_path):
    with np.load(JAX) as stored:
        arrays = {key: stored[key] for key in stored.files}
    generator = np.random.default_rng(0)
    arrays["pre_logits/kernel"] = generator.normal(size=(48, 48)).astype(np.float32)
    arrays["pre_logits/bias"] = generator.normal(size=48).astype(np.float32)
    np.savez(tmp_path / "in.npz", **arrays)
    kept = load_checkpoint(tmp_path / "in.npz")
    assert kept.config.representation_size == 48 and kept.classifier.weight.any()
    dropped = load(tmp_path / "in.npz", config_overrides={"representation_size": None})
    assert not dropped.model.classifier.weight.any() and dropped.model.config.num_labels == 21
    assert any("pre_logits/kernel" in change for change in dropped.changes)


def test_a_head_of_zeros_is_said(tmp_path):
    with np.load(JAX) as stored:
        arrays = {key: stored[key] for key in stored.files}
    arrays["head/kernel"], arrays["head/bias"] = arrays["head/kernel"] * 0, arrays["head/bias"] * 0
    np.savez(tmp_path / "in21k.npz", **arrays)
    assert any("all zeros" in change for change in load(tmp_path / "in21k.npz").changes)
    assert not any("all zeros" in change for change in load(JAX).changes)


def test_another_size_and_patch():
    model = load_checkpoint(JAX, image_size=(40, 64), patch_size=16)
    assert model.config.image_size == (40, 64) and model.config.grid == (2, 4)
    assert model(torch.zeros(1, 3, 40, 64)).logits.shape == (1, 21)
    changes = load(JAX, image_size=48).changes
    assert any("(4, 4) to (6, 6)" in change and "bilinear_corners" in change for change in changes)
    assert load(JAX, image_size=32).changes == []


def test_what_is_left_out_is_said():
    changes = load(SIGLIP).changes
    assert any("Left out 6 arrays (params/b, params/t" in change for change in changes)
    changes = load(MIM, task="features").changes
    assert any("decoder.0" in change for change in changes)


def test_pooling_that_the_arrays_do_not_tell_is_taken_and_said():
    gap = FIXTURES / "big_vision" / "gap_bf16.npz"
    assert load_checkpoint(gap).config.pooling == "gap"
    assert load_checkpoint(JAX, pooling="none")(torch.zeros(1, 3, 32, 32)).logits.shape == (
        1,
        17,
        21,
    )


def test_the_research_codebase_opens_the_authors_files():
    assert load(JAX, format="big_vision").format == "jax"


def test_pytorch_files_of_both_kinds(tmp_path):
    from safetensors.torch import load_file

    expected = load_checkpoint(TRANSFORMERS)
    state = load_file(TRANSFORMERS / "model.safetensors")
    for zipped in (True, False):
        folder = tmp_path / f"{zipped}"
        folder.mkdir()
        shutil.copy(TRANSFORMERS / "config.json", folder)
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        model = load_checkpoint(folder)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, expected.get_parameter(name))


def test_weights_in_shards(tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(TRANSFORMERS / "model.safetensors")
    halves = list(state)[::2], list(state)[1::2]
    weight_map = {}
    for number, keys in enumerate(halves):
        name = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({key: state[key] for key in keys}, tmp_path / name)
        weight_map |= dict.fromkeys(keys, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    shutil.copy(TRANSFORMERS / "config.json", tmp_path)
    assert torch.equal(
        load_checkpoint(tmp_path).classifier.weight, load_checkpoint(TRANSFORMERS).classifier.weight
    )


def test_half_precision_stays_what_it_is(tmp_path):
    model = load_checkpoint(TRANSFORMERS).to(torch.bfloat16)
    save_checkpoint(model, tmp_path / "out", format="transformers")
    assert {parameter.dtype for parameter in load_checkpoint(tmp_path / "out").parameters()} == {
        torch.bfloat16
    }


def test_the_authors_image_processor():
    processor = load_image_processor(JAX)
    assert dict(processor.size) == {"height": 32, "width": 32}
    assert list(processor.image_mean) == list(processor.image_std) == [0.5] * 3
    assert int(processor.resample) == 2 and processor.do_convert_rgb
    assert dict(load_image_processor(JAX, image_size=(48, 64)).size) == {"height": 48, "width": 64}
    gray = Image.new("L", (50, 70), 255)
    pixels = processor(gray, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32) and pixels.min() == pixels.max() == 1


def test_timms_image_processor(tmp_path):
    shutil.copy(TIMM, tmp_path / "model.safetensors")
    pretrained = {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "input_size": [3, 32, 32],
    }
    config = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"num_heads": 4},
        "pretrained_cfg": pretrained,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = load_image_processor(tmp_path)
    assert int(processor.resample) == 3 and list(processor.image_mean) == pretrained["mean"]
    assert dict(processor.size) == {"shortest_edge": 35} and dict(processor.crop_size) == {
        "height": 32,
        "width": 32,
    }
    image = Image.new("RGB", (90, 60))
    assert processor(image, return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)
    save_checkpoint(
        load_checkpoint(tmp_path), tmp_path / "out", format="timm", image_processor=processor
    )
    written = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert written["mean"] == pretrained["mean"] and written["interpolation"] == "bicubic"
    assert (
        written["crop_pct"] == pytest.approx(32 / 35, abs=1e-4) and written["crop_mode"] == "center"
    )
    again = load_image_processor(tmp_path / "out")
    assert dict(again.size) == {"shortest_edge": 35}


def test_transformers_image_processor(tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TRANSFORMERS / name, tmp_path)
    settings = {
        "image_mean": [0.4] * 3,
        "resample": 3,
        "size": 36,
        "feature_extractor_type": "ViTFeatureExtractor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = load_image_processor(tmp_path)
    assert dict(processor.size) == {"height": 36, "width": 36}
    assert (
        list(processor.image_mean) == [0.4] * 3
        and int(processor.resample) == 3
        and processor.do_convert_rgb
    )
    save_checkpoint(
        load_checkpoint(JAX), tmp_path / "ours", format="vit_hf", image_processor=processor
    )
    assert list(load_image_processor(tmp_path / "ours").image_mean) == [0.4] * 3


CROP = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
EDGE = CROP | {"size": {"shortest_edge": 36}}
SQUASH = CROP | {"size": {"height": 40, "width": 36}}


@pytest.mark.parametrize(
    "settings, wanted, size",
    [
        (EDGE, 32, {"shortest_edge": 36}),
        (EDGE, 64, {"shortest_edge": 72}),
        (EDGE, (24, 48), {"shortest_edge": 54}),
        (SQUASH, 32, {"height": 40, "width": 36}),
        (SQUASH, 48, {"height": 60, "width": 54}),
        ({"size": 36}, 32, {"height": 36, "width": 36}),
        ({"size": 36}, 64, {"height": 64, "width": 64}),
        ({"size": {"shortest_edge": 36}}, 32, {"height": 32, "width": 32}),
        ({"do_resize": False}, 32, {"height": 32, "width": 32}),
    ],
)
@pytest.mark.parametrize("source", [TRANSFORMERS, JAX], ids=["transformers", "vit_hf"])
def test_the_image_processor_at_a_size(source, settings, wanted, size, tmp_path):
    """The checkpoint's own at its native size; at another the crop keeps its share."""
    format = "transformers" if source == TRANSFORMERS else "vit_hf"
    save_checkpoint(load_checkpoint(source), tmp_path, format=format)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = load_image_processor(tmp_path, image_size=wanted)
    assert dict(processor.size) == size and processor.do_resize
    if "crop_size" in settings:
        height, width = (wanted, wanted) if isinstance(wanted, int) else wanted
        assert dict(processor.crop_size) == {"height": height, "width": width}


@pytest.mark.parametrize(
    "mode, image_size, size",
    [
        (None, 32, {"shortest_edge": 35}),
        ("squash", 32, {"height": 35, "width": 35}),
        ("border", 32, None),
        ("center", (16, 64), None),
    ],
)
def test_what_of_timms_crop_can_be_said(mode, image_size, size, tmp_path, caplog):
    """Border, and centre at a size that is not square, are told not to be timm's."""
    model = load_checkpoint(TIMM, num_attention_heads=4, image_size=image_size)
    save_checkpoint(model, tmp_path, format="timm")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"] |= {"crop_mode": mode, "crop_pct": 0.9}
    path.write_text(json.dumps(config))
    processor = load_image_processor(tmp_path)
    height, width = model.config.image_hw
    squashed = {"height": int(height / 0.9), "width": int(width / 0.9)}
    assert dict(processor.size) == (size or squashed)
    assert ("an image's aspect in a way that" in caplog.text) == (size is None)


def test_an_image_processor_that_does_not_normalise_in_timm(tmp_path):
    model = load_checkpoint(TIMM, num_attention_heads=4)
    for rescale, settings, mean, deviation in (
        (1 / 255, {"do_normalize": False}, 0.0, 1.0),
        (1 / 127.5, {"image_mean": [1.0] * 3, "image_std": [1.0] * 3}, 0.5, 0.5),
    ):
        processor = ViTImageProcessorPil(
            size={"height": 32, "width": 32}, rescale_factor=rescale, **settings
        )
        save_checkpoint(model, tmp_path, format="timm", image_processor=processor)
        again = load_image_processor(tmp_path)
        assert list(again.image_mean) == [mean] * 3 and list(again.image_std) == [deviation] * 3
        image = Image.effect_noise((40, 50), 90).convert("RGB")
        pixels = [each(image, return_tensors="pt").pixel_values for each in (processor, again)]
        assert torch.allclose(*pixels, atol=1e-5)
    with pytest.raises(ValueError, match="cannot hold an image processor with do_resize=False"):
        save_checkpoint(
            model, tmp_path, format="timm", image_processor=ViTImageProcessorPil(do_resize=False)
        )


@pytest.mark.parametrize("format", ["vit_hf", "transformers"])
def test_a_saved_image_processor_converts_to_rgb(format, tmp_path):
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    save_checkpoint(load_checkpoint(JAX), tmp_path, format=format, image_processor=processor)
    saved = AutoImageProcessor.from_pretrained(tmp_path)
    pixels = saved(Image.new("L", (50, 70), 255), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 32, 32) and pixels.min() == 1
    assert not processor.do_convert_rgb


def own_folder(folder, task: str, **settings):
    """A small checkpoint of our own with no head but a masked patch predictor's."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 48, "image_size": 32, "patch_size": 8}
    TASKS[task](VisionTransformerConfig(**sizes, **settings)).save_pretrained(folder)
    return folder


def test_our_own_checkpoints_are_asked_the_same(tmp_path):
    features = own_folder(tmp_path / "features", "features", representation_size=32)
    masked = own_folder(tmp_path / "masked", "masked-patch-prediction")
    for folder in (features, masked):
        with pytest.raises(ValueError, match="has no classification head: pass num_labels"):
            load_checkpoint(folder, task="image-classification")
        with pytest.raises(ValueError, match="num_labels=3 with task='features', which has no"):
            load_checkpoint(folder, task="features", num_labels=3)
    with pytest.raises(ValueError, match="num_labels=3 with task='masked-patch-prediction'"):
        load_checkpoint(masked, num_labels=3)
    for source, task in ((features, None), (masked, "image-classification")):
        for labels in ({"num_labels": 2}, {"num_labels": 7}, {"id2label": {0: "cat", 1: "dog"}}):
            loaded = load(source, task=task, **labels)
            assert loaded.model.classifier.out_features in (2, 7)
            assert not loaded.model.classifier.weight.any()
            assert any("fresh zero head" in change for change in loaded.changes)
    predictor = load_checkpoint(features, task="masked-patch-prediction")
    assert predictor.vit.embeddings.mask_token.std() > 0


@pytest.mark.parametrize(
    "settings", [{"num_hidden_layers": 1}, {"pooling": "map"}, {"qkv_bias": False}]
)
@pytest.mark.parametrize("task", ["image-classification", "features"])
def test_no_trained_weight_of_our_own_is_dropped_and_none_is_random(task, settings, tmp_path):
    folder = own_folder(tmp_path / "own", task)
    (name,) = settings
    with pytest.raises(ValueError, match=rf"got {name}=.*, which the weights of .*own do not fit"):
        load_checkpoint(folder, **settings)


def test_our_own_head_does_not_outlive_the_layer_it_was_trained_on(tmp_path):
    folder = own_folder(tmp_path / "own", "image-classification", representation_size=32)
    model = load_checkpoint(folder)
    torch.nn.init.ones_(model.classifier.weight)
    model.save_pretrained(folder)
    assert load_checkpoint(folder).classifier.weight.all()
    assert not load_checkpoint(folder, representation_size=None).classifier.weight.any()
    assert load_checkpoint(folder, representation_size=None, num_labels=0).config.num_labels == 0


@pytest.mark.parametrize("representation_size", [None, 32])
def test_a_pooler_of_transformers_own_is_said(representation_size, tmp_path, caplog):
    own = own_folder(tmp_path / "own", "features", representation_size=representation_size)
    save_checkpoint(load_checkpoint(own), tmp_path / "theirs", format="transformers")
    said = "add_pooling_layer=False" in caplog.text
    assert said == (representation_size is None)
