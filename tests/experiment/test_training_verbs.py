# SPDX-License-Identifier: Apache-2.0
"""`vit-hf pretrain`, `finetune` and `evaluate` as a user runs them, in miniature."""

import json
import re

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from vit_hf.cli import main
from vit_hf.experiment.arguments import ModelArguments
from vit_hf.experiment.models import make_model

TINY = ["hidden_size=32", "num_hidden_layers=2", "num_attention_heads=2", "intermediate_size=64"]
TINY += ["patch_size=4"]
STEPS = ["--use_cpu", "--per_device_train_batch_size", "8", "--learning_rate", "3e-3"]
STEPS += ["--disable_tqdm", "True", "--save_strategy", "no", "--crop_area", "0.5"]


def run(verb, *words):
    return main([verb, *map(str, words)])


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def metric(results, name, split="test"):
    found = [m for m in results["metrics"] if m["name"] == name and m["split"] == split]
    return found[0]["value"]


@pytest.fixture(scope="module")
def images(tmp_path_factory, color_folder):
    return color_folder(tmp_path_factory.mktemp("images") / "colors", per_class=30)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, images):
    """Masked patch prediction without labels, at 16 pixels."""
    folder = tmp_path_factory.mktemp("pretrained")
    words = ["--task", "masked-patch-prediction", "--settings", *TINY, "--image_size", 16]
    words += ["--dataset_name", images, "--output_dir", folder, "--max_steps", 20, *STEPS]
    assert run("pretrain", *words, "--few_shot_steps", 10, "--logging_steps", 5) == 0
    return folder


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, images, pretrained):
    """Fine-tuned at 32 pixels."""
    folder = tmp_path_factory.mktemp("finetuned")
    words = ["--model_name_or_path", pretrained, "--image_size", 32, "--dataset_name", images]
    words += ["--output_dir", folder, "--max_steps", 40, "--validation_fraction", 0.2, *STEPS]
    assert run("finetune", *words) == 0
    return folder


def test_pretraining_leaves_a_checkpoint_with_its_account(pretrained):
    results = results_of(pretrained)
    assert results["task"] == "masked-patch-prediction" and results["phases"][0]["steps"] == 20
    assert 0 < metric(results, "loss") < 7
    config = json.loads((pretrained / "config.json").read_text())
    assert config["architectures"] == ["VisionTransformerForMaskedPatchPrediction"]
    assert config["image_size"] == 16 and (pretrained / "README.md").is_file()


def test_finetuning_starts_from_it_at_twice_the_size(finetuned, pretrained):
    results = results_of(finetuned)
    assert metric(results, "accuracy") == metric(results, "accuracy", "validation") == 1.0
    assert results["dataset"]["splits"] == {"train": 38, "validation": 10, "test": 12}
    assert results["settings"]["model_name_or_path"] == str(pretrained)
    assert results["dataset"]["name"] == "colors" and results["dataset"]["hub_id"] is None
    assert results["model_name"] == f"ViT fine-tuned on colors from {pretrained.name}"
    model = AutoModelForImageClassification.from_pretrained(finetuned)
    assert model.config.grid == (8, 8) and model.config.label2id == {"blue": 0, "red": 1}
    classify = pipeline("image-classification", model=str(finetuned))
    assert classify(Image.new("RGB", (50, 30), (210, 50, 40)))[0]["label"] == "red"


def test_evaluating_gives_what_finetuning_measured(finetuned, images, tmp_path):
    words = ["--model_name_or_path", finetuned, "--dataset_name", images, "--use_cpu"]
    assert run("evaluate", *words, "--output_dir", tmp_path) == 0
    found, expected = results_of(tmp_path), results_of(finetuned)
    assert metric(found, "accuracy") == metric(expected, "accuracy")
    assert metric(found, "loss") == pytest.approx(metric(expected, "loss"), abs=1e-5)
    assert found["dataset"]["splits"]["test"] == 12
    assert found["preprocessing"]["size"] == {"height": 32, "width": 32}


