# SPDX-License-Identifier: Apache-2.0
"""The README's table of benchmarks is what the JSON files say."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
specification = importlib.util.spec_from_file_location(
    "render_benchmarks", ROOT / "scripts" / "render_benchmarks.py"
)
script = importlib.util.module_from_spec(specification)
specification.loader.exec_module(script)


def test_the_readme_has_the_results():
    text = (ROOT / "README.md").read_text()
    if script.START not in text:
        pytest.skip("the README has no table of benchmarks")
    assert script.placed(text, script.render(ROOT / "benchmarks")) == text


def test_a_table(tiny_results, tmp_path):
    results = copy.deepcopy(tiny_results)
    results["peers"]["transformers"]["ratio"] = {"median": 1.25, "spread": [1.2, 1.3]}
    results["ours"]["limit_share"] = 0.5
    (tmp_path / "one.json").write_text(json.dumps(results))
    table = script.render(tmp_path)
    assert "| model tiny infer float32, 16 px, batch 2 |" in table
    assert "| transformers 1.25 (1.20 to 1.30) | 50% |" in table
    text = f"before\n{script.START}\nold\n{script.END}\nafter"
    placed = script.placed(text, table)
    assert table in placed and "old" not in placed and placed.startswith("before\n")
    assert script.placed(placed, table) == placed
    with pytest.raises(ValueError, match="got a README without the lines"):
        script.placed("nothing", table)
