# SPDX-License-Identifier: Apache-2.0
"""`vit-hf evaluate` as a user runs it, on a classifier of colours."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
)
from vit_hf.cli import main
from vit_hf.converters.image_processors import authors_processor
from vit_hf.data import load_images
from vit_hf.evaluation.intervals import of_share
from vit_hf.experiment.resolutions import Resolution, draw_resolutions, parse_resolutions
from vit_hf.experiment.results import measured, table_of
from vit_hf.hub.results import read_runs

NAMES = ["blue", "red"]
NUM_TEST = 12
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small lose more to waiting threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images(tmp_path_factory, color_folder):
    """Blue and red pictures, a train and a test folder; two of the test images are painted over."""
    folder = tmp_path_factory.mktemp("images")
    color_folder(folder / "train", per_class=12)
    color_folder(folder / "test", per_class=NUM_TEST // 2, seed=1)
    shutil.copy(folder / "test/blue/0.png", folder / "test/red/0.png")
    return folder


def config_of(**settings):
    return VisionTransformerConfig(
        image_size=16,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        **settings,
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A checkpoint whose head was set by two pictures."""
    names = dict(enumerate(NAMES))
    config = config_of(id2label=names, label2id={name: index for index, name in names.items()})
    torch.manual_seed(0)
    model = VisionTransformerForImageClassification(config).eval()
    with torch.no_grad():
        pixels = torch.full((2, 3, 16, 16), -0.7)
        pixels[0, 2], pixels[1, 0] = 0.7, 0.7
        blue, red = model.vit(pixels).pooler_output
        model.classifier.weight[1] = red - blue
        model.classifier.bias[1] = -(red - blue) @ (red + blue) / 2
    return saved(model, tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A checkpoint of masked patch prediction, fresh: it has no classifier, nor these classes."""
    torch.manual_seed(0)
    model = VisionTransformerForMaskedPatchPrediction(config_of(num_labels=5))
    return saved(model, tmp_path_factory.mktemp("masked"))


def saved(model, folder):
    model.save_pretrained(folder)
    authors_processor(model.config).save_pretrained(folder)
    return folder


def run(model, images, output, *words):
    flags = ["--model_name_or_path", model, "--dataset_name", images, "--output_dir", output]
    words = [*flags, "--use_cpu", "--disable_tqdm", *words]
    return main(["evaluate", *map(str, words)])


def results_of(folder):
    (account,) = read_runs(folder / "results.json")
    return account, {metric.name: metric for metric in account.metrics}


def test_accuracy_and_all_that_is_told_of_it(classifier, images, tmp_path, capsys):
    assert run(classifier, images, tmp_path) == 0
    account, found = results_of(tmp_path)
    assert list(found) == [
        "accuracy",
        "expected_calibration_error",
        "loss",
    ]  # two classes: no top-5
    accuracy = found["accuracy"]
    assert accuracy.value == 11 / 12 and accuracy.num_images == 12
    interval = of_share(11, 12)
    assert accuracy.confidence_interval == [interval.low, interval.high]
    assert accuracy.interval_method == "Wilson score, over images"
    parts = accuracy.by_class
    assert parts["blue"]["value"] == 1 and parts["red"]["value"] == 5 / 6
    assert parts["red"]["num_images"] == 6 and parts["red"]["confidence_interval"][0] < 5 / 6
    error = found["expected_calibration_error"]
    assert error.settings == {"bins": 15, "confidence": "softmax"}
    low, high = error.confidence_interval
    assert 0 <= low < high <= 1 and error.interval_method.startswith("bootstrap")
    assert account.preprocessing["size"] == {"height": 16, "width": 16}
    assert account.preprocessing["image_mean"] == [0.5] * 3
    assert account.preprocessing["computed_in"] == "float32"
    assert account.seed == 0 and set(account.versions) >= {"torch", "scikit-learn", "vit_hf"}
    fingerprints = account.dataset.fingerprints
    assert fingerprints["train"] == account.dataset.fingerprint != fingerprints["test"]
    printed = capsys.readouterr().out
    assert "metric" in printed and "95 % interval" in printed
    row = next(line for line in printed.splitlines() if line.startswith("accuracy on test"))
    assert row.split()[3:] == ["91.67", "%", "64.61", "%", "to", "98.51", "%", "12"]
    assert "least accurate of 2 classes: red 83.33%, blue 100.00%" in printed


@pytest.mark.parametrize(
    "name, words",
    [
        ("accuracy", "accuracy on test"),
        ("few_shot_5_accuracy", "5-shot accuracy on test"),
        ("knn_accuracy", "kNN accuracy on test"),
        ("accuracy_at_96x160", "accuracy at 96x160 pixels on test"),
        ("images_per_second_at_96", "images a second at 96 pixels"),
        ("peak_memory_gib_at_96", "peak memory at 96 pixels, GiB"),
    ],
)
def test_what_the_table_calls_a_measure(name, words):
    metric = measured(name, 0.5, split="test", num_images=4)
    assert table_of([metric]).splitlines()[-1].startswith(f"{words}  ")


@pytest.mark.parametrize(
    "settings",
    [
        {
            "size": {"shortest_edge": 20},
            "do_center_crop": True,
            "crop_size": {"height": 16, "width": 16},
        },
        {"size": {"height": 24, "width": 24}},  # not the model's
    ],
)
def test_images_are_prepared_as_in_serving(settings, classifier, images, tmp_path):
    """At the native size by the settings as saved, and so is what stands for an unreadable one."""
    folder, broken = tmp_path / "classifier", tmp_path / "images"
    shutil.copytree(classifier, folder)
    shutil.copytree(images, broken)
    (broken / "test/red/1.png").write_bytes(b"no picture")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert run(folder, broken, tmp_path / "out") == 0
    account, found = results_of(tmp_path / "out")
    assert {name: account.preprocessing[name] for name in settings} == settings
    serve = pipeline("image-classification", model=str(folder))
    readable = [each for each in (broken / "test").rglob("*.png") if each.name != "1.png"]
    readable.append(broken / "test/blue/1.png")
    right = [serve(str(each))[0]["label"] == each.parent.name for each in readable]
    assert len(right) == 11 and found["accuracy"].value == sum(right) / 12


def test_an_unreadable_image_is_wrong_and_has_no_loss(classifier, images, tmp_path, capsys):
    broken = tmp_path / "images"
    shutil.copytree(images, broken)
    (broken / "test/red/1.png").write_bytes(b"no picture")
    (broken / "train/red/3.png").write_bytes(b"no picture")
    metrics = ["--metrics", "accuracy", "few_shot", "knn", "logistic", "--shots", 2]
    metrics += ["--neighbors", 3]
    assert run(classifier, broken, tmp_path / "broken", *metrics) == 0
    assert "1 image could not be decoded and count as wrong" in capsys.readouterr().out
    assert (tmp_path / "broken/bad_images.jsonl").read_text().count("red/1.png") == 1
    fewer = tmp_path / "fewer"
    shutil.copytree(broken, fewer)
    (fewer / "test/red/1.png").unlink()
    (fewer / "train/red/3.png").unlink()
    assert run(classifier, fewer, tmp_path / "out", *metrics) == 0
    (_, found), (_, others) = results_of(tmp_path / "broken"), results_of(tmp_path / "out")
    assert found["loss"].value == pytest.approx(others["loss"].value, rel=1e-6)
    assert found["loss"].num_images == 11
    name = "expected_calibration_error"
    assert found[name].value == pytest.approx(others[name].value, rel=1e-5)
    assert found["accuracy"].by_class["red"]["value"] == 4 / 6
    for name in ("accuracy", "knn_accuracy", "logistic_accuracy"):
        assert found[name].num_images == 12
        assert 12 * found[name].value == pytest.approx(11 * others[name].value)
    assert found["few_shot_2_accuracy"].value <= 11 / 12


def test_probes_of_a_checkpoint_without_a_classifier(masked, images, tmp_path):
    shots = ["--shots", 1, 5, "--seeds", 0, 1, 2, 3]
    assert run(masked, images, tmp_path / "few", "--metrics", "few_shot", *shots) == 0
    every = ["--metrics", "few_shot", "knn", "logistic", *shots, "--neighbors", 5]
    assert run(masked, images, tmp_path / "all", *every, "--logistic_c", 0.5) == 0
    (account, few), (_, found) = results_of(tmp_path / "few"), results_of(tmp_path / "all")
    assert account.task == "masked-patch-prediction"
    names = ["few_shot_1_accuracy", "few_shot_5_accuracy"]
    assert list(few) == names and list(found) == [*names, "knn_accuracy", "logistic_accuracy"]
    for name in names:
        assert found[name].values == few[name].values  # of the chosen images, and of the table
        assert found[name].seeds == [0, 1, 2, 3] and len(found[name].values) == 4
        assert found[name].value == pytest.approx(np.mean(found[name].values))
        low, high = found[name].confidence_interval
        assert low < found[name].value < high and "4 seeds" in found[name].interval_method
    assert found["few_shot_5_accuracy"].settings == {"shots": 5, "l2": 1024.0}
    assert found["few_shot_5_accuracy"].value > 0.8
    assert found["knn_accuracy"].value == found["logistic_accuracy"].value == 11 / 12
    assert found["knn_accuracy"].settings["neighbors"] == 5
    assert found["logistic_accuracy"].settings == {"C": 0.5, "converged": True}


def test_one_seed_has_the_interval_of_the_images(masked, images, tmp_path):
    words = ["--metrics", "few_shot", "--shots", 5, "--seeds", 7]
    assert run(masked, images, tmp_path, *words) == 0
    metric = results_of(tmp_path)[1]["few_shot_5_accuracy"]
    assert metric.interval_method == "Wilson score, over images" and metric.seeds == [7]


def test_the_authors_few_shot_preprocessing(masked, images, tmp_path):
    words = ["--metrics", "few_shot", "--shots", 5, "--preprocessing", "few_shot"]
    assert run(masked, images, tmp_path, *words, "--image_size", 28) == 0
    told = results_of(tmp_path)[0].preprocessing
    assert told["size"] == {"height": 32, "width": 32} and told["do_center_crop"]
    assert told["crop_size"] == {"height": 28, "width": 28}


def test_the_preprocessing_reaches_the_pixels(classifier, images, tmp_path):
    """A coloured frame decides where the whole image is seen, and not where its centre is."""
    framed = tmp_path / "framed"
    shutil.copytree(images, framed)
    for path in framed.glob("test/*/*.png"):
        pixels = np.full((64, 64, 3), (220, 40, 40) if path.parent.name == "red" else (40, 40, 220))
        pixels[4:-4, 4:-4] = 128
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    values = {}
    for name in ("checkpoint", "few_shot"):
        assert run(classifier, framed, tmp_path / name, "--preprocessing", name) == 0
        values[name] = results_of(tmp_path / name)[1]["accuracy"].value
    assert values == {"checkpoint": 1.0, "few_shot": 0.5}


def test_resolutions(classifier, images, tmp_path):
    assert run(classifier, images, tmp_path, "--resolutions", "24,8", "16", "16x32") == 0
    account, found = results_of(tmp_path)
    names = [name for name in found if name.startswith("accuracy_at_")]
    assert names == ["accuracy_at_8", "accuracy_at_16", "accuracy_at_16x32", "accuracy_at_24"]
    native = found["accuracy_at_16"]
    assert native.value == found["accuracy"].value
    assert native.confidence_interval == found["accuracy"].confidence_interval
    assert found["accuracy_at_16x32"].settings == {"image_size": [16, 32]}
    assert found["images_per_second_at_24"].value > 0
    assert found["images_per_second_at_24"].settings["batch_size"] == 64
    if sys.platform == "linux":
        assert 0.05 < found["peak_memory_gib_at_24"].value < 64
    assert list(account.pictures) == ["resolutions.png"]
    with Image.open(tmp_path / "resolutions.png") as picture:
        assert picture.size > (800, 400) and np.asarray(picture.convert("L")).std() > 5


def test_the_native_size_is_among_the_resolutions(classifier, images, tmp_path):
    assert run(classifier, images, tmp_path, "--resolutions", "24") == 0
    names = [name for name in results_of(tmp_path)[1] if name.startswith("accuracy_at_")]
    assert names == ["accuracy_at_16", "accuracy_at_24"]


def test_what_the_figure_shows():
    points = [
        Resolution((size, width), share, of_share(round(50 * share), 50), 50, 100.0 / size, memory)
        for size, width, share, memory in [
            (96, 96, 0.0, 1.0),
            (96, 160, 0.5, 2.0),
            (224, 224, 1.0, 4.0),
        ]
    ]
    figure = draw_resolutions(points, native_hw=(224, 224), device="a test")
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["accuracy (%)", "images a second", "peak memory (GiB)"]
    accuracy = figure.axes[0]
    assert [label.get_text() for label in accuracy.get_xticklabels()] == ["96", "96x160", "224"]
    line = accuracy.lines[1]
    assert line.get_xdata().tolist() == [96, 224] and line.get_ydata().tolist() == [0, 100]
    points[0].peak_memory_gib = None
    assert len(draw_resolutions(points, native_hw=(224, 224), device="a test").axes) == 2


def test_resolutions_are_read_with_commas_and_spaces():
    assert parse_resolutions(["96,128", "64", "96x160", "96"]) == [
        (64, 64), (96, 96), (96, 160), (128, 128),
    ]  # fmt: skip
    for words in (["96,"], ["96x1x2"], ["0"], ["-96"], ["large"]):
        with pytest.raises(ValueError, match="allowed: image sizes such as 96,128 or 96x160"):
            parse_resolutions(words)


def test_label_sets(classifier, images, tmp_path):
    rows = load_images(str(images))["test"]
    sets = [[NAMES[label]] for label in rows["label"]]
    sets[rows["label"][:].index(1)] = [0, "red"]  # the red image that is painted blue
    sets[0] = []
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    assert run(classifier, images, tmp_path, "--label_sets", tmp_path / "sets.json") == 0
    metric = results_of(tmp_path)[1]["label_set_accuracy"]
    assert metric.value == 1.0 and metric.num_images == 11
    assert metric.settings["file"] == "sets.json" and len(metric.settings["sha256"]) == 64


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--metrics", "few_shots"], "few_shots, allowed: .*Did you mean 'few_shot'"),
        (["--shots", "5"], "got --shots without --metrics few_shot"),
        (
            ["--metrics", "knn", "--resolutions", "8"],
            "got --resolutions without --metrics accuracy",
        ),
        (["--metrics", "knn", "--logistic_c", "2"], "got --logistic_c without"),
        (["--metrics", "few_shot", "--shots", "5", "25"], "only 12 of blue, 12 of red; give"),
        (["--metrics", "few_shot", "--shots", "0"], "got --shots 0, allowed"),
        (["--metrics", "few_shot", "--seeds", "1", "1"], "got --seeds 1 1, allowed: different"),
        (["--metrics", "knn", "--split", "train"], "got --split train with a probe"),
        (["--metrics", "knn", "--neighbors", "99"], "got 99 neighbours of 24 training images"),
        (["--resolutions", "big"], "which 'big' is not"),
        (["--resolutions", "2"], "2x2 pixels, smaller than one patch of 4x4"),
    ],
)
def test_mistakes_are_said(classifier, images, tmp_path, words, expected, capsys):
    import re

    assert run(classifier, images, tmp_path, *words) == 2
    assert re.search(expected, capsys.readouterr().err)


def test_a_checkpoint_that_predicts_nothing_names_the_probes(masked, images, tmp_path, capsys):
    assert run(masked, images, tmp_path) == 2
    assert "--metrics few_shot knn" in capsys.readouterr().err


def test_a_checkpoint_without_a_head_names_the_probes(images, tmp_path, capsys):
    model = VisionTransformerForImageClassification(config_of(num_labels=0))
    assert run(saved(model, tmp_path / "headless"), images, tmp_path / "out") == 2
    assert "--metrics few_shot knn" in capsys.readouterr().err


def test_the_account_of_a_training_is_not_replaced(classifier, images, tmp_path, capsys):
    assert run(classifier, images, tmp_path) == 0
    assert run(classifier, images, tmp_path) == 0  # an evaluation's is
    results = json.loads((tmp_path / "results.json").read_text())
    trained = json.dumps({**results, "phases": [{"name": "fine-tuning", "steps": 9}]})
    (tmp_path / "results.json").write_text(trained)
    assert run(classifier, images, tmp_path) == 2
    assert f"give another folder, such as {tmp_path}-evaluated" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == trained


def test_progress_is_shown_unless_it_is_hidden(classifier, images, tmp_path, capsys):
    assert run(classifier, images, tmp_path) == 0
    assert "accuracy on test:" not in capsys.readouterr().err
    flags = ["--model_name_or_path", classifier, "--dataset_name", images, "--use_cpu"]
    assert main(["evaluate", *map(str, flags), "--output_dir", str(tmp_path)]) == 0
    assert "accuracy on test: 100%" in capsys.readouterr().err


@pytest.mark.slow
def test_several_processes_give_what_one_gives(classifier, images, tmp_path):
    words = ["--metrics", "accuracy", "few_shot", "knn", "--shots", 2, "--neighbors", 3]
    words += ["--per_device_eval_batch_size", 5, "--resolutions", "8"]
    assert run(classifier, images, tmp_path / "one", *words) == 0
    words = ["--model_name_or_path", classifier, "--dataset_name", images, *words]
    words += ["--output_dir", tmp_path / "two", "--use_cpu"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, str(ROOT / "scripts/evaluate.py"), *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("least accurate") == 1
    (_, one), (_, two) = results_of(tmp_path / "one"), results_of(tmp_path / "two")
    assert list(one) == list(two)
    for name, metric in one.items():
        if "per_second" not in name and "memory" not in name:
            assert two[name].value == pytest.approx(metric.value, rel=1e-6), name
            assert two[name].by_class == metric.by_class
