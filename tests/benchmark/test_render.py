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
    results["options"]["compile"] = True
    (tmp_path / "one.json").write_text(json.dumps(results))
    assert "16 px, batch 2, compiled where that is faster |" in script.render(tmp_path)


def test_growing_cost_and_the_import_have_rows_of_their_own(tiny_results, tmp_path):
    for side, speed in ((32, 50.0), (16, 200.0)):
        results = copy.deepcopy(tiny_results)
        results["options"]["image_size"] = side
        results["ours"]["images_per_second"] = speed
        results["limits"]["matrix_products"]["flops_per_image"] = side * 1e9
        (tmp_path / f"{side}.json").write_text(json.dumps(results))
    (tmp_path / script.IMPORT).write_text(
        json.dumps({"ratio": {"median": 1.05, "spread": [1.04, 1.06]}})
    )
    table = script.render(tmp_path)
    rows = [line for line in table.splitlines() if line.startswith("| tiny infer float32, batch 2")]
    assert rows == [
        "| tiny infer float32, batch 2 | 16 | 200 | 16.0 | 3200 |",
        "| tiny infer float32, batch 2 | 32 | 50 | 32.0 | 1600 |",
    ]
    assert "takes 1.05 (1.04 to 1.06) of the time" in table
    (tmp_path / "32.json").unlink()
    assert "pixels a side" not in script.render(tmp_path)


def test_the_largest_batches_have_a_line(tiny_results, tmp_path):
    results = copy.deepcopy(tiny_results)
    results["options"]["gradient_checkpointing"] = True
    results["ours"]["largest_batch_size"] = 30
    results["peers"]["transformers"]["largest_batch_size"] = 20
    (tmp_path / "one.json").write_text(json.dumps(results))
    assert script.render(tmp_path).splitlines()[-1] == (
        "In training 30 images of tiny at 16 pixels fit at once, 20 with transformers (ours are "
        "1.50 times as many)."
    )
    assert "batch 2, gradient checkpointing |" in script.render(tmp_path)


def test_training_in_float8_has_a_line(tiny_results, tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(tiny_results))
    results = {
        "model": "H/14",
        "ratio": {"median": 1.2, "spread": [1.1, 1.3]},
        "losses": {"float8": [9.0] + [2.0] * 12, "bfloat16": [9.0] + [1.5] * 12},
        "machine": {"device": "a GPU"},
    }
    (tmp_path / script.FLOAT8).write_text(json.dumps(results))
    line = script.render(tmp_path).splitlines()[-1]
    assert line == (
        "H/14 trains in float8 at 1.20 (1.10 to 1.30) of its speed in bfloat16 on one a GPU; after "
        "13 updates on the same batches the loss is 2.000, in bfloat16 1.500."
    )
