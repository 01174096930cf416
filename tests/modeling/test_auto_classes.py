# SPDX-License-Identifier: Apache-2.0
"""Auto classes and pipelines open our folders, at any size, with and without torchvision."""

import builtins
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    ViTImageProcessorPil,
    pipeline,
)
from transformers.utils import is_torchvision_available

import vit_hf

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(build, tmp_path):
    """A saved classifier of three labels, with the settings of its image processor."""
    names = {0: "cat", 1: "dog", 2: "owl"}
    model = build(
        vit_hf.VisionTransformerForImageClassification,
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    model.save_pretrained(tmp_path)
    save_processor(tmp_path, height=32, width=32)
    return tmp_path


def save_processor(folder: Path, *, height: int, width: int):
    """Saves the settings that give images in [-1, 1] of this size."""
    ViTImageProcessorPil(
        size={"height": height, "width": width},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_convert_rgb=True,
    ).save_pretrained(folder)


def picture(mode: str = "RGB") -> Image.Image:
    """Returns a picture that is not square."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_auto_classes(folder):
    assert type(AutoConfig.from_pretrained(folder)) is vit_hf.VisionTransformerConfig
    for auto, model_class in (
        (AutoModel, vit_hf.VisionTransformerModel),
        (AutoModelForImageClassification, vit_hf.VisionTransformerForImageClassification),
        (AutoModelForMaskedImageModeling, vit_hf.VisionTransformerForMaskedPatchPrediction),
    ):
        assert type(auto.from_pretrained(folder)) is model_class
        config = AutoConfig.from_pretrained(folder)
        assert type(auto.from_config(config)) is model_class


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (24, 40)])
def test_pipelines_at_any_size(folder, size):
    save_processor(folder, height=size[0], width=size[1])
    processor = ViTImageProcessorPil.from_pretrained(folder)
    pixels = processor(picture(), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, *size) and -1 <= pixels.min() < pixels.max() <= 1
    model = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        shares = model(pixels).logits.softmax(-1)[0]
        tokens = model.vit(pixels).last_hidden_state
    found = pipeline("image-classification", model=str(folder))(picture())
    assert {row["label"] for row in found} == {"cat", "dog", "owl"}
    for row in found:
        expected = shares[model.config.label2id[row["label"]]].item()
        assert row["score"] == pytest.approx(expected, abs=1e-5)
    features = pipeline("image-feature-extraction", model=str(folder))(picture())
    torch.testing.assert_close(torch.tensor(features), tokens, atol=1e-5, rtol=0)
    features = pipeline("image-feature-extraction", model=str(folder), pool=True)(picture())
    torch.testing.assert_close(torch.tensor(features), tokens[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_other_modes(folder, mode):
    assert len(pipeline("image-classification", model=str(folder))(picture(mode))) == 3


def test_a_fresh_process_needs_nothing_but_the_import(folder):
    code = (
        "import vit_hf, sys\n"
        "from transformers import pipeline, AutoImageProcessor\n"
        "from PIL import Image\n"
        "found = pipeline('image-classification', model=sys.argv[1])(Image.new('RGB', (40, 30)))\n"
        "print(sorted(row['label'] for row in found))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("['cat', 'dog', 'owl']")


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.17") and not is_torchvision_available(),
    reason="AutoImageProcessor of transformers 5.16 wants torchvision",
)
def test_the_image_processor_without_torchvision(folder, monkeypatch):
    import_module = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "torchvision":
            raise ImportError(name)
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    assert type(processor) is ViTImageProcessorPil and processor.size["height"] == 32
