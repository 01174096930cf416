# SPDX-License-Identifier: Apache-2.0
"""What `results.json` holds: the account of a run, from which its model card is rendered.

The file is one object, or a list of them where a run was repeated with other seeds; the first is
the run whose weights lie in the same folder.
"""

import difflib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

Number = float | int


@strict
@dataclass(kw_only=True)
class Images:
    """The images of a run.

    Args:
        name: what they are called.
        splits: how many images each split has, `{"train": 45000, "validation": 5000}`.
        hub_id: their id on the Hub, `None` where they are not from there.
        fingerprint: what tells the training images from others of the same name.
        fingerprints: the same for each split; a metric's is that of its split.
    """

    name: str
    splits: dict[str, int]
    hub_id: str | None = None
    fingerprint: str | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)


@strict
@dataclass(kw_only=True)
class Metric:
    """A number that was measured.

    Args:
        name: `"accuracy"`, `"top5_accuracy"`, `"few_shot_5_accuracy"`, `"loss"`, ...
        split: the split that it was measured on.
        value: the number; accuracies are shares, not percent.
        num_images: on how many images.
        confidence_interval: its ends at 95 %, `None` where it was not worked out.
        of: what was measured, where it is not the model itself: `"the same network from scratch"`.
        interval_method: how the interval was found: `"Wilson score, over images"`.
        seeds: where it is a mean over draws of its own, their seeds; else the run's seed holds.
        values: the number of each of these seeds.
        by_class: the same of each class alone, by its name: `{"cat": {"value": 0.5, "num_images":
            2, "confidence_interval": [0.09, 0.91]}}`.
        settings: what it was measured with: `{"shots": 5, "l2": 1024}`.
    """

    name: str
    split: str
    value: Number
    num_images: int
    confidence_interval: list[Number] | None = None
    of: str | None = None
    interval_method: str | None = None
    seeds: list[int] | None = None
    values: list[Number] | None = None
    by_class: dict[str, dict[str, Any]] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@strict
@dataclass(kw_only=True)
class Run:
    """A run: what was trained, on what, how, and what came of it.

    Args:
        model_name: the title of the card.
        task: what was trained.
        dataset: its images.
        metrics: what was measured, the model's own numbers and those of its controls.
        command: the exact command, see `command_line`.
        seed: its seed.
        versions: of the packages, by name.
        seconds: how long it took.
        settings: every flag and its value.
        recipe: the name of its recipe, whose content is `recipe.json` beside it.
        phases: what was done one after the other, in free words:
            `{"name": "fine-tuning", "steps": 900, "image size": 32, "learning rate": 1e-3}`.
        base_model: the checkpoint that it started from, as it was named; its licence holds.
        base_model_hub_id: its id on the Hub, `None` where it is not from there.
        pictures: captions of pictures in the folder, by file name.
        preprocessing: what was made of each image before it was measured: the settings of the image
            processor, and the type that the model computed in.
        details: anything else; kept, and but for `sweep`, the learning rates that were tried, not
            told in the card.
    """

    model_name: str
    task: Literal["image-classification", "masked-patch-prediction", "image-feature-extraction"]
    dataset: Images
    metrics: list[Metric]
    command: str
    seed: int
    versions: dict[str, str]
    seconds: Number
    settings: dict[str, Any]
    recipe: str | None = None
    phases: list[dict[str, Any]] = field(default_factory=list)
    base_model: str | None = None
    base_model_hub_id: str | None = None
    pictures: dict[str, str] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def command_line(words: Sequence[str]) -> str:
    """Returns a command as it is told to others: quoted, its tokens left out."""
    told = []
    for before, word in zip(["", *words], words, strict=False):
        flag, _, value = word.partition("=")
        if before.startswith("--") and before.endswith("token"):
            told.append("TOKEN")
        elif flag.startswith("--") and flag.endswith("token") and value:
            told.append(f"{flag}=TOKEN")
        else:
            told.append(word)
    return shlex.join(told)


def write_runs(runs: Sequence[Run], path) -> Path:
    """Writes a `results.json` of one run, or of several; returns its path."""
    entries = [asdict(run) for run in runs]
    path = Path(path)
    content = entries[0] if len(entries) == 1 else entries
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def read_runs(path) -> list[Run]:
    """Reads a `results.json`.

    Raises:
        ValueError: for what is no account of a run, by the name of the entry.
    """
    try:
        return parse_runs(json.loads(Path(path).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_runs(content: Mapping | Sequence[Mapping]) -> list[Run]:
    """Returns the runs that the content of a `results.json` tells of, see `read_runs`."""
    several = [content] if isinstance(content, Mapping) else list(content)
    if not several:
        raise ValueError("got no run, expected an object or a list of them")
    return [parse_run(entries) for entries in several]


def parse_run(entries: Mapping) -> Run:
    """Returns the run that one object tells of."""
    run = dict(checked(entries, Run, where="the run"))
    run["dataset"] = build(Images, run["dataset"], where="dataset")
    if not isinstance(run["metrics"], list):
        raise ValueError(f"got metrics={run['metrics']!r}, expected a list of objects")
    run["metrics"] = [
        build(Metric, metric, where=f"metrics[{index}]")
        for index, metric in enumerate(run["metrics"])
    ]
    return build(Run, run, where="the run")


def build(kind: type, entries, *, where: str):
    """Builds one of the classes above."""
    try:
        return kind(**checked(entries, kind, where=where))
    except StrictDataclassError as error:
        raise ValueError(f"{where}: {error.__cause__ or error}") from error


def checked(entries, kind: type, *, where: str) -> Mapping:
    """Returns the entries of an object, which has all that it needs and nothing unknown."""
    if not isinstance(entries, Mapping):
        raise ValueError(f"got {entries!r} for {where}, expected an object")
    allowed = [entry.name for entry in fields(kind)]
    needed = [
        entry.name
        for entry in fields(kind)
        if entry.default is MISSING and entry.default_factory is MISSING
    ]
    missing = [name for name in needed if name not in entries]
    unknown = [name for name in entries if name not in allowed]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; it has {', '.join(entries)}")
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], allowed, n=1)
        raise ValueError(
            f"{where} has the entry {unknown[0]!r}, allowed: {', '.join(allowed)}."
            + (f" Did you mean {nearest[0]!r}?" if nearest else "")
        )
    return entries
