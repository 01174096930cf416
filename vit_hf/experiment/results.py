# SPDX-License-Identifier: Apache-2.0
"""The account of a run for `results.json`, from which cards and tables are rendered."""

import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from ..data.fingerprint import fingerprint
from ..hub.results import Images, Metric, Run, command_line

VERSIONS_OF = ("vit_hf", "transformers", "torch", "datasets", "accelerate", "huggingface-hub")
DIGITS = "scikit-learn digits"  # what is used where no dataset is named


def account(*, dataset_name: str | None, images, seed: int, settings: list, **entries: Any) -> Run:
    """Makes the account of a run.

    Args:
        dataset_name: what was given for it.
        images: the splits.
        seed: of the run.
        settings: the dataclasses of its flags; those of transformers are told by the command.
        **entries: the other entries of `Run`, its metrics among them.
    """
    dataset = Images(
        name=dataset_name or DIGITS,
        splits={name: len(rows) for name, rows in images.items() if hasattr(rows, "__len__")},
        hub_id=dataset_name if is_hub_id(dataset_name) else None,
        fingerprint=fingerprint(images["train"]),
    )
    return Run(
        dataset=dataset,
        seed=seed,
        settings={name: value for part in settings for name, value in asdict(part).items()},
        command=command_line([Path(sys.argv[0]).name, *sys.argv[1:]]),
        versions={name: version(name) for name in VERSIONS_OF},
        **entries,
    )


def is_hub_id(name: str | None) -> bool:
    """Whether what a user named is on the Hub, and not on this machine."""
    return name is not None and not Path(name).expanduser().exists()


def measured(
    name: str, value: float, *, split: str, num_images: int, of: str | None = None
) -> Metric:
    """Makes an entry of `metrics`; an accuracy comes with its 95 % confidence interval (Wilson)."""
    interval = None
    if name.endswith("accuracy"):
        found = binomtest(round(value * num_images), num_images).proportion_ci(method="wilson")
        interval = [float(found.low), float(found.high)]
    return Metric(
        name=name,
        split=split,
        value=float(value),
        num_images=num_images,
        confidence_interval=interval,
        of=of,
    )


def write_json(entries: Any, path: Path) -> Path:
    """Writes a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=2) + "\n")
    return path
