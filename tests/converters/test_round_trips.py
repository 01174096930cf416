# SPDX-License-Identifier: Apache-2.0
"""What was read is written back: the same arrays under the same names, or the same numbers from
another project.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForMaskedImageModeling

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.converters import load_checkpoint, save_checkpoint

REPOSITORY = Path(__file__).parents[2]
MORE = Path(os.environ.get("VIT_HF_FIXTURES", REPOSITORY.parent / "shared" / "fixtures"))
FIXTURES = MORE if MORE.is_dir() else REPOSITORY / "tests" / "fixtures"


def find_npz() -> list:
    files = [
        path
        for family in ("vit_jax", "big_vision")
        for path in sorted((FIXTURES / family).glob("*.npz"))
    ]
    files = [
        path
        for path in files
        if not path.name.endswith(".io.npz") and path.stem != "interpolate_posembed"
    ]
    return [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in files]


def load_npz(path: Path, **settings):
    meta = json.loads(path.with_suffix(".json").read_text())
    height, width = meta["image_size"]
    if height != width or "sincos" in path.stem:
        settings["native_image_size"] = (height, width)
    return load_checkpoint(path, **settings)


def same_file(got: Path, expected: Path):
    with np.load(got) as ours, np.load(expected) as theirs:
        towers = [
            key for key in theirs.files if "params/img/cls" in theirs or key.startswith("params/")
        ]
        has_towers = any(key.startswith("params/img/") for key in theirs.files)
        names = {
            key for key in theirs.files if not (has_towers and not key.startswith("params/img/"))
        }
        assert set(ours.files) == names, towers
        for key in names:
            assert ours[key].dtype == theirs[key].dtype, key
            assert ours[key].shape == theirs[key].shape, key
            assert ours[key].tobytes() == theirs[key].tobytes(), key


@pytest.mark.parametrize("path", find_npz())
def test_npz_to_ours_to_npz_is_bit_equal(path, tmp_path):
    model = load_npz(path)
    format = "jax" if path.parent.name == "vit_jax" else "big_vision"
    # The memory of the names survives our own folder.
    model.save_pretrained(tmp_path / "ours")
    model = load_checkpoint(tmp_path / "ours")
    save_checkpoint(model, tmp_path / "out.npz", format=format)
    same_file(tmp_path / "out.npz", path)


def test_a_layout_is_written_as_asked(tmp_path):
    path = FIXTURES / "vit_jax" / "tok_nonsquare.npz"
    model = load_npz(path)
    layout = {"prefix": "opt/target/", "names": "linen"}
    save_checkpoint(model, tmp_path / "out.npz", format="jax", layout=layout)
    with np.load(tmp_path / "out.npz") as arrays:
        assert (
            "opt/target/Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"
            in arrays
        )
    save_checkpoint(
        load_npz_again(tmp_path / "out.npz"),
        tmp_path / "back.npz",
        format="jax",
        layout={"prefix": "", "names": "released"},
    )
    same_file(tmp_path / "back.npz", path)


def load_npz_again(path: Path):
    return load_checkpoint(path, native_image_size=(24, 40))


def test_layers_are_scanned_on_request(tmp_path):
    model = tiny(pooling="gap", hidden_act="gelu_pytorch_tanh")
    save_checkpoint(model, tmp_path / "scan.npz", format="big_vision", layout={"scan": True})
    with np.load(tmp_path / "scan.npz") as arrays:
        assert arrays["Transformer/encoderblock/LayerNorm_0/scale"].shape == (2, 32)
    same_logits(model, load_checkpoint(tmp_path / "scan.npz"))


def test_bfloat16_is_not_written_over_numbers_that_need_more(tmp_path):
    model = load_npz(FIXTURES / "big_vision" / "gap_bf16.npz")
    with torch.no_grad():
        model.classifier.weight += 1e-4
    save_checkpoint(model, tmp_path / "out.npz", format="big_vision")
    with np.load(tmp_path / "out.npz") as arrays:
        assert {arrays[key].dtype for key in arrays.files} == {np.dtype("float32")}
    same_logits(model, load_checkpoint(tmp_path / "out.npz"))


def tiny(**settings):
    """A classifier with nothing left at its initial value."""
    defaults = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": 32,
        "patch_size": 8,
        "num_labels": 5,
    }
    model = VisionTransformerForImageClassification(
        VisionTransformerConfig(**{**defaults, **settings})
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def picture(config, *, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, config.num_channels, *config.image_hw, generator=generator) * 2 - 1


@torch.no_grad()
def same_logits(model, other, *, tolerance: float = 0.0):
    images = picture(model.config)
    expected, got = model(images).logits, other(images).logits
    assert got.shape == expected.shape
    assert (got - expected).abs().max().item() <= tolerance


def test_ours_to_transformers_opens_with_stock_transformers(tmp_path):
    model = tiny(
        id2label={0: "cat", 1: "dog"}, num_labels=2, layer_norm_eps=1e-12, image_size=(32, 48)
    )
    save_checkpoint(model, tmp_path / "out", format="transformers")
    stock = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert type(stock).__name__ == "ViTForImageClassification"
    assert stock.config.id2label == {0: "cat", 1: "dog"}
    same_logits(model, stock, tolerance=2e-6)
    back = load_checkpoint(tmp_path / "out")
    assert back.config.id2label == {0: "cat", 1: "dog"}
    same_logits(model, back)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }


def test_the_kind_of_labels_goes_both_ways(tmp_path):
    kind = "multi_label_classification"
    model = tiny(problem_type=kind)
    save_checkpoint(model, tmp_path / "theirs", format="transformers")
    back = load_checkpoint(tmp_path / "theirs")
    assert back.config.problem_type == kind
    save_checkpoint(back, tmp_path / "again", format="transformers")
    stock = AutoModelForImageClassification.from_pretrained(tmp_path / "again")
    assert stock.config.problem_type == kind
    # Any of its settings may be given in place of the checkpoint's.
    other = load_checkpoint(tmp_path / "theirs", num_labels=3, problem_type=None)
    assert other.config.problem_type is None


def test_a_vit_model_keeps_its_pooler(tmp_path):
    model = tiny(representation_size=24, layer_norm_eps=1e-12).vit
    save_checkpoint(model, tmp_path / "out", format="transformers")
    stock, loading = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    images = picture(model.config)
    with torch.no_grad():
        expected = model(images).pooler_output
        assert (stock.eval()(images).pooler_output - expected).abs().max() < 2e-6
        assert torch.equal(load_checkpoint(tmp_path / "out")(images).pooler_output, expected)


def test_masked_image_modelling_goes_both_ways(tmp_path):
    source = FIXTURES / "transformers_vit" / "mim" / "v4"
    model = load_checkpoint(source)
    save_checkpoint(model, tmp_path / "out", format="transformers")
    stock, original = (
        AutoModelForMaskedImageModeling.from_pretrained(path).eval()
        for path in (tmp_path / "out", source)
    )
    images, mask = picture(model.config), torch.arange(16).repeat(2, 1) % 3 == 0
    with torch.no_grad():
        expected = original(images, bool_masked_pos=mask).reconstruction
        assert torch.equal(stock(images, bool_masked_pos=mask).reconstruction, expected)
        assert (model(images, mask).to_picture() - expected).abs().max() < 5e-6


def test_a_class_token_without_a_position_gets_a_row_of_zeros(tmp_path):
    model = tiny(prefix_position_embedding=False)
    save_checkpoint(model, tmp_path / "out", format="transformers")
    same_logits(model, load_checkpoint(tmp_path / "out"))


def test_the_class_tokens_position_is_added_to_it_for_the_research_codebase(tmp_path):
    model = tiny(hidden_act="gelu_pytorch_tanh")
    save_checkpoint(model, tmp_path / "out.npz", format="big_vision")
    back = load_checkpoint(tmp_path / "out.npz")
    assert not back.config.prefix_position_embedding
    same_logits(model, back)


def test_what_is_not_ours_to_write_is_left_alone(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    save_checkpoint(tiny(), folder, format="transformers")
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("format", ["vit_hf", "transformers", "timm", "jax", "big_vision"])
def test_nothing_is_left_where_writing_fails(format, tmp_path, monkeypatch):
    from vit_hf.converters import arrays, saving

    def fail(path, *arguments, **settings):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(saving, "write_npz", fail)
    monkeypatch.setattr(saving, "write_safetensors", fail)
    monkeypatch.setattr(
        VisionTransformerForImageClassification,
        "save_pretrained",
        lambda self, path: fail(path / "x"),
    )
    assert arrays.write_npz is not fail
    pooling = {"jax": "cls", "big_vision": "gap"}.get(format, "cls")
    act = "gelu" if format in ("vit_hf", "transformers", "timm") else "gelu_pytorch_tanh"
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tiny(pooling=pooling, hidden_act=act), tmp_path / "out", format=format)
    assert not list(tmp_path.iterdir())
