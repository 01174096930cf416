# SPDX-License-Identifier: Apache-2.0
"""Every foreign checkpoint gives the numbers that its own project's code computed from it.

The small set in `tests/fixtures` always runs. `VIT_HF_FIXTURES` names a folder with more of the
same kind; `../shared/fixtures` is taken where it exists.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vit_hf.converters import load_checkpoint

pytestmark = pytest.mark.parity

REPOSITORY = Path(__file__).parents[2]
MORE = Path(os.environ.get("VIT_HF_FIXTURES", REPOSITORY.parent / "shared" / "fixtures"))
FOLDERS = [REPOSITORY / "tests" / "fixtures", *([MORE] if MORE.is_dir() else [])]
ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh"}


def find_cases(family: str) -> list:
    cases = {}
    for folder in FOLDERS:
        pattern = "*/case.json" if family == "transformers_vit" else "*.json"
        for path in sorted((folder / family).glob(pattern)):
            meta = json.loads(path.read_text())
            name = path.parent.name if family == "transformers_vit" else path.stem
            if "io" in meta and (path.parent / meta["io"]).is_file():
                cases[name] = pytest.param(path, meta, id=name)
    return list(cases.values())


def open_io(path: Path, meta: dict):
    return np.load(path.parent / meta["io"])


def pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def tolerances(path: Path) -> tuple[float, float]:
    return (2e-5, 1e-4) if "hybrid" in path.stem else (1e-5, 5e-5)


def assert_near(got, expected, tolerance: float, name: str):
    got, expected = torch.as_tensor(got), torch.as_tensor(expected)
    assert got.shape == expected.shape, (
        f"{name}: {tuple(got.shape)}, expected {tuple(expected.shape)}"
    )
    difference = (got - expected).abs().max().item()
    assert difference <= tolerance, f"{name} differs by {difference:.1e}, allowed {tolerance:.0e}"


def set_head(model, io):
    model.classifier.weight.data = torch.from_numpy(io["head_kernel"]).T.contiguous()
    model.classifier.bias.data = torch.from_numpy(io["head_bias"])


@torch.no_grad()
def run(model, images):
    """The logits (None without a head), the pooled vector, the tokens, and the states between the
    blocks.
    """
    encoder = getattr(model, "vit", model)
    outputs = encoder(pixels(images), output_hidden_states=True)
    logits = model.classifier(outputs.pooler_output) if encoder is not model else None
    return logits, outputs.pooler_output, outputs.last_hidden_state, outputs.hidden_states


def sizes_of(meta: dict, *, stored: bool) -> dict:
    """Says the native size where a table does not: it is not stored, or not square."""
    height, width = meta["image_size"]
    return {"native_image_size": (height, width)} if height != width or not stored else {}


@pytest.mark.parametrize(("path", "meta"), find_cases("vit_jax"))
def test_the_authors_checkpoints(path, meta):
    io, config = open_io(path, meta), meta["model_config"]
    settings = {"pooling": "none"} if "unpooled" in config["classifier"] else {}
    if "pretrained" in meta:
        settings |= {"image_size": tuple(meta["image_size"]), "num_labels": config["num_classes"]}
        if config["representation_size"] is None:
            settings["representation_size"] = None
    else:
        settings |= sizes_of(meta, stored=True)
    model = load_checkpoint(path.parent / (meta.get("weights") or meta["pretrained"]), **settings)
    if "pretrained" in meta:
        table = model.vit.positions[0].table.detach()
        assert_near(table, io["pos_embedding_new"], 2e-6, "positions")
        assert run(model, io["images"])[0].abs().max() == 0  # a fresh head is zero, as theirs
        set_head(model, io)
    check_blocks(model, io, path)


@pytest.mark.parametrize(("path", "meta"), find_cases("big_vision"))
def test_the_research_codebases_checkpoints(path, meta):
    io = open_io(path, meta)
    stored = meta["model_kw"]["posemb"] == "learn"
    if "pretrained" in meta:
        weights = path.parent / meta["pretrained"]
        weights = weights if weights.exists() else path.parent.parent / meta["pretrained"]
        settings = {"image_size": tuple(meta["image_size"])}
        if meta["dont_load"]:
            settings["num_labels"] = meta["num_classes"]
    else:
        weights, settings = path.parent / meta["weights"], sizes_of(meta, stored=stored)
    model = load_checkpoint(weights, **settings)
    if "head_kernel" in io:
        set_head(model, io)
    check_blocks(model, io, path)


def check_blocks(model, io, path):
    logit_tolerance, token_tolerance = tolerances(path)
    logits, pooled, tokens, states = run(model, io["images"])
    assert_near(tokens, io["encoded"], token_tolerance, "encoded")
    assert_near(pooled, io["pre_logits"], logit_tolerance, "pre_logits")
    blocks = sorted(key for key in io.files if key.startswith("block") and key[5:].isdigit())
    for key, state in zip(blocks, states[1:], strict=bool(blocks)):
        assert_near(state, io[key], token_tolerance, key)
    if "tokens_in" in io:
        assert_near(states[0], io["tokens_in"], token_tolerance, "tokens_in")
    if "logits" in io:
        assert_near(logits, io["logits"], logit_tolerance, "logits")
    else:
        assert_near(pooled, io["output"], logit_tolerance, "output")


@pytest.mark.parametrize(("path", "meta"), find_cases("timm"))
def test_timms_checkpoints(path, meta):
    io, arguments = open_io(path, meta), meta["vision_transformer_kwargs"]
    settings = {"num_attention_heads": arguments["num_heads"]}
    if "act_layer" in arguments:
        settings["hidden_act"] = ACTIVATIONS.get(arguments["act_layer"], arguments["act_layer"])
    if "pretrained" in meta:
        settings["image_size"] = tuple(arguments["img_size"])
    else:
        settings |= sizes_of({"image_size": arguments["img_size"]}, stored=True)
    model = load_checkpoint(path.parent / (meta.get("weights") or meta["pretrained"]), **settings)
    if "pos_embed_new" in io:
        assert_near(model.vit.positions[0].table.detach(), io["pos_embed_new"], 2e-6, "positions")
    logit_tolerance, token_tolerance = tolerances(path)
    for suffix in [key.removeprefix("images") for key in io.files if key.startswith("images")]:
        logits, pooled, tokens, states = run(model, io[f"images{suffix}"])
        prefix = model.config.num_prefix_tokens
        assert_near(
            tokens, io[f"forward_features{suffix}"], token_tolerance, f"forward_features{suffix}"
        )
        assert_near(pooled, io[f"pre_logits{suffix}"], logit_tolerance, f"pre_logits{suffix}")
        assert_near(logits, io[f"logits{suffix}"], logit_tolerance, f"logits{suffix}")
        for key, state in (
            ("block00_patch_tokens", states[1]),
            ("block_last_patch_tokens_prenorm", states[-1]),
        ):
            if key + suffix in io:
                assert_near(state[:, prefix:], io[key + suffix], token_tolerance, key)


@pytest.mark.parametrize("names", ["v4", "v5"])
@pytest.mark.parametrize(("path", "meta"), find_cases("transformers_vit"))
def test_transformers_checkpoints(path, meta, names):
    if not (path.parent / names).is_dir():
        pytest.skip(f"no files with the names {names}")
    io = open_io(path, meta)
    model = load_checkpoint(path.parent / names)
    if "reconstruction" in io:
        return check_reconstruction(model, io)
    for suffix in [key.removeprefix("images") for key in io.files if key.startswith("images")]:
        logits, pooled, tokens, states = run(model, io[f"images{suffix}"])
        if f"logits{suffix}" in io:
            assert_near(logits, io[f"logits{suffix}"], 1e-5, f"logits{suffix}")
        if f"pooler_output{suffix}" in io:
            assert_near(pooled, io[f"pooler_output{suffix}"], 1e-5, f"pooler_output{suffix}")
        if f"last_hidden_state{suffix}" in io:
            assert_near(
                tokens, io[f"last_hidden_state{suffix}"], 5e-5, f"last_hidden_state{suffix}"
            )
        for key, state in (
            ("embedding_output", states[0]),
            ("hidden_01", states[1]),
            ("hidden_last", states[-1]),
        ):
            if key + suffix in io:
                assert_near(state, io[key + suffix], 5e-5, key + suffix)


@torch.no_grad()
def check_reconstruction(model, io):
    """transformers' masked image modelling is our prediction of raw pixels: the same pictures (its
    loss is L1).
    """
    images, mask = pixels(io["images"]), torch.from_numpy(io["bool_masked_pos"])
    picture = model(images, bool_masked_pos=mask).to_picture()
    assert_near(picture, io["reconstruction"], 1e-5, "reconstruction")
    assert_near(
        model(images).to_picture(), io["reconstruction_nomask"], 1e-5, "reconstruction_nomask"
    )


def test_there_are_cases_of_every_family():
    for family in ("vit_jax", "big_vision", "timm", "transformers_vit"):
        assert find_cases(family), f"no fixtures of {family} in {FOLDERS}"
