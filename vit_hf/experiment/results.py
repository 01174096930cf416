# SPDX-License-Identifier: Apache-2.0
"""The account of a run for `results.json`, from which cards and tables are rendered."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..data.fingerprint import fingerprint
from ..evaluation.intervals import Interval, of_share
from ..hub.measures import Measure, show
from ..hub.results import Images, Metric, Run, command_line

VERSIONS_OF = (
    "vit_hf", "transformers", "torch", "datasets", "accelerate", "huggingface-hub", "scikit-learn",
)  # fmt: skip
DIGITS = "scikit-learn digits"  # what is used where no dataset is named

# Names of `results.json` that read oddly as they are. Speed and memory are not those of a split.
WORDS = {
    r"few_shot_(\d+)_accuracy": r"\1-shot accuracy on {split}",
    r"knn_accuracy": "kNN accuracy on {split}",
    r"accuracy_at_(\w+)": r"accuracy at \1 pixels on {split}",
    r"images_per_second_at_(\w+)": r"images a second at \1 pixels",
    r"peak_memory_gib_at_(\w+)": r"peak memory at \1 pixels, GiB",
}


def account(*, dataset_name: str | None, images, seed: int, settings: list, **entries: Any) -> Run:
    """Makes the account of a run.

    Args:
        dataset_name: what was given for it.
        images: the splits.
        seed: of the run.
        settings: the dataclasses of its flags; those of transformers are told by the command.
        **entries: the other entries of `Run`, its metrics among them.
    """
    found = {name: fingerprint(rows) for name, rows in images.items()}
    dataset = Images(
        name=called(dataset_name),
        splits={name: len(rows) for name, rows in images.items() if hasattr(rows, "__len__")},
        hub_id=hub_id_of(dataset_name),
        fingerprint=found["train"],
        fingerprints={name: digits for name, digits in found.items() if digits is not None},
    )
    return Run(
        dataset=dataset,
        seed=seed,
        settings={name: value for part in settings for name, value in asdict(part).items()},
        command=command_line([Path(sys.argv[0]).name, *sys.argv[1:]]),
        versions={name: version(name) for name in VERSIONS_OF},
        **entries,
    )


def hub_id_of(name: str | None) -> str | None:
    """Returns the id on the Hub of what a user named, without a dataset's configuration
    (`id:configuration`); `None` for what is on this machine, a pattern or an address.
    """
    if name is None or "://" in name or Path(name).expanduser().exists():
        return None
    hub_id = name.partition(":")[0]
    try:
        validate_repo_id(hub_id)
    except HFValidationError:
        return None
    return hub_id


def called(name: str | None) -> str:
    """Returns what a dataset, or a checkpoint, is called in a card: its id on the Hub, its address,
    or the name of its own folder or file, without the folders of this machine that it lies in.
    """
    if name is None:
        return DIGITS
    if "://" in name:
        return name
    path = Path(name).expanduser()
    path = path.parent if "*" in path.name else path
    return hub_id_of(name) or path.resolve().name


def measured(
    name: str,
    value: float,
    *,
    split: str,
    num_images: int,
    interval: Interval | None = None,
    **entries: Any,
) -> Metric:
    """Makes an entry of `metrics`.

    Args:
        name: of the metric.
        value: the number.
        split: that it was measured on.
        num_images: on how many images.
        interval: at 95 %; an accuracy without one gets that of a share of the images (Wilson).
        **entries: the other entries of `Metric`.
    """
    if interval is None and name.endswith("accuracy"):
        interval = of_share(round(value * num_images), num_images)
    return Metric(
        name=name,
        split=split,
        value=float(value),
        num_images=num_images,
        confidence_interval=None if interval is None else [interval.low, interval.high],
        interval_method=None if interval is None else interval.method,
        **entries,
    )


def words_of(metric: Metric) -> str:
    """Returns what was measured, in words for the table: "5-shot accuracy on test"."""
    for pattern, words in WORDS.items():
        if found := re.fullmatch(pattern, metric.name):
            return found.expand(words).format(split=metric.split)
    return Measure.title(metric)


def table_of(metrics: Sequence[Metric]) -> str:
    """Returns metrics as a table to read: what, its value, 95 % interval, of how many images."""
    rows = [("metric", "value", "95 % interval", "images")]
    for metric in metrics:
        ends = [show(end, metric.name) for end in metric.confidence_interval or ()]
        value = show(metric.value, metric.name)
        rows.append((words_of(metric), value, " to ".join(ends), f"{metric.num_images:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def write_json(entries: Any, path: Path) -> Path:
    """Writes a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=2) + "\n")
    return path