def test_supervised_pretraining_from_scratch(images, tmp_path):
    words = ["--settings", *TINY, "--image_size", 16, "--dataset_name", images]
    words += ["--output_dir", tmp_path, "--max_steps", 30, "--ema_decay", 0.9, *STEPS]
    assert run("pretrain", *words) == 0
    assert metric(results_of(tmp_path), "accuracy") == 1.0


def test_a_recipe_is_told_with_what_was_changed_of_it(images, pretrained, tmp_path, capfd):
    words = ["--recipe", "cifar10-finetune", "--layer_decay", 1, "--settings", "drop_path_rate=0"]
    words += ["--model_name_or_path", pretrained, "--dataset_name", images, "--max_steps", 1]
    words += ["--total_train_batch_size", 8, "--per_device_train_batch_size", 8, "--use_cpu"]
    words += ["--license", "mit", "--save_strategy", "no", "--disable_tqdm", "True"]
    assert run("finetune", *words, "--output_dir", tmp_path) == 0
    changed = json.loads((tmp_path / "recipe.json").read_text())["changed"]
    # The recipe's optimizer, schedule, augmentation and weight decay were left as they are.
    assert changed == {
        "layer_decay": 1.0, "drop_path_rate": 0, "max_steps": 1, "total_train_batch_size": 8
    }  # fmt: skip
    card = (tmp_path / "README.md").read_text()
    assert "`layer_decay` to 1.0" in card and "The weights are under mit." in card
    assert "it/s]" not in capfd.readouterr().err  # no library shows a bar


def test_what_there_is_to_know_of_a_recipe_is_said(images, pretrained, tmp_path, capsys):
    words = ["--recipe", "vit-finetune-pets", "--model_name_or_path", pretrained, "--use_cpu"]
    words += ["--dataset_name", images, "--output_dir", tmp_path, "--image_size", 16]
    words += ["--max_steps", 1, "--total_train_batch_size", 64, "--save_strategy", "no"]
    assert run("finetune", *words) == 0
    said = capsys.readouterr().out
    assert "vit-finetune-pets: 500 of 500 steps are warm-up" in said
    assert "an update takes more images than the 48 there are to train on" in said


@pytest.mark.parametrize("folder", [".", "sweep/0.01"])
@pytest.mark.parametrize("num_checkpoints", [0, 2])
def test_a_run_that_is_stopped_tells_how_to_go_on(
    num_checkpoints, folder, tmp_path, capsys, monkeypatch
):
    def stop(*arguments):
        raise KeyboardInterrupt

    for index in range(num_checkpoints):
        (tmp_path / folder / f"checkpoint-{index + 1}").mkdir(parents=True)
    monkeypatch.setattr("vit_hf.cli.pretrain.run", stop)
    assert run("pretrain", "--output_dir", tmp_path, "--use_cpu") == 130
    advice = (
        f"; the newest checkpoint is {tmp_path / folder / 'checkpoint-2'}, and the same command "
        "with --resume_from_checkpoint last goes on from it"
    )
    assert (
        capsys.readouterr().err == f"\nvit-hf pretrain: stopped{advice * bool(num_checkpoints)}\n"
    )


def test_the_images_say_how_many_classes_there_are(images, tmp_path, capsys):
    words = ["--settings", *TINY, "num_labels=7", "--dataset_name", images, *STEPS]
    assert run("pretrain", *words, "--output_dir", tmp_path) == 2
    said = "got num_labels=7 for images of 2 classes (blue, red), which the head gets; leave"
    assert said in capsys.readouterr().err


