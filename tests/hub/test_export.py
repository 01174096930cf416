# SPDX-License-Identifier: Apache-2.0
"""The suitcase: an exported folder opens where this package is not, equal to the bit."""

import json
import os
import subprocess
import sys
import sysconfig

import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)
from vit_hf.hub import export_checkpoint, render_card

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": (24, 40),
    "patch_size": 8,
    "num_labels": 5,
}
STEM = {"stem_blocks": [1, 1], "stem_width": 32, "patch_size": 1, "image_size": 32}
VARIANTS = {
    "learned_1d": {},
    "learned_2d": {"position_embedding": "learned_2d"},
    "relative": {"position_embedding": "relative"},
    "sincos_2d": {"position_embedding": "sincos_2d"},
    "none": {"position_embedding": "none"},
    "every_layer": {"position_embedding_placement": "every_layer"},
    "every_layer_shared": {"position_embedding_placement": "every_layer_shared"},
    "gap": {"pooling": "gap", "class_token": True, "final_norm": "pooled"},
    "map": {"pooling": "map", "representation_size": 16},
    "unpooled": {"pooling": "none"},
    "root_stem": {**STEM, "stem_blocks": []},
    "stages_stem": STEM,
    "extras": {
        "num_register_tokens": 2,
        "qk_norm": True,
        "layer_scale_init_value": 0.1,
        "pre_encoder_norm": True,
        "patch_bias": False,
        "classification_loss": "sigmoid",
    },
}
CLASSES = {
    "AutoModelForImageClassification": VisionTransformerForImageClassification,
    "AutoModel": VisionTransformerModel,
    "AutoModelForMaskedImageModeling": VisionTransformerForMaskedPatchPrediction,
}
CASES = [("AutoModelForImageClassification", variant) for variant in VARIANTS]
CASES += [
    (auto_class, "learned_1d")
    for auto_class in CLASSES
    if auto_class != "AutoModelForImageClassification"
]

OPEN = """
import importlib.util, json, sys, torch, transformers
from PIL import Image
assert importlib.util.find_spec("vit_hf") is None, "this interpreter sees the package"
torch.set_num_threads(int(sys.argv[2]))  # sums depend on how they are shared out
for auto_class, folder in json.loads(sys.argv[1]):
    expected = torch.load(folder + "/expected.pt", weights_only=True)
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        got = model(expected["pixel_values"])[0]
    assert torch.equal(got, expected["outputs"]), folder
    if auto_class == "AutoModelForImageClassification":  # as another class and in pipelines too
        features = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        with torch.no_grad():
            assert torch.equal(features(expected["pixel_values"])[0], expected["tokens"]), folder
        if got.dim() == 2:
            picture = Image.new("RGB", (50, 30), "teal")
            processor = transformers.AutoImageProcessor.from_pretrained(folder)
            pixels = processor(picture, return_tensors="pt").pixel_values
            with torch.no_grad():
                best = model.config.id2label[model(pixels).logits.argmax().item()]
            remote = {"model": folder, "trust_remote_code": True}
            classify = transformers.pipeline("image-classification", **remote)
            assert classify(picture)[0]["label"] == best, folder
            extract = transformers.pipeline("image-feature-extraction", **remote)
            assert len(extract(picture)[0][0]) == model.config.hidden_size
print("opened", len(json.loads(sys.argv[1])))
"""


def random_model(auto_class: str, settings: dict):
    """Returns a model with no weight left at its initial value."""
    torch.manual_seed(0)
    model = CLASSES[auto_class](VisionTransformerConfig(**{**SMALL, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.slow
@torch.no_grad()
def test_exported_folders_open_without_the_package(tmp_path):
    folders = []
    for auto_class, variant in CASES:
        model = random_model(auto_class, VARIANTS[variant])
        folder = export_checkpoint(model, tmp_path / f"{auto_class}-{variant}")
        pixel_values = torch.rand(2, 3, *model.config.image_hw) * 2 - 1
        expected = {"pixel_values": pixel_values, "outputs": model(pixel_values)[0]}
        expected["tokens"] = model.base_model(pixel_values).last_hidden_state
        torch.save(expected, folder / "expected.pt")
        folders.append((auto_class, str(folder)))
    site_packages = sysconfig.get_paths()["purelib"]  # on the path, but its .pth files are not read
    environment = {
        **os.environ,
        "PYTHONPATH": site_packages,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-S", "-c", OPEN, json.dumps(folders), threads]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"opened {len(CASES)}")


def test_the_whole_auto_map_and_safetensors_only_are_written(tmp_path):
    folder = export_checkpoint(random_model("AutoModel", {}), tmp_path / "checkpoint")
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", *CLASSES}
    assert not [file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth")]
    assert (folder / "model.safetensors").is_file()


def test_with_the_package_no_trust_is_needed(tmp_path):
    model = random_model("AutoModelForImageClassification", {})
    folder = export_checkpoint(model, tmp_path / "checkpoint")
    opened = AutoModelForImageClassification.from_pretrained(folder)
    assert type(opened) is VisionTransformerForImageClassification
    processor = AutoImageProcessor.from_pretrained(folder)
    assert (processor.size["height"], processor.size["width"]) == model.config.image_hw
    assert processor.do_convert_rgb


def test_any_image_goes_through_a_pipeline_whatever_processor_was_given(tmp_path):
    model = random_model("AutoModelForImageClassification", {"image_size": 32})
    processor = ViTImageProcessorPil(size={"height": 16, "width": 48})  # without do_convert_rgb
    folder = export_checkpoint(model, tmp_path / "checkpoint", image_processor=processor)
    classify = pipeline("image-classification", model=str(folder))
    for mode in ("RGB", "L", "LA", "P", "RGBA", "CMYK", "1"):
        assert len(classify(Image.new(mode, (20, 30)))) == 5
        pixels = AutoImageProcessor.from_pretrained(folder)(Image.new(mode, (20, 30)))
        assert pixels["pixel_values"][0].shape == (3, 16, 48)


def test_a_card_tells_where_the_weights_come_from_and_what_was_measured(tmp_path):
    model = random_model("AutoModelForImageClassification", {})
    comparison = {"between": "source and result", "largest_difference": {"logits": 2.5e-6}}
    parity = {"source": "ViT-B_16.npz", "recognised": "JAX", "changes": ["Resampled."]}
    parity |= {"images": {"num_images": 4, "sha256": "abc"}, "comparisons": [comparison]}
    (tmp_path / "parity.json").write_text(json.dumps(parity))
    folder = export_checkpoint(model, tmp_path / "model", parity=tmp_path / "parity.json")
    card = render_card(folder, config=model.config, name="a model").read_text()
    assert "`ViT-B_16.npz`" in card and "logits 2.5e-06" in card and "- Resampled." in card
    assert "license:" not in card and "## Results" not in card  # none is known


def test_exporting_what_was_exported_and_onto_an_old_export(tmp_path):
    folder = export_checkpoint(
        random_model("AutoModelForImageClassification", {}), tmp_path / "first"
    )
    opened = AutoModelForImageClassification.from_pretrained(folder)
    again = export_checkpoint(opened, folder)
    assert sorted(file.name for file in again.iterdir()) == sorted(
        file.name for file in folder.iterdir()
    )
    assert not [
        path.name for path in tmp_path.iterdir() if path.name.startswith(".")
    ]  # nothing staged is left


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        export_checkpoint(random_model("AutoModel", {}), tmp_path / "file")
