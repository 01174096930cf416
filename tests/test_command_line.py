# SPDX-License-Identifier: Apache-2.0
"""The command line: help at once, and the nearest word for one that is not understood."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from vit_hf.cli import VERBS, main

COMMAND = [str(Path(sys.executable).with_name("vit-hf"))]


TRAINING = ("pretrain", "finetune")  # whose flags are transformers' own, which load torch
LIGHT = [verb for verb in VERBS if verb not in TRAINING]


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["recipes"], *([verb, "--help"] for verb in LIGHT)]
)
def test_help_loads_no_torch(words):
    code = (
        "import sys; sys.argv = ['vit-hf', *sys.argv[1:]]; import vit_hf_command\n"
        "try: vit_hf_command.main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'datasets' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_help_tells_the_defaults_that_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "--help"])
    shown = capsys.readouterr().out
    assert "(default: False)" in shown and "default: None" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("verb", TRAINING)
def test_help_of_training_lists_all_flags(verb):
    shown = subprocess.run([*COMMAND, verb, "--help"], capture_output=True, text=True, check=True)
    for flag in ("--recipe", "--learning_rate", "--ema_decay", "--mixup_alpha", "--push_to_hub"):
        assert flag in shown.stdout


def test_help_answers_at_once():
    started = time.perf_counter()
    shown = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True).stdout
    assert time.perf_counter() - started < 2
    assert all(verb in shown for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["quikstart"], "got the verb 'quikstart', allowed: .*Did you mean 'quickstart'"),
        (["quickstart", "--output_dri", "x"], "got '--output_dri'.*Did you mean '--output_dir'"),
        (["quickstart", "--output", "x"], "got '--output'"),  # no silent abbreviations
        (["quickstart", "--seed", "one"], "invalid int value: 'one'"),
    ],
)
def test_words_that_are_not_understood(words, expected, capsys):
    try:
        status = main(words)
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    import re

    assert re.search(expected, capsys.readouterr().err)


def test_bad_input_is_one_line_not_a_traceback(tmp_path, capsys):
    assert (
        main(
            [
                "quickstart",
                "--dataset_name",
                str(tmp_path / "nowhere"),
                "--output_dir",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    said = (
        "is no folder; give a folder of images (with a folder per class where labels are needed), "
        "or a Hub id"
    )
    assert said in capsys.readouterr().err