def test_unlabelled_images_are_all_trained_on_unless_some_are_held_out(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for index in range(12):
        Image.new("RGB", (16, 16), (20 * index, 0, 0)).save(tmp_path / "images" / f"{index}.png")
    words = ["--task", "masked-patch-prediction", "--settings", *TINY, "--image_size", 16]
    words += ["--dataset_name", tmp_path / "images", "--max_steps", 1, *STEPS]
    assert run("pretrain", *words, "--output_dir", tmp_path / "all") == 0
    assert "no images were held out" in capsys.readouterr().out
    words += ["--validation_fraction", 0.25, "--output_dir", tmp_path / "some"]
    assert run("pretrain", *words) == 0
    assert metric(results_of(tmp_path / "some"), "loss", "validation") > 0


def test_from_scratch_takes_the_architecture_alone(images, pretrained, tmp_path):
    words = ["--model_name_or_path", pretrained, "--from_scratch", "--dataset_name", images]
    words += ["--output_dir", tmp_path, "--max_steps", 1, *STEPS]
    assert run("finetune", *words, "--image_size", 32) == 0
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["hidden_size"] == 32 and found["image_size"] == 32
    assert "from scratch" in results_of(tmp_path)["model_name"]


def test_positions_are_interpolated_or_fresh(pretrained):
    tables = {}
    for fresh in (False, True):
        words = ModelArguments(
            model_name_or_path=str(pretrained), image_size=[32], fresh_positions=fresh
        )
        model = make_model(words, task="image-classification", names=["a", "b"])
        tables[fresh] = model.vit.positions.state_dict()
    assert all(not tables[True][name].equal(tables[False][name]) for name in tables[True])
    assert all(tables[True][name].shape == tables[False][name].shape for name in tables[True])


@pytest.mark.slow
def test_a_sweep_retrains_on_everything_and_reports_on_test(images, pretrained, tmp_path):
    words = ["--model_name_or_path", pretrained, "--dataset_name", images, "--sweep"]
    words += ["--sweep_learning_rates", 0.0, 3e-3, "--max_steps", 25, "--output_dir", tmp_path]
    assert run("finetune", *words, *STEPS) == 0
    results = results_of(tmp_path)
    account = {m["learning_rate"]: m["validation_accuracy"] for m in results["details"]["sweep"]}
    assert account[3e-3] > account[0.0]
    assert results["phases"][0]["learning rate"] == 3e-3
    assert results["dataset"]["splits"] == {"train": 48, "test": 12}
    one = results_of(tmp_path / "sweep" / "0.003")
    assert one["dataset"]["splits"] == {"train": 43, "validation": 5}


def test_unreadable_images_are_skipped_counted_and_named(images, pretrained, tmp_path, capsys):
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(images, folder)
    (folder / "red" / "0.png").write_bytes(b"no image")
    words = ["--model_name_or_path", pretrained, "--dataset_name", folder, "--max_steps", 8]
    assert run("finetune", *words, "--output_dir", tmp_path / "out", *STEPS) == 0
    assert "1 image could not be decoded" in capsys.readouterr().out
    named = (tmp_path / "out" / "bad_images.jsonl").read_text()
    assert named.count("\n") == 1 and "0.png" in named


def test_an_unreadable_test_image_is_wrong_and_has_no_loss(images, pretrained, tmp_path):
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(images, folder / "train")
    shutil.copytree(images, folder / "test")
    (folder / "test" / "red" / "0.png").write_bytes(b"no image")
    words = ["--model_name_or_path", pretrained, "--dataset_name", folder, "--max_steps", 8]
    words += ["--per_device_eval_batch_size", 7]
    assert run("finetune", *words, "--output_dir", tmp_path / "out", *STEPS) == 0
    words = ["--model_name_or_path", tmp_path / "out", "--dataset_name", folder, "--use_cpu"]
    assert run("evaluate", *words, "--output_dir", tmp_path / "evaluated") == 0
    expected, found = results_of(tmp_path / "out"), results_of(tmp_path / "evaluated")
    assert metric(found, "accuracy") == metric(expected, "accuracy") <= 59 / 60
    assert metric(found, "loss") == pytest.approx(metric(expected, "loss"), rel=1e-5)
    for results in (found, expected):
        counts = {part["name"]: part["num_images"] for part in results["metrics"]}
        assert counts["accuracy"] == 60 and counts["loss"] == 59


def test_rows_without_an_image_do_not_cost_the_training(
    encoded_image, pretrained, tmp_path, monkeypatch
):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    images = [{"bytes": encoded_image(index), "path": None} for index in range(40)]
    images[0] = None
    features = Features({"image": ImageColumn(decode=False), "label": ClassLabel(names=["a", "b"])})
    rows = Dataset.from_dict({"image": images, "label": [0, 1] * 20}, features=features)
    (tmp_path / "rows").mkdir()
    rows.to_parquet(tmp_path / "rows" / "train.parquet")
    words = ["--model_name_or_path", pretrained, "--dataset_name", tmp_path / "rows"]
    words += ["--max_steps", 1, "--max_bad_fraction", 0.5, "--output_dir", tmp_path / "out"]
    assert run("finetune", *words, *STEPS) == 0
    assert len(results_of(tmp_path / "out")["dataset"]["fingerprint"]) == 16


def test_what_was_trained_is_exported_whatever_becomes_of_its_evaluation(
    images, pretrained, tmp_path, monkeypatch
):
    def fail(*args):
        raise OSError("no images left to measure on")

    words = ["--model_name_or_path", pretrained, "--dataset_name", images, "--max_steps", 1]
    words += ["--output_dir", tmp_path, *STEPS]
    assert run("finetune", *words) == 0
    (tmp_path / "model.safetensors").unlink()
    monkeypatch.setattr("vit_hf.experiment.finetuning.evaluate_splits", fail)
    assert run("finetune", *words) == 2
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.num_labels == 2
    assert not (tmp_path / "results.json").exists()  # the earlier run's, of other weights


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["finetune", "--max_steps", "1"], "got no --model_name_or_path"),
        (["finetune", "--device", "cuda"], r"got '--device', which is no flag of it\. `--help`"),
        (["finetune", "--recipe", "vit-finetune-cifar"], "Did you mean 'vit-finetune-cifar10"),
        (["finetune", "--recipe", "pets"], "Did you mean 'vit-finetune-pets'"),
        (["pretrain", "--task", "masked"], "Did you mean 'masked-patch-prediction'"),
        (["pretrain", "--hub_strategy", "evry_save"], "Did you mean 'every_save'"),
        (["pretrain", "--lr", "1"], "Did you mean '--learning_rate'"),
        (["pretrain", "--image_size", "32x64"], "height and width are two words: 32 64"),
        (["pretrain", "--image_size", "0"], "got --image_size 0, allowed: 1 pixel or more"),
        (["pretrain", "--report_to", "tensorbord"], "--report_to tensorbord.*'tensorboard'"),
        (["pretrain", "--report_to", "neptune"], "--report_to neptune, which is not installed"),
        (
            ["pretrain", "--optim", "sgd", "--optim_args", "momentm=0.9"],
            "got --optim_args momentm=0.9 for sgd, allowed: momentum=.*Did you mean 'momentum'",
        ),
        (["pretrain", "--lerning_rate", "1"], "Did you mean '--learning_rate'"),
        (
            ["pretrain", "--streaming", "--few_shot_steps", "5", "--max_steps", "5"],
            "few_shot_steps with --streaming",
        ),
        (["pretrain", "--recipe", "vit-finetune-pets"], "which is one of `vit-hf finetune`"),
        (["pretrain", "--settings", "hidden_sise=32"], "hidden_sise.*hidden_size"),
        (["evaluate", "--model_name_or_path", "x", "--mixup_alpha", "1"], "is no flag of it"),
        (["finetune", "--model_name_or_path", "x", "--sweep"], "--sweep without learning rates"),
        (["pretrain", "--total_train_batch_size", "12"], "got total_train_batch_size=12"),
    ],
)
def test_mistakes_are_said(words, expected, capsys, tmp_path):
    place = [] if words[0] == "evaluate" else ["--output_dir", str(tmp_path), "--use_cpu"]
    try:
        status = main([*words, *place])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert re.search(expected, capsys.readouterr().err)


