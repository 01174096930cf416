# SPDX-License-Identifier: Apache-2.0
"""Which learning rates a sweep trains with, what it keeps of them, and which it chooses."""

import json
import re
from types import SimpleNamespace

import pytest

from vit_hf.cli import main
from vit_hf.experiment import sweep
from vit_hf.training.divergence import NonFiniteLoss

DIVERGES = 1.0  # from this learning rate on


@pytest.fixture
def run(tmp_path, color_folder, monkeypatch):
    """Runs a sweep whose accuracy is twice the learning rate; returns the rates trained with."""
    images = color_folder(tmp_path / "images", per_class=8)

    def sweep_rates(*rates, words=(), folder=images):
        trained = []

        def finetune(model, data, training, *, images, sweep=None):
            trained.append(training.learning_rate)
            if training.learning_rate >= DIVERGES:
                raise NonFiniteLoss("the loss of step 3 is nan")
            accuracy = SimpleNamespace(name="accuracy", value=2 * training.learning_rate)
            return SimpleNamespace(metrics=[accuracy])

        monkeypatch.setattr(sweep, "finetune", finetune)
        flags = ["--model_name_or_path", "x", "--dataset_name", folder, "--use_cpu", "--sweep"]
        flags += ["--output_dir", tmp_path / "out", "--sweep_learning_rates", *rates, *words]
        status = main(["finetune", *map(str, flags)])
        return trained if status == 0 else status

    return sweep_rates


def test_what_is_finished_is_not_run_again(run):
    assert run(0.1, 0.3, 0.2) == [0.1, 0.3, 0.2, 0.3]
    assert run(0.1, 0.4, 0.3, words=["--per_device_eval_batch_size", 2]) == [0.4, 0.4]


def test_rates_that_are_almost_alike_are_two(run):
    assert run(0.1234567, 0.1234568) == [0.1234567, 0.1234568, 0.1234568]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max_steps", 5], "got max_steps=5 .* with max_steps=-1; give another --output_dir"),
        (["--validation_fraction", 0.4], "got validation_fraction=0.4"),
        (["--settings", "pooling=gap"], "got settings="),
        (["--per_device_train_batch_size", 4], "got total_train_batch_size=4 .*=8"),
    ],
)
def test_a_folder_of_another_sweep_is_refused(run, words, said, capsys):
    run(0.1, 0.2)
    assert run(0.1, 0.2, words=words) == 2
    assert re.search(said, capsys.readouterr().err)


def test_other_images_are_refused_wherever_they_lie(run, color_folder, tmp_path, capsys):
    run(0.1, 0.2)
    (tmp_path / "images").rename(tmp_path / "moved")
    assert run(0.1, 0.2, folder=tmp_path / "moved") == [0.2]
    assert run(0.1, folder=color_folder(tmp_path / "others", per_class=9)) == 2
    assert "got images=" in capsys.readouterr().err


def test_a_rate_that_diverges_is_lost_and_the_others_go_on(run, tmp_path, capsys):
    assert run(0.1, 1.0, 0.3) == [0.1, 1.0, 0.3, 0.3]
    assert "learning rate 1.0 is lost: the loss of step 3 is nan" in capsys.readouterr().out
    kept = json.loads((tmp_path / "out" / "sweep" / "1.0" / "candidate.json").read_text())
    assert kept["outcome"] == {"learning_rate": 1.0, "lost": "the loss of step 3 is nan"}
    assert run(0.1, 1.0, 0.3) == [0.3]
    assert run(1.0, 2.0) == 2
    assert "training diverged with each; give smaller ones" in capsys.readouterr().err
