# SPDX-License-Identifier: Apache-2.0
"""The README is true: its Python runs, its commands exist, its first example is eight lines."""

import importlib
import json
import re
from pathlib import Path

import pytest

from vit_hf.cli import VERBS
from vit_hf.recipes import names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = dict(enumerate(re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)))


def test_the_python_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for language, code in BLOCKS.values():
        if language == "python":
            exec(compile(code, "README.md", "exec"), namespace)
    shown = capsys.readouterr().out
    assert "torch.Size([1, 37]) torch.Size([1, 3, 385, 385])" in shown
    assert "Did you mean 'learned_1d'?" in shown


def test_the_first_example_is_eight_lines():
    first = next(code for language, code in BLOCKS.values() if language == "python")
    assert len([line for line in first.splitlines() if line.strip()]) == 8


def flags_of(verb: str) -> set[str]:
    """Returns the flags of a verb, without their dashes."""
    module = importlib.import_module(f"vit_hf.cli.{verb}")
    classes = getattr(module, "argument_classes", lambda: [module.Arguments])()
    return {field for group in classes for field in group.__dataclass_fields__}


def test_its_recipes_exist():
    named = re.findall(r"--recipe ([\w-]+)", README)
    assert named and set(named) <= set(names())


def test_its_commands_exist():
    commands = [
        line
        for language, code in BLOCKS.values()
        if language == "bash"
        for line in code.replace("\\\n", " ").splitlines()
    ]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for command in commands:
        program, *words = command.split("#")[0].split()
        if program == "make":
            assert words[0] in targets
        elif program == "vit-hf":
            assert words[0] in VERBS
            flags = {word[2:] for word in words if word.startswith("--")}
            assert flags <= flags_of(words[0]), command
        elif program == "accelerate":
            files = [word for word in words if word.startswith("scripts/")]
            assert len(files) == 2 and all((ROOT / file).is_file() for file in files)
        else:
            assert program in ("pip", ".venv/bin/python")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_its_links_lead_somewhere(name):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / name).read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("card", ["masked-patch-prediction", "higher-resolution"])
def test_the_figures_of_cifar10_are_those_of_the_results(card):
    path = ROOT / "model_cards" / f"cifar10-{card}" / "results.json"
    runs = json.loads(path.read_text())
    assert len({run["seed"] for run in runs}) == 3
    for control in (False, True):
        values = [
            metric["value"]
            for run in runs
            for metric in run["metrics"]
            if metric["name"] == "accuracy" and (metric["of"] is not None) == control
        ]
        assert len(values) == 3 and f"| {sum(values) / 3:.2%} |" in README


def test_its_figures_are_those_of_the_results():
    results = json.loads((ROOT / "model_cards" / "digits" / "results.json").read_text())
    for metric in results["metrics"][:2]:
        assert metric["name"] == "accuracy" and f"| {metric['value']:.2%} |" in README
    assert f"It took {results['seconds']:.0f} s" in README
    num_images = results["dataset"]["splits"]["test"]
    assert f"on {num_images} test images, seed {results['seed']}" in README
