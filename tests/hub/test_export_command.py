# SPDX-License-Identifier: Apache-2.0
"""`vit-hf export`: what it writes from checkpoints of any kind, and the way to the Hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessorPil

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.cli import main
from vit_hf.converters import load_checkpoint
from vit_hf.hub.export import missing_from_export
from vit_hf.hub.results import Images, Metric, Run, write_runs

FIXTURES = Path(__file__).parents[1] / "fixtures"
JAX = FIXTURES / "vit_jax" / "tok_smallscale.npz"
TIMM = FIXTURES / "timm" / "reg4.safetensors"
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 64, "image_size": (16, 24), "patch_size": 8, "num_labels": 5}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Where the verb names its output folder itself, it makes it in the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def export(*words) -> int:
    return main(["export", *map(str, words)])


@pytest.fixture
def trained(tmp_path):
    """A checkpoint as training leaves it: weights and accounts, no code and no card."""
    folder = tmp_path / "trained"
    torch.manual_seed(0)
    model = VisionTransformerForImageClassification(VisionTransformerConfig(**SMALL))
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 24}, resample=3).save_pretrained(folder)
    accuracy = Metric(name="accuracy", split="test", value=0.875, num_images=8)
    run = Run(
        model_name="A small ViT",
        task="image-classification",
        dataset=Images(name="eight images", splits={"train": 8}),
        metrics=[accuracy],
        command="vit-hf finetune",
        seed=3,
        versions={},
        seconds=1,
        settings={},
        pictures={"rollout.png": "Attention rollout."},
    )
    write_runs([run], folder / "results.json")
    (folder / "recipe.json").write_text('{"name": "mine", "source": "a table", "optim": "sgd"}')
    (folder / "rollout.png").write_bytes(b"a picture")
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_a_checkpoint_of_ours_keeps_its_processor_and_accounts(trained, tmp_path, capsys):
    folder = tmp_path / "exported"
    assert export(trained, "--output_dir", folder) == 0
    printed = capsys.readouterr().out
    assert "recognised: a checkpoint of this package" in printed
    assert f"wrote: {folder}\n" in printed and f"wrote: {folder / 'README.md'}" in printed
    assert not missing_from_export(folder)
    expected, got = (
        AutoModelForImageClassification.from_pretrained(each).state_dict()
        for each in (trained, folder)
    )
    assert all(torch.equal(tensor, got[name]) for name, tensor in expected.items())
    assert int(AutoImageProcessor.from_pretrained(folder).resample) == 3
    card = (folder / "README.md").read_text()
    assert (
        "| accuracy on test (8 images) | 87.50 % | 3 |" in card and "`mine`, from a table" in card
    )
    assert (folder / "rollout.png").is_file() and "(rollout.png)" in card
    assert not (folder / "trainer_state.json").exists()


def test_the_folder_has_a_name_by_default_and_the_checkpoint_stays(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {file.name: file.read_bytes() for file in trained.iterdir()}
    assert export("trained") == 0
    assert not missing_from_export(tmp_path / "trained-exported")
    assert {file.name: file.read_bytes() for file in trained.iterdir()} == before
    shutil.copyfile(JAX, tmp_path / "small.npz")
    assert export("small.npz") == 0
    assert not missing_from_export(tmp_path / "small-exported")


def test_a_foreign_checkpoint_gets_its_passport(tmp_path, capsys):
    folder = tmp_path / "exported"
    assert export(JAX, "--output_dir", folder) == 0
    printed = capsys.readouterr().out
    assert "recognised: the authors' JAX checkpoint" in printed
    assert "parity: largest difference over 4 images: logits 0.0e+00" in printed
    assert json.loads((folder / "parity.json").read_text())["source_format"] == "jax"
    assert "## Where the weights come from" in (folder / "README.md").read_text()
    expected = load_checkpoint(JAX).classifier.weight
    assert torch.equal(load_checkpoint(folder).classifier.weight, expected)


def test_a_run_is_not_written_over(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "checkpoint-1").mkdir()
    before = sorted((file.name, file.stat().st_mtime_ns) for file in run.iterdir())
    assert export(trained, "--output_dir", run) == 2
    assert "holds something else than an earlier conversion" in capsys.readouterr().err
    assert before == sorted((file.name, file.stat().st_mtime_ns) for file in run.iterdir())


def test_accounts_do_not_outlive_their_weights(trained, tmp_path):
    folder, plain = tmp_path / "exported", tmp_path / "plain"
    VisionTransformerForImageClassification(VisionTransformerConfig(**SMALL)).save_pretrained(plain)
    assert export(trained, "--output_dir", folder) == 0
    assert export(plain, "--output_dir", folder) == 0
    assert {"results.json", "recipe.json"}.isdisjoint(file.name for file in folder.iterdir())
    card = (folder / "README.md").read_text()
    assert "accuracy" not in card and "`mine`" not in card
    # The same weights in other files keep theirs.
    model = VisionTransformerForImageClassification.from_pretrained(trained)
    (trained / "model.safetensors").unlink()
    model.save_pretrained(trained, max_shard_size="10KB")
    assert export(trained, "--output_dir", trained) == 0
    assert "accuracy" in (trained / "README.md").read_text()
    assert len(list(trained.glob("model*.safetensors*"))) == 1


def test_a_passport_is_told_of_its_own_weights_alone(trained, tmp_path):
    folder, again = tmp_path / "exported", tmp_path / "again"
    assert export(JAX, "--output_dir", folder) == 0
    assert export(folder, "--output_dir", again) == 0
    assert "## Where the weights come from" in (again / "README.md").read_text()
    shutil.copyfile(trained / "model.safetensors", folder / "model.safetensors")
    assert export(folder) == 0
    assert "## Where the weights come from" not in (folder / "README.md").read_text()


def test_what_was_exported_gets_a_new_card_and_nothing_else(trained, tmp_path, capsys):
    folder = tmp_path / "exported"
    export(trained, "--output_dir", folder)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    results = (folder / "results.json").read_text().replace("0.875", "0.625")
    (folder / "results.json").write_text(results)
    assert export(folder) == 0
    assert "62.50 %" in (folder / "README.md").read_text()
    after = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {
        "README.md",
        "results.json",
    }
    (folder / "README.md").write_text("My own words.\n")
    capsys.readouterr()
    assert export(folder, "--output_dir", folder) == 0
    assert "edited by hand" in capsys.readouterr().out
    assert (folder / "README.md").read_text() == "My own words.\n"


def test_what_is_not_understood_is_said(trained, tmp_path, capsys):
    refused = {
        ("--push_to_hub",): "without --hub_model_id; give owner/name",
        ("--hub_model_id", "a/b", "--hub_revision", "x"): "--hub_model_id, --hub_revision without",
        ("--push_to_hub", "--hub_model_id", "a/b/c"): "allowed: owner/name",
        ("--output_dir", str(trained / "config.json")): "is a file; give a folder",
    }
    for words, expected in refused.items():
        assert export(trained, *words) == 2
        error = capsys.readouterr().err
        assert expected in error and len(error.strip().splitlines()) == 1
    assert export(tmp_path / "nowhere") == 2
    assert "does not exist" in capsys.readouterr().err
    assert export(TIMM, "--output_dir", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "pass num_attention_heads" in error and "`vit-hf convert" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_pushes_and_what_was_kept_can_be_pushed_later(trained, tmp_path, hub):
    folder = tmp_path / "exported"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    flags = ["--push_to_hub", "--hub_model_id", "tester/small", "--hub_revision", "trial"]

    def run(*words, token: str):
        return subprocess.run(
            [Path(sys.executable).with_name("vit-hf"), "export", *map(str, words)],
            env={**environment, "HF_TOKEN": token},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run(trained, "--output_dir", folder, *flags, token="hf_nobody")
    assert done.returncode == 2 and "(401): log in" in done.stderr
    later = f"kept in {folder}; push it with: vit-hf export {folder} {' '.join(flags)}"
    assert later in done.stderr and not hub.repositories

    done = run(folder, *flags, "--hub_private_repo", "True", token="hf_write")
    assert done.returncode == 0, done.stderr
    assert f"pushed: {hub.endpoint}/tester/small/tree/" in done.stdout
    assert hub.repositories["tester/small"].private
    stored = hub.files("tester/small", "trial")
    assert stored == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert 'model="tester/small"' in stored["README.md"].decode()