def test_no_words_at_all(capsys):
    assert main(["finetune"]) == 2
    assert "got no --model_name_or_path" in capsys.readouterr().err


def test_dimensions_are_not_those_of_the_checkpoint(images, pretrained, capsys, tmp_path):
    words = ["--model_name_or_path", pretrained, "--dataset_name", images, "--output_dir", tmp_path]
    assert run("finetune", *words, "--use_cpu", "--settings", "hidden_size=64") == 2
    assert "got hidden_size=64, which the weights of" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_that_the_test_images_choose_is_said(images, pretrained, capsys, tmp_path):
    words = ["--model_name_or_path", pretrained, "--dataset_name", images, "--max_steps", 1]
    words += ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", 1, *STEPS]
    words += ["--save_strategy", "steps", "--save_steps", 1]
    for fraction in (0, 0.2):
        folder = tmp_path / str(fraction)
        assert (
            run("finetune", *words, "--output_dir", folder, "--validation_fraction", fraction) == 0
        )
        said = "the test images choose the best checkpoint" in capsys.readouterr().out
        assert said == (fraction == 0)
        assert (folder / "checkpoint-1").is_dir() and not (folder / ".saving").exists()


def test_what_lies_in_the_folder_is_said_and_a_card_by_hand_is_kept(
    images, pretrained, capsys, tmp_path
):
    (tmp_path / "README.md").write_text("Mine.\n")
    words = ["--model_name_or_path", pretrained, "--dataset_name", images, "--max_steps", 1]
    words += ["--output_dir", tmp_path, *STEPS]
    assert run("finetune", *words) == 0
    shown = capsys.readouterr().out
    assert f"16x16 pixels, images of {images}" in shown and "an earlier run" not in shown
    assert "README.md was written by hand and stays" in shown
    assert (tmp_path / "README.md").read_text() == "Mine.\n"
    (tmp_path / "README.md").unlink()
    assert run("finetune", *words) == 0
    assert f"{tmp_path} holds an earlier run, which this one replaces" in capsys.readouterr().out
    assert "Rendered by vit_hf" in (tmp_path / "README.md").read_text()


