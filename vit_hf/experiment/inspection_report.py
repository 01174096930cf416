# SPDX-License-Identifier: Apache-2.0
"""The report of an inspection: predictions, figures, configuration, results, passport."""

import json
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedConfig

from .. import VisionTransformerConfig
from ..converters.loading import Loaded
from ..converters.recognition import folder_of, read_json
from ..hub.measures import summarise
from ..hub.reopening import digest
from ..hub.results import read_runs
from ..inspection.overlays import as_picture
from ..inspection.report import (
    Panel,
    command,
    figure,
    paragraph,
    photos,
    prediction,
    render_report,
    table,
)
from ..version import __version__
from .inspection_subject import Subject

TOP = 5  # classes of each photo
# Of the configuration, what says nothing about the model, or is told in other rows.
UNTOLD = ("source_layout", "image_size", "patch_size", "num_channels")


def write_report(
    source: str, loaded: Loaded, subject: Subject, panels: list[Panel], processor
) -> str:
    """Returns the report as HTML."""
    folder = folder_of(loaded.path)
    results, name = results_section(folder)
    introduction = paragraph(f"Recognised: {loaded.recognised}.")
    introduction += "".join(paragraph(change, kind="note") for change in loaded.changes)
    introduction += paragraph(f"{source}, looked at with vit_hf {__version__}.", kind="soft")
    return render_report(
        name or Path(source).resolve().name,
        introduction=introduction,
        sections={
            "Predictions": predictions_section(subject),
            "Figures": "\n".join(figure(panel) for panel in panels),
            "Configuration": configuration_section(subject.model, processor),
            "Results": results,
            "Passport": passport_section(folder, loaded),
        },
    )


def predictions_section(subject: Subject) -> str:
    """Returns the likeliest classes of each photo, or why there are none."""
    model, config = subject.model, subject.model.config
    head = getattr(model, "classifier", None)
    reason = ""
    if head is None:
        reason = f"{type(model).__name__} has no classes."
    elif not config.num_labels:
        reason = "The classification head was taken off."
    elif config.pooling == "none":
        reason = "The model predicts every token, not the image."
    elif not head.weight.any():
        reason = "The classification head is all zeros: it predicts nothing before it is trained."
    elif not subject.shown:
        reason = "There are no photos; give them with --images."
    if reason:
        return paragraph(reason, kind="note")
    pieces = []
    independent = config.classification_loss == "sigmoid" or (
        config.problem_type == "multi_label_classification"
    )
    for photo in subject.shown:
        with torch.no_grad():
            logits = model(photo.pixels[None].to(model.device)).logits[0].float().cpu()
        shares = logits.sigmoid() if independent else logits.softmax(-1)
        best = shares.topk(min(TOP, len(shares)))
        labels = [config.id2label[index] for index in best.indices.tolist()]
        pairs = list(zip(labels, best.values.tolist(), strict=True))
        pieces.append(prediction(thumbnail(photo.picture), name=photo.name, shares=pairs))
    return photos(pieces)


def thumbnail(picture: torch.Tensor) -> bytes:
    """Returns a picture `(3, H, W)` in [-1, 1] as PNG."""
    buffer = BytesIO()
    pixels = (as_picture(picture) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def configuration_section(model, processor) -> str:
    """Returns the model's sizes, its settings and its preprocessing."""
    config = model.config
    rows, columns = config.grid
    sizes = {
        "model": type(model).__name__,
        "parameters": f"{model.num_parameters():,}",
        "image": f"{config.image_hw[0]} x {config.image_hw[1]} pixels, {config.num_channels} "
        "channels",
        "patch": f"{config.pixels_per_patch[0]} x {config.pixels_per_patch[1]} pixels",
        "grid": f"{rows} x {columns} patches",
        "tokens": f"{rows * columns + config.num_prefix_tokens}, of which "
        f"{config.num_prefix_tokens} class and register tokens",
    }
    if hasattr(model, "classifier"):
        sizes["classes"] = f"{config.num_labels:,}"
    common = {entry.name for entry in fields(PreTrainedConfig)}
    own = [entry.name for entry in fields(VisionTransformerConfig)]
    settings = {
        name: getattr(config, name) for name in own if name not in common and name not in UNTOLD
    }
    prepared = json.loads(processor.to_json_string())
    return "\n".join(
        [
            table(sizes.items()),
            "<h3>Settings</h3>",
            table((name, told(value)) for name, value in settings.items()),
            "<h3>Preprocessing</h3>",
            table((name, told(value)) for name, value in prepared.items()),
        ]
    )


def told(value: Any) -> str:
    """Returns a setting as text."""
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def results_section(folder: Path) -> tuple[str, str | None]:
    """Returns what was measured, and what the run calls the model."""
    path = folder / "results.json"
    if not path.is_file():
        return paragraph("There is no results.json beside the checkpoint.", kind="note"), None
    try:
        runs = read_runs(path)
    except (ValueError, TypeError) as error:
        return paragraph(f"results.json is no account of a run: {error}", kind="note"), None
    run = runs[0]
    splits = ", ".join(f"{count:,} {split}" for split, count in run.dataset.splits.items())
    rows = [(row.what, row.value, row.seeds) for row in summarise(runs)]
    commands = dict.fromkeys(run.command for run in runs)
    return (
        paragraph(f"Trained on {run.dataset.name} ({splits}).")
        + table(rows, header=("measured", "value", "seeds"))
        + "".join(command(words) for words in commands),
        run.model_name,
    )


def passport_section(folder: Path, loaded: Loaded) -> str:
    """Returns the account of a conversion, and whether it is of these weights."""
    try:
        passport = read_json(folder / "parity.json")
        if not passport:
            reason = "There is no parity.json beside the checkpoint: it was not converted."
            return paragraph(reason, kind="note")
        images = passport["images"]
        rows = [
            (comparison["between"], output, f"{difference:.3g}")
            for comparison in passport["comparisons"]
            for output, difference in comparison["largest_difference"].items()
        ]
        weights = loaded.path / "model.safetensors" if loaded.path.is_dir() else loaded.path
        belongs = passport.get("weights_sha256") == digest(weights)
        return "\n".join(
            [
                paragraph(
                    "Converted from another format, and checked: the same "
                    f"{images['num_images']} images through source and result."
                    if belongs
                    else "This passport is of other weights than those beside it."
                ),
                table(rows, header=("between", "output", "largest difference")),
                table(
                    [
                        ("source", passport["source"]),
                        ("recognised", passport["recognised"]),
                        *(("changed", change) for change in passport["changes"]),
                        ("images", f"seed {images['seed']}, sha256 {images['sha256']}"),
                        ("versions", ", ".join(map(" ".join, passport["versions"].items()))),
                    ]
                ),
            ]
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return paragraph(f"parity.json is no passport: {error!r}", kind="note")
