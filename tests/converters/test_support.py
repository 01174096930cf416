# SPDX-License-Identifier: Apache-2.0
"""What each format holds, in both directions: one table, which these tests run and
`docs/formats.md` shows.

Each row is a small model that is written, opened again and compared, or refused by the name of the
setting. `UPDATE_DOCS=1 pytest tests/converters/test_support.py` writes the page anew.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForMaskedImageModeling
from transformers.utils import logging as transformers_logging

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)
from vit_hf.converters import FORMATS, load_checkpoint, save_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
FOREIGN = [name for name in FORMATS if name != "vit_hf"]
ACTIVATION = {"jax": "gelu_pytorch_tanh", "big_vision": "gelu_pytorch_tanh"}
CLASSES = {
    "image-classification": VisionTransformerForImageClassification,
    "features": VisionTransformerModel,
    "masked-patch-prediction": VisionTransformerForMaskedPatchPrediction,
}
STEM = {"image_size": 64, "patch_size": 1, "stem_blocks": [2, 2, 2, 2], "hidden_act": None}
TIMM_STEM = {
    "stem_norm_eps": 1e-5,
    "stem_weight_eps": 1e-8,
    "stem_weight_eps_placement": "variance",
}


@dataclass
class Row:
    """A feature, a model that has it, and which formats refuse it, by which setting."""

    feature: str
    settings: dict = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    task: str = "image-classification"


def everywhere_but(*formats: str, setting: str) -> dict[str, str]:
    return {name: setting for name in FOREIGN if name not in formats}


JAX = ("jax", "big_vision")
ROWS = [
    Row("class token pooling"),
    Row("mean pooling of normed tokens", {"pooling": "gap"}, {"transformers": "class_token"}),
    Row(
        "mean pooling, then the norm",
        {"pooling": "gap", "final_norm": "pooled"},
        {"transformers": "class_token", "jax": "final_norm", "big_vision": "final_norm"},
    ),
    Row(
        "mean pooling beside a class token",
        {"pooling": "gap", "class_token": True},
        everywhere_but("timm", setting="pooling|class_token"),
    ),
    Row(
        "attention pooling (MAP)",
        {"pooling": "map"},
        {"transformers": "class_token", "jax": "pooling"},
    ),
    Row(
        "no pooling, every token",
        {"pooling": "none"},
        {"transformers": "class_token", "big_vision": "pooling"},
    ),
    Row(
        "no pooling, with a class token",
        {"pooling": "none", "class_token": True},
        {"transformers": "pooling", "big_vision": "pooling"},
    ),
    Row(
        "representation layer",
        {"representation_size": 24},
        {"transformers": "representation_size", "timm": "representation_size"},
    ),
    Row(
        "representation layer of a model without a head",
        {"representation_size": 24},
        {"timm": "representation_size"},
        "features",
    ),
    Row("no head", {}, {}, "features"),
    Row(
        "register tokens",
        {"num_register_tokens": 3},
        everywhere_but("timm", setting="num_register_tokens"),
    ),
    Row("positions for patches alone", {"prefix_position_embedding": False}),
    Row(
        "sine-cosine positions",
        {"position_embedding": "sincos_2d"},
        everywhere_but("big_vision", setting="position_embedding"),
    ),
    Row(
        "learned 2-D positions",
        {"position_embedding": "learned_2d"},
        everywhere_but(setting="position_embedding"),
    ),
    Row(
        "relative positions",
        {"position_embedding": "relative"},
        everywhere_but(setting="position_embedding"),
    ),
    Row(
        "no positions",
        {"position_embedding": "none"},
        everywhere_but("timm", setting="position_embedding"),
    ),
    Row(
        "positions at every layer",
        {"position_embedding_placement": "every_layer"},
        everywhere_but(setting="position_embedding_placement"),
    ),
    Row(
        "layer scale",
        {"layer_scale_init_value": 0.1},
        everywhere_but("timm", setting="layer_scale_init_value"),
    ),
    Row("query and key norm", {"qk_norm": True}, everywhere_but("timm", setting="qk_norm")),
    Row(
        "norm before the encoder",
        {"pre_encoder_norm": True, "patch_bias": False},
        everywhere_but("timm", setting="pre_encoder_norm"),
    ),
    Row("patches without a bias", {"patch_bias": False}, everywhere_but(setting="patch_bias")),
    Row(
        "queries, keys, values without a bias",
        {"qkv_bias": False},
        {"jax": "qkv_bias", "big_vision": "qkv_bias"},
    ),
    Row("exact GELU", {"hidden_act": "gelu"}, {"jax": "hidden_act", "big_vision": "hidden_act"}),
    Row("tanh GELU", {"hidden_act": "gelu_pytorch_tanh"}),
    Row("LayerNorm epsilon 1e-6", {"layer_norm_eps": 1e-6}),
    Row(
        "LayerNorm epsilon 1e-5",
        {"layer_norm_eps": 1e-5},
        {"jax": "layer_norm_eps", "big_vision": "layer_norm_eps"},
    ),
    Row(
        "LayerNorm epsilon 1e-12",
        {"layer_norm_eps": 1e-12},
        everywhere_but("transformers", setting="layer_norm_eps"),
    ),
    Row("images that are not square", {"image_size": (16, 40)}),
    Row("patches that are not square", {"patch_size": (8, 4)}),
    Row("images of one channel", {"num_channels": 1}),
    Row("names of the classes", {"id2label": {0: "cat", 1: "dog"}}),
    Row(
        "the authors' ResNet stem",
        STEM,
        {"transformers": "stem_blocks", "big_vision": "stem_blocks", "timm": "stem_norm_eps"},
    ),
    Row(
        "timm's ResNet stem",
        STEM | TIMM_STEM,
        {"transformers": "stem_blocks", "big_vision": "stem_blocks", "jax": "stem_norm_eps"},
    ),
    Row(
        "masked patch prediction of raw pixels",
        {"prediction_target": "raw_pixels"},
        everywhere_but("transformers", setting="masked patch prediction"),
        "masked-patch-prediction",
    ),
    Row(
        "masked patch prediction of colours",
        {"prediction_target": "mean_color"},
        everywhere_but("transformers", setting="masked patch prediction")
        | {"transformers": "prediction_target"},
        "masked-patch-prediction",
    ),
]
# What is read beside what is written: the feature, its format, and the reference case that shows
# it.
READ = [
    ("names of the releases", "jax", "tok_rep"),
    ("names of the present code (linen)", "jax", "tok_linen_names"),
    ("prefix `opt/target/`", "jax", "tok_opt_target"),
    ("GroupNorm of shape (1, 1, 1, C)", "jax", "hybrid_r111"),
    ("GroupNorm of shape (C,)", "jax", "hybrid_r2_w64"),
    ("root-only stem (R+Ti/16)", "jax", "hybrid_rti"),
    ("another image size at load", "jax", "ft_tok_64to96x160_ext"),
    ("prefix `params/`", "big_vision", "tok_params_prefix"),
    ("image tower of two, prefix `params/img/`", "big_vision", "siglip_img_map"),
    ("scanned layers", "big_vision", "gap_scan"),
    ("bfloat16 as raw bytes", "big_vision", "gap_bf16"),
    ("another image size at load", "big_vision", "ld_tok_32to24"),
    ("state dict alone, heads given", "timm", "cls_token"),
    ("images of other sizes", "timm", "dynamic"),
    ("another image size at load", "timm", "ft_cls_32to32x56"),
    ("names of the Hub's files and of transformers 5", "transformers", "cls"),
    ("`ViTModel` without a pooler", "transformers", "model_nopool"),
    ("`ViTModel` with its pooler", "transformers", "model_pooler"),
]
FAMILIES = {
    "jax": "vit_jax",
    "big_vision": "big_vision",
    "timm": "timm",
    "transformers": "transformers_vit",
}


def build(row: Row, format: str):
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": 32,
        "patch_size": 8,
        "num_labels": 2,
        "hidden_act": ACTIVATION.get(format, "gelu"),
    }
    settings |= {
        name: value
        for name, value in row.settings.items()
        if value is not None or name != "hidden_act"
    }
    if "stem_blocks" in row.settings:
        settings |= {"stem_width": 64}
    model = CLASSES[row.task](VisionTransformerConfig(**settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@torch.no_grad()
def output_of(model, images):
    outputs = model(images)
    return outputs.logits if "logits" in outputs else outputs.pooler_output


PAIRS = [
    pytest.param(row, format, id=f"{row.feature}-{format}") for row in ROWS for format in FOREIGN
]


@pytest.mark.parametrize(("row", "format"), PAIRS)
def test_a_format_holds_a_model_or_refuses_it_by_name(row, format, tmp_path):
    model, path = build(row, format), tmp_path / ("out.npz" if format in JAX else "out")
    if format in row.refused:
        with pytest.raises(ValueError, match=row.refused[format]):
            save_checkpoint(model, path, format=format)
        assert not list(tmp_path.iterdir())
        return
    save_checkpoint(model, path, format=format)
    facts = {"native_image_size": model.config.image_size} if format != "transformers" else {}
    facts |= {"pooling": model.config.pooling} if format in JAX else {}
    back = load_checkpoint(path, format=format, task=row.task, **facts)
    images = torch.rand(2, model.config.num_channels, *model.config.image_hw) * 2 - 1
    assert torch.equal(output_of(back, images), output_of(model, images))
    if format in ("timm", "transformers"):
        assert back.config.id2label == model.config.id2label or row.task != "image-classification"
    if format == "transformers":
        assert_stock_agrees(path, model, images, row.task)


@pytest.mark.parametrize("format", FOREIGN)
def test_a_setting_of_training_is_said_to_be_lost_and_not_refused(format, tmp_path, caplog):
    transformers_logging.enable_propagation()
    row = Row("patch dropout", {"patch_dropout_rate": 0.5, "drop_path_rate": 0.1})
    path = tmp_path / ("out.npz" if format in JAX else "out")
    save_checkpoint(build(row, format), path, format=format)
    transformers_logging.disable_propagation()
    assert "drop_path_rate=0.1, patch_dropout_rate=0.5" in caplog.text
    back = load_checkpoint(path, format=format, patch_dropout_rate=0.25)
    assert back.vit.patch_dropout.rate == 0.25


@torch.no_grad()
def assert_stock_agrees(path, model, images, task):
    if task == "masked-patch-prediction":
        stock = AutoModelForMaskedImageModeling.from_pretrained(path).eval()
        got, expected = (
            stock(images, bool_masked_pos=torch.zeros(2, 16)).reconstruction,
            model(images).to_picture(),
        )
    elif task == "features":
        stock = AutoModel.from_pretrained(path).eval()
        got, expected = stock(images).last_hidden_state, model(images).last_hidden_state
    else:
        stock = AutoModelForImageClassification.from_pretrained(path).eval()
        got, expected = stock(images).logits, model(images).logits
    assert (got - expected).abs().max() < 5e-6


def render() -> str:
    lines = [
        "<!-- Written by tests/converters/test_support.py; see there how to write it anew. -->",
        "# Formats",
        "",
        "`vit_hf.converters.load_checkpoint` and `save_checkpoint` move these models. Each",
        '"both ways" is a model that a test writes, opens and compares bit for bit; each setting',
        "in backticks is the one by which a test sees it refused. The format `vit_hf` holds all.",
        "",
        "| model | " + " | ".join(FOREIGN) + " |",
        "|---" * (len(FOREIGN) + 1) + "|",
    ]
    for row in ROWS:
        cells = [
            "refused: " + " ".join(f"`{name}`" for name in row.refused[format].split("|"))
            if format in row.refused
            else "both ways"
            for format in FOREIGN
        ]
        lines.append(f"| {row.feature} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Beside these, the following is read, each held against numbers that the format's own "
        "project computed.",
        "",
        "| format | read | reference case |",
        "|---|---|---|",
        *(f"| {format} | {feature} | `{case}` |" for feature, format, case in READ),
    ]
    return "\n".join(lines) + "\n"


def test_the_page_shows_this_table():
    if os.environ.get("UPDATE_DOCS"):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(render(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "docs/formats.md is stale: run with UPDATE_DOCS=1"
    )


def test_every_case_of_the_page_exists_where_the_references_are():
    more = Path(
        os.environ.get("VIT_HF_FIXTURES", Path(__file__).parents[3] / "shared" / "fixtures")
    )
    if not more.is_dir():
        pytest.skip("VIT_HF_FIXTURES names no folder of references")
    for _, format, case in READ:
        folder = more / FAMILIES[format]
        assert (folder / f"{case}.json").is_file() or (folder / case / "case.json").is_file(), case