def test_checkpoints_of_two_runs_are_not_mixed(images, pretrained, capsys, tmp_path):
    words = ["--model_name_or_path", pretrained, "--dataset_name", images, *STEPS]
    words += ["--output_dir", tmp_path, "--save_strategy", "steps", "--save_steps", 1]
    assert run("finetune", *words, "--max_steps", 3) == 0
    before = (tmp_path / "model.safetensors").read_bytes()
    capsys.readouterr()
    for further, expected in [
        (["--max_steps", 2], r"holds checkpoints.* checkpoint-3; .*--resume_from_checkpoint last"),
        (["--max_steps", 2, "--resume_from_checkpoint", "last"], "of step 3 .*in a run of 2 steps"),
        (["--num_train_epochs", 0.2, "--resume_from_checkpoint", "last"], "in a run of 2 steps"),
    ]:
        assert run("finetune", *words, *further) == 2
        assert re.search(expected, capsys.readouterr().err)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert results_of(tmp_path)["phases"][0]["steps"] == 3
    assert run("finetune", *words, "--max_steps", 4, "--resume_from_checkpoint", "last") == 0


def test_what_a_run_starts_from_is_not_written_to(images, pretrained, capsys, tmp_path):
    words = ["--model_name_or_path", pretrained, "--dataset_name", images, *STEPS]
    assert run("finetune", *words, "--output_dir", pretrained) == 2
    assert "which would be overwritten; give another" in capsys.readouterr().err
    for folder in (images, images / "red" / "out"):
        assert run("finetune", *words, "--output_dir", folder) == 2
        assert "to which it would belong; give a folder outside" in capsys.readouterr().err
