# SPDX-License-Identifier: Apache-2.0
"""The figures of docs/planning.md are those that the code computes."""

import re
from pathlib import Path

import pytest

from vit_hf import VisionTransformerConfig
from vit_hf.planning import DEFAULT_UTILISATION, DEVICES, images_seen, training_flops
from vit_hf.recipes import get, names

TEXT = (Path(__file__).parents[2] / "docs" / "planning.md").read_text()
TABLE_6 = re.findall(r"^\| `(vit[\w-]+|r50[\w-]+)` \| (\d+) \| ([\d.]+) \|$", TEXT, flags=re.M)
CORE_DAYS = re.findall(r"^\| `(vit[\w-]+)` \| (\d+) \| (\d+) \| (\d+) % \|$", TEXT, flags=re.M)


def flops_of(name: str) -> int:
    recipe = get(name)
    config = VisionTransformerConfig(**recipe.model, num_labels=recipe.dataset.num_classes)
    num_images = images_seen(recipe.arguments, dataset_size=recipe.dataset.num_images)
    return training_flops(config, num_images=num_images)


@pytest.mark.slow
def test_table_6_side_by_side():
    assert len(TABLE_6) == 10 and {name for name, *_ in TABLE_6} <= set(names())
    for name, paper, ours in TABLE_6:
        assert f"{flops_of(name) / 1e18:.4g}" == ours
        assert float(ours) == pytest.approx(float(paper), rel=0.03)


@pytest.mark.slow
def test_core_days_side_by_side():
    peak = DEVICES["tpu-v3-core"].half_flops
    assert len(CORE_DAYS) == 3
    for name, paper, ours, utilisation in CORE_DAYS:
        core_days = flops_of(name) / (peak * 86400)
        assert round(core_days / DEFAULT_UTILISATION) == int(ours)
        assert round(100 * core_days / float(paper)) == int(utilisation)


def test_every_device_is_named():
    assert all(f"`{name}`" in TEXT for name in DEVICES)
