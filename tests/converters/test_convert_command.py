# SPDX-License-Identifier: Apache-2.0
"""`vit-hf convert`: what it prints, what it writes, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from vit_hf.cli import main
from vit_hf.converters import load_checkpoint, load_image_processor, parity

FIXTURES = Path(__file__).parents[1] / "fixtures"
JAX = FIXTURES / "vit_jax" / "tok_smallscale.npz"
TIMM = FIXTURES / "timm" / "reg4.safetensors"
TRANSFORMERS = FIXTURES / "transformers_vit" / "cls_smallscale" / "v4"
MIM = FIXTURES / "transformers_vit" / "mim" / "v4"


def convert(*words) -> int:
    return main(["convert", *map(str, words)])


def test_it_says_what_it_recognised_changed_and_measured(tmp_path, capsys):
    assert (
        convert(JAX, tmp_path / "out", "--to", "vit_hf", "--image_size", 48, 64, "--num_labels", 7)
        == 0
    )
    printed = capsys.readouterr().out
    assert (
        "recognised: the authors' JAX checkpoint (released names): width 48, 2 layers, 4 heads"
        in printed
    )
    assert "changed: Put in a fresh zero head for 7 labels." in printed
    assert "changed: Resampled the positions from the grid (4, 4) to (6, 8)" in printed
    assert "parity: largest difference over 4 images: logits 0.0e+00, tokens 0.0e+00" in printed
    assert "the source was not run by JAX itself" in printed
    model = load_checkpoint(tmp_path / "out")
    assert model.config.image_size == [48, 64] or model.config.image_size == (48, 64)
    assert dict(load_image_processor(tmp_path / "out").size) == {"height": 48, "width": 64}


@pytest.mark.parametrize("source", [TRANSFORMERS, MIM], ids=["cls", "mim"])
def test_transformers_own_code_runs_both_sides(source, tmp_path, capsys):
    assert convert(source, tmp_path / "out", "--to", "transformers") == 0
    printed = capsys.readouterr().out
    assert "the result run by transformers' own code" in printed
    assert "the source run by transformers' own code" in printed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_in_full(dtype, tmp_path, capsys):
    source, folder = tmp_path / "half", tmp_path / "out"
    AutoModelForImageClassification.from_pretrained(TRANSFORMERS, dtype=dtype).save_pretrained(
        source
    )
    assert convert(source, folder, "--to", "vit_hf") == 0
    assert "the source run by transformers' own code" in capsys.readouterr().out
    assert load_checkpoint(folder).dtype == dtype


def test_verify_writes_the_account(tmp_path, capsys):
    assert convert(JAX, tmp_path / "out.npz", "--to", "jax", "--verify") == 0
    account = json.loads((tmp_path / "out.parity.json").read_text())
    assert account["comparisons"][0]["largest_difference"] == {"logits": 0.0, "tokens": 0.0}
    assert account["preprocessing"]["image_mean"] == [0.5, 0.5, 0.5]
    assert set(account["versions"]) == {"vit_hf", "torch", "transformers", "numpy", "python"}
    assert len(account["images"]["sha256"]) == len(account["weights_sha256"]) == 64
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out.npz", "out.parity.json"]


def test_the_images_are_the_same_every_time():
    config = load_checkpoint(JAX).config
    first, again = (parity.make_images(config, num_images=2, seed=0) for _ in range(2))
    assert first.dtype == np.uint8 and first.shape == (2, 32, 32, 3)
    assert np.array_equal(first, again) and first.std() > 20


def test_a_result_with_other_numbers_is_an_error(tmp_path, capsys, monkeypatch):
    reopen = parity.reopen

    def reopen_spoiled(*arguments):
        model = reopen(*arguments)
        torch.nn.init.ones_(model.classifier.bias)
        return model

    monkeypatch.setattr(parity, "reopen", reopen_spoiled)
    assert convert(JAX, tmp_path / "out", "--to", "vit_hf") == 1
    assert "do not use it" in capsys.readouterr().out


def test_facts_and_layouts_are_given_as_words(tmp_path, capsys):
    assert convert(TIMM, tmp_path / "out", "--to", "timm") == 2
    assert "pass num_attention_heads" in capsys.readouterr().err
    assert convert(TIMM, tmp_path / "out", "--to", "timm", "--num_attention_heads", 4) == 0
    assert convert(JAX, tmp_path / "a.npz", "--to", "jax", "--settings", "pooling=none") == 0
    assert (
        convert(
            JAX, tmp_path / "b.npz", "--to", "jax", "--layout", "names=linen", "prefix=opt/target/"
        )
        == 0
    )
    with np.load(tmp_path / "b.npz") as arrays:
        assert "opt/target/Transformer/encoderblock_0/LayerNorm_1/scale" in arrays
    assert convert(JAX, tmp_path / "c", "--to", "vit_hf", "--settings", "pooling") == 2
    assert "allowed: name=value" in capsys.readouterr().err
    assert convert(JAX, tmp_path / "c", "--to", "vit_hf", "--image_size", 1, 2, 3) == 2
    assert "one number, or height and width" in capsys.readouterr().err
    assert convert(TIMM, tmp_path / "d", "--to", "jax", "--num_attention_heads", 4) == 2
    assert "cannot hold num_register_tokens=4" in capsys.readouterr().err


def test_without_the_hub_it_says_so_in_one_line(tmp_path, capsys, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*arguments, **settings):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert convert("google/vit-base-patch16-224", tmp_path / "out", "--to", "vit_hf") == 2
    printed = capsys.readouterr().err.strip()
    assert "the Hugging Face Hub cannot be reached" in printed and "give its folder" in printed
    assert len(printed.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_hub_checkpoint_is_opened_where_it_was_downloaded_to(tmp_path, capsys, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, *, allow_patterns):
        asked.append(name)
        return str(TRANSFORMERS)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert convert("--to", "vit_hf", "owner/name", tmp_path / "out") == 0
    assert set(asked) == {"owner/name"}
    expected = load_checkpoint(TRANSFORMERS).classifier.weight
    assert torch.equal(load_checkpoint(tmp_path / "out").classifier.weight, expected)


@pytest.mark.parametrize("to", ["vit_hf", "transformers", "timm"])
def test_only_an_earlier_conversion_is_written_over(to, tmp_path, capsys):
    own, folder = tmp_path / "own", tmp_path / "out"
    for _ in range(2):
        assert convert(JAX, own, "--to", "vit_hf", "--settings", "hidden_act=gelu") == 0
        assert convert(own, folder, "--to", to, "--verify") == 0
    (own / "results.json").write_text("[]")
    before = {file.name: file.read_bytes() for file in own.iterdir()}
    refused = {
        (own, own): "which is the source too; give another place",
        (own / "model.safetensors", own): "which is the source too",
        (folder, own): "holds something else than an earlier conversion to",
        (own, tmp_path): "(out, own); give a new folder",
    }
    for (source, destination), expected in refused.items():
        capsys.readouterr()
        assert convert(source, destination, "--to", to) == 2
        assert expected in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in own.iterdir()} == before


def test_a_file_is_not_written_over_itself(tmp_path, capsys):
    path = tmp_path / "model.npz"
    path.write_bytes(JAX.read_bytes())
    assert convert(path, path, "--to", "jax", "--num_labels", 3) == 2
    assert "which is the source too" in capsys.readouterr().err
    assert path.read_bytes() == JAX.read_bytes()


@pytest.mark.parametrize("name, to", [("out", "vit_hf"), ("out", "transformers"), ("x.npz", "jax")])
def test_an_account_does_not_outlive_its_weights(name, to, tmp_path):
    settings = [] if to == "jax" else ["--settings", "hidden_act=gelu"]
    assert convert(JAX, tmp_path / name, "--to", to, "--verify", *settings) == 0
    assert list(tmp_path.rglob("*parity.json"))
    assert convert(JAX, tmp_path / name, "--to", to, "--num_labels", 3, *settings) == 0
    assert not list(tmp_path.rglob("*parity.json"))
    if to == "vit_hf":
        assert "Where the weights come from" not in (tmp_path / name / "README.md").read_text()


@pytest.mark.parametrize(
    "to, word, expected",
    [
        ("vit_hf", "names=linen", "allowed for the format 'vit_hf': none"),
        ("timm", "dtype=float32", "allowed for the format 'timm': none"),
        ("transformers", "names=v3", "allowed for the format 'transformers': 'v4', 'v5'"),
        ("transformers", "prefix=vit.", "allowed for the format 'transformers': names"),
        ("jax", "names=foo", "got names='foo' in the layout, allowed for the format 'jax'"),
        ("jax", "dtype=foo", "'float32', 'bfloat16'"),
        ("jax", "prefix=1", "got prefix=1 in the layout, allowed for the format 'jax': any text"),
        ("jax", "group_norm=flat", "'vector', 'image'"),
        ("big_vision", "scan=maybe", "True, False"),
    ],
)
def test_a_layout_is_one_that_the_format_has(to, word, expected, tmp_path, capsys):
    assert convert(JAX, tmp_path / "out.npz", "--to", to, "--layout", word) == 2
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
