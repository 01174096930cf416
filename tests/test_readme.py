# SPDX-License-Identifier: Apache-2.0
"""The README is true: its Python runs, its commands exist, its first example is eight lines."""

import json
import re
from pathlib import Path

import pytest

from vit_hf.cli import VERBS

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


def test_its_commands_exist():
    commands = [
        line
        for language, code in BLOCKS.values()
        if language == "bash"
        for line in code.splitlines()
    ]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for command in commands:
        program, *words = command.split("#")[0].split()
        if program == "make":
            assert words[0] in targets
        elif program == "vit-hf":
            assert words[0] in VERBS
            module = pytest.importorskip(f"vit_hf.cli.{words[0]}")
            flags = {word[2:] for word in words if word.startswith("--")}
            assert flags <= set(module.Arguments.__dataclass_fields__), command
        else:
            assert program in ("pip", ".venv/bin/python")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_its_links_lead_somewhere(name):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / name).read_text()):
        assert (ROOT / target).exists(), target


def test_its_figures_are_those_of_the_results():
    results = json.loads((ROOT / "model_cards" / "digits" / "results.json").read_text())
    for figure in (results["accuracy"], results["accuracy_from_scratch"]):
        assert f"| {figure:.2%} |" in README
    assert f"It took {results['seconds']:.0f} s" in README
    assert f"on {results['num_test_images']} test images, seed {results['seed']}" in README
