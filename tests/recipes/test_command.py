# SPDX-License-Identifier: Apache-2.0
"""`vit-hf recipes`: the list, one recipe, JSON."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vit_hf.cli import main
from vit_hf.cli import recipes as verb
from vit_hf.recipes import get, names

ROOT = Path(__file__).parents[2]


def show(capsys, *words: str) -> str:
    """Runs the verb and returns what it prints."""
    assert main(["recipes", *words]) == 0
    return capsys.readouterr().out


def test_the_list_is_whole_and_grouped(capsys):
    groups = [group.splitlines() for group in show(capsys).strip().split("\n\n")]
    listed = {line.split()[0]: lines[0] for lines in groups[:-1] for line in lines[1:]}
    assert listed == {name: get(name).table for name in names()}
    tables = [lines[0] for lines in groups[:-1]]
    assert len(tables) == len(set(tables))
    for lines in groups[:-1]:
        for line in lines[1:]:
            assert line.endswith(get(line.split()[0]).description)


def test_the_list_loads_no_torch():
    code = (
        "import sys, types\n"
        "package = types.ModuleType('vit_hf'); package.__path__ = ['vit_hf']\n"
        "sys.modules['vit_hf'] = package  # the folder alone, as for --help\n"
        "from vit_hf.cli import main\n"
        "for words in (['recipes'], ['recipes', '--json']): assert main(words) == 0\n"
        "assert not {'torch', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", names())
def test_every_setting_has_a_source(name):
    recipe = get(name)
    for values in (recipe.model, recipe.arguments):
        lines = verb.settings(values, recipe)
        shown = [re.fullmatch(r"(\w+) +(.+?) +\[(.+)\]", line).groups() for line in lines]
        assert [(key, json.loads(value)) for key, value, _ in shown] == list(values.items())
        assert [said for *_, said in shown] == [recipe.notes.get(key, "the row") for key in values]


@pytest.mark.parametrize(
    "name", ["vit-b32-jft300m", "vit-finetune-pets", "augreg-ti16-imagenet", "cifar10-finetune"]
)
def test_one_recipe_says_everything(name, capsys):
    recipe, shown = get(name), show(capsys, name)
    assert shown.startswith(f"{name}\n{recipe.description}\n\nsource\n  {recipe.source}\n")
    lines = {line.strip() for line in shown.splitlines()}
    for values in (recipe.model, recipe.arguments, recipe.starts_from or {}):
        assert lines >= set(verb.settings(values, recipe))
    assert lines >= {verb.command(recipe, launcher="vit-hf {script}")}
    assert lines >= {verb.command(recipe, launcher="accelerate launch scripts/{script}.py")}
    assert lines >= set(recipe.remarks)
    for result in recipe.expected or ():
        assert f"{result.value:g}  {result.metric} [{result.source}]" in lines
    assert ("the source states no result" in lines) == (recipe.expected is None)


@pytest.mark.parametrize("name", names())
def test_its_commands(name):
    recipe = get(name)
    alone = shlex.split(verb.command(recipe, launcher="vit-hf {script}"))
    finetuning = recipe.task == "finetune"
    assert alone[:2] == ["vit-hf", "finetune" if finetuning else "pretrain"]
    flags = dict(zip(alone[2::2], alone[3::2], strict=True))
    assert flags["--recipe"] == name
    assert ("--model_name_or_path" in flags) == finetuning
    assert {"--dataset_name", "--output_dir"} <= set(flags)


def test_costs(capsys):
    assert "cost\n  223.7 exaFLOPs: 3 x 35.16 GFLOPs" in show(capsys, "vit-b16-jft300m")
    swept = show(capsys, "vit-finetune-imagenet")
    assert "10,240,000 images seen; the sweep of 4 rates and the final run, 5 times" in swept
    assert "sweep" not in show(capsys, "vit-finetune-vtab").split("\ncost\n")[-1]


def test_json(capsys):
    everything = json.loads(show(capsys, "--json"))
    assert [each["name"] for each in everything] == names()
    for shown in everything:
        recipe = get(shown["name"])
        assert {key: shown[key] for key in recipe.arguments} == recipe.arguments
        assert shown["source"] == recipe.source and shown["task"] == recipe.task
        assert shown["dataset"]["num_images"] == recipe.dataset.num_images
        stated = [result["value"] for result in shown["expected"] or ()]
        assert stated == [result.value for result in recipe.expected or ()]
        own = {"name", "source", "task", "table", "row", "description", "model", "dataset"}
        own |= {"expected", "starts_from", "notes", "remarks"}
        assert set(shown) == own | set(recipe.arguments) and not own & set(recipe.arguments)
    one = json.loads(show(capsys, "vit-h14-jft300m", "--json"))
    assert one == next(each for each in everything if each["name"] == "vit-h14-jft300m")


def test_a_name_that_is_no_recipe(capsys):
    for words in (["deit-s16-imagene"], ["deit-s16-imagene", "--json"]):
        assert main(["recipes", *words]) == 2
        shown = capsys.readouterr()
        assert "Did you mean 'deit-s16-imagenet'" in shown.err and not shown.out
