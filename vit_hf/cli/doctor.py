# SPDX-License-Identifier: Apache-2.0
"""Examine a dataset before training on it: classes, sizes, kinds of files, unreadable files, and
images that are there twice, above all in several splits.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("same", "near")  # of copies


@dataclass
class Arguments:
    """The arguments of `vit-hf doctor`."""

    dataset_name: str = field(
        init=False,
        metadata={
            "word": None,
            "help": "A Hub dataset, or a folder of class folders, parquet or WebDataset shards.",
        },
    )
    json: str | None = field(
        default=None, metadata={"help": "File for the whole report, with every image named."}
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Image column, where there are several."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Label column, where there are several."}
    )
    patch_size: int = field(
        default=16, metadata={"help": "Pixels a side of a patch; smaller images are reported."}
    )
    similarity: float = field(
        default=0.95,
        metadata={
            "help": "Of near copies, from 0 to 1; higher for drawings and digits, which look alike."
        },
    )
    streaming: bool = field(
        default=False, metadata={"help": "Reads shards as they come, without a copy in the cache."}
    )
    num_workers: int = field(default=0, metadata={"help": "Further processes that read images."})


def run(arguments: Arguments) -> int:
    """Examines a dataset; returns the exit status: 1 where images cannot be read, or copies lie in
    several splits.
    """
    from ..data.doctor import examine

    report = examine(
        arguments.dataset_name,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        patch_size=arguments.patch_size,
        similarity=arguments.similarity,
        streaming=arguments.streaming,
        num_workers=arguments.num_workers,
    )
    folder = os.path.abspath(Path(arguments.dataset_name).expanduser())
    for line in lines_of(report):
        print(line.replace(f"{folder}/", ""))
    if arguments.json is not None:
        path = Path(arguments.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n")
        print(f"\nwrote {path}, with every image named")
    return 0 if report["is_sound"] else 1


def lines_of(report: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of a report."""
    yield f"{'split':12}{'images':>9}{'classes':>9}  images a class"
    for name, split in report["splits"].items():
        counts = split["num_by_class"]
        spread = f"{min(counts.values())} to {max(counts.values())}" if counts else "-"
        yield f"{name:12}{split['num_images']:9}{len(counts):9}  {spread}"
    yield ""
    for name, spread in report["sizes"].items():
        if spread is not None:
            least, middle, largest = (f"{spread[key]:g}" for key in ("least", "median", "largest"))
            yield f"{name.replace('_', ' '):14}{least} to {largest} pixels, median {middle}"
    for name in ("modes", "formats", "orientations"):
        counts = ", ".join(f"{value} {count}" for value, count in report[name].items())
        yield f"{name:14}{counts or '-'}"
    same, near = (sum(copies["kind"] == kind for copies in report["copies"]) for kind in KINDS)
    yield (
        f"{'copies':14}groups of the same pixels {same}, of near copies {near} (similarity "
        f"{report['similarity']:g})"
    )
    yield ""
    for finding in report["findings"]:
        yield f"{finding['level']}: {finding['found']}"
        yield f"    do: {finding['advice']}"
    yield "sound" if report["is_sound"] else "not sound: see the errors"
