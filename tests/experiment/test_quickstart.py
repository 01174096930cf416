# SPDX-License-Identifier: Apache-2.0
"""The main job in miniature, on a folder of images: all that it writes hangs together."""

import json

import pytest
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from vit_hf.cli import main
from vit_hf.cli.quickstart import Arguments
from vit_hf.experiment.quickstart import difference, leave_busy_processors, small_config

MINIATURE = [
    "--hidden_size",
    "32",
    "--num_hidden_layers",
    "2",
    "--per_device_train_batch_size",
    "8",
]
MINIATURE += [
    "--pretrain_epochs",
    "1",
    "--num_train_epochs",
    "3",
    "--image_size",
    "16",
    "--seed",
    "1",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, color_folder):
    root = tmp_path_factory.mktemp("quickstart")
    folder = color_folder(root / "colors", per_class=15)
    assert (
        main(
            [
                "quickstart",
                "--dataset_name",
                str(folder),
                "--output_dir",
                str(root / "out"),
                *MINIATURE,
            ]
        )
        == 0
    )
    return root / "out", json.loads((root / "out" / "results.json").read_text())


def test_results_hold_what_they_should(finished):
    _, results = finished
    assert results["dataset"]["splits"] == {"train": 24, "test": 6} and results["seed"] == 1
    accuracy, control, loss = results["metrics"]
    assert accuracy["name"] == control["name"] == "accuracy" and accuracy["of"] is None
    assert "from scratch" in control["of"] and loss["name"] == "loss" and loss["value"] > 0
    assert accuracy["value"] == 1.0 and accuracy["num_images"] == 6  # red and blue
    low, high = accuracy["confidence_interval"]
    assert low < 0.7 and high == 1.0  # six images say little
    assert [phase["image size"] for phase in results["phases"]] == ["8x8", "16x16"]
    assert all(phase["steps"] > 0 for phase in results["phases"])


def test_it_was_reopened_without_the_package(finished):
    _, results = finished
    reopened = results["details"]["reopened"]
    assert reopened["vit_hf_is_imported"] is False
    assert reopened["predictions"] == reopened["labels"]


def test_the_checkpoint_classifies_through_a_pipeline(finished):
    output_dir, _ = finished
    model = AutoModelForImageClassification.from_pretrained(output_dir / "checkpoint")
    assert model.config.image_hw == (16, 16) and set(model.config.id2label.values()) == {
        "blue",
        "red",
    }
    classify = pipeline("image-classification", model=str(output_dir / "checkpoint"))
    assert classify(Image.new("RGB", (30, 30), (210, 50, 40)))[0]["label"] == "red"


def test_card_and_pictures_are_written(finished):
    output_dir, results = finished
    card = (output_dir / "checkpoint" / "README.md").read_text()
    assert f"{100 * results['metrics'][0]['value']:.2f} %" in card
    for name in ("masked_prediction", "position_similarity", "attention_rollout"):
        with Image.open(output_dir / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 200 and len(picture.convert("L").getcolors(65536)) > 50
        assert f"({name}.png)" in card and (output_dir / "checkpoint" / f"{name}.png").is_file()


def test_finetuning_started_from_the_pretrained_weights_at_twice_the_size(finished):
    output_dir, _ = finished
    pretraining = json.loads((output_dir / "pretraining" / "config.json").read_text())
    checkpoint = json.loads((output_dir / "checkpoint" / "config.json").read_text())
    assert pretraining["image_size"] == [8, 8] and checkpoint["image_size"] == 16
    assert pretraining["patch_size"] == checkpoint["patch_size"]


def test_folders_without_files_are_not_left(finished):
    output_dir, _ = finished
    assert all(any(folder.iterdir()) for folder in output_dir.iterdir() if folder.is_dir())


def test_a_loss_is_no_gain():
    assert difference(0.75, 0.5) == "a gain of 25.00 points"
    assert difference(0.5, 0.75) == "a loss of 25.00 points"


@pytest.mark.parametrize(("busy", "expected"), [(3.0, 4), (50.0, 2), (99.0, 1)])
def test_processors_that_are_busy_are_left_to_others(busy, expected, monkeypatch, capsys):
    set_to = [4]
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: busy)
    monkeypatch.setattr("psutil.cpu_count", lambda: 4)
    monkeypatch.setattr("torch.get_num_threads", lambda: set_to[-1])
    monkeypatch.setattr("torch.set_num_threads", set_to.append)
    leave_busy_processors()
    assert set_to[-1] == expected
    assert (f"{expected} of 4 threads" in capsys.readouterr().out) == (expected < 4)


def test_the_network_is_the_one_asked_for():
    config = small_config(Arguments(hidden_size=64, num_hidden_layers=3), ["a", "b", "c"])
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (64, 3, 256)
    assert config.id2label == {0: "a", 1: "b", 2: "c"} and config.label2id["c"] == 2
