# SPDX-License-Identifier: Apache-2.0
"""A checkpoint to a graph: traced with its preprocessing, written, run, compared, and only then
given its place.
"""

import contextlib
import io
import json
import logging
import platform
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from ..converters import load_image_processor
from ..converters.loading import load
from ..converters.saving import task_of
from ..version import __version__
from .formats import FORMATS, Format, require
from .parity import check, compare, deviation_of, needed_agreement, reference_outputs
from .raw_images import RawImageModel, raw_image_processor
from .real_images import real_images
from .serving import ACCOUNT, open_graph

# All that a graph's folder holds; a folder with anything else is not replaced.
FILES = {
    ACCOUNT, "export.json", "config.json", "preprocessor_config.json", "model.onnx",
    "model.onnx.data", "model.pt2", "openvino_model.xml", "openvino_model.bin",
}  # fmt: skip
TRACED_BATCH, TRACED_SIDES = 2, (97, 131)  # of the images traced with; the graph takes any


def export_graph(
    source,
    folder,
    *,
    to: str,
    task: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    images: list[str] | None = None,
) -> dict:
    """Writes a checkpoint as a graph that takes raw uint8 images `(B, 3, H, W)` of any size.

    The checkpoint's preprocessing is part of the graph. What is written is opened by its own
    runtime and compared with the model in PyTorch on real images, and takes its place only where it
    gives the same numbers.

    Args:
        source: a checkpoint of any format that `load_checkpoint` opens.
        folder: where to; made, or replaced where it holds an earlier graph.
        to: one of `FORMATS`.
        task: `"image-classification"` or `"features"`; `None` is the checkpoint's own.
        image_size: the size that the model gets, where it is not its native one.
        images: what it is compared on, see `real_images`.

    Returns:
        The account that is written beside the graph as `parity.json`.

    Raises:
        ValueError: for input that is not understood, and packages that are missing.
        NotTheSameModel: where the graph does not give the model's numbers; nothing is written.
    """
    format, folder = require(to), check_folder(folder)
    pictures = real_images(images)
    model, recognised = open_model(source, task=task, image_size=image_size)
    processor = load_image_processor(source, image_size=image_size)
    expected = reference_outputs(model, processor, pictures)
    deviation_of(expected)  # said before the long work, where nothing can be compared
    account = describe(model, processor, to=to)
    account |= {"source": str(source), "recognised": recognised}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        staged = Path(name) / "graph"
        account |= write_graph(model, processor, staged, format=format)
        write_account(account, staged)
        account["parity"] = measure(staged, pictures, expected, format=format)
        account["parity"]["images"] = {
            "num_images": len(pictures),
            "source": images or "crops of scikit-learn's two photographs",
        }
        write_account(account, staged)
        if folder.exists():
            folder.rename(Path(name) / "replaced")
        staged.rename(folder)
    return account


def check_folder(folder) -> Path:
    """Returns the folder to write; a `ValueError` where it holds what is no graph's."""
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"got {folder}, which is a file; give a folder")
    others = {file.name for file in folder.iterdir()} - FILES if folder.exists() else set()
    if others or (folder.exists() and any(folder.iterdir()) and not (folder / ACCOUNT).is_file()):
        raise ValueError(
            f"got the folder {folder}, which holds something else than a graph"
            f"{' (' + ', '.join(sorted(others)[:3]) + ')' if others else ''}; give a new folder"
        )
    return folder


def open_model(source, *, task: str | None, image_size) -> tuple[torch.nn.Module, str]:
    """Returns the model in float32, for evaluation, and as what it was recognised."""
    loaded = load(source, task=task, image_size=image_size)
    config: Any = loaded.model.config
    if task_of(loaded.model) == "masked-patch-prediction":
        raise ValueError(
            f"got {source}, a masked patch predictor, which needs masks beside images; allowed: "
            "image classifiers and encoders. Give --task features for its encoder"
        )
    if config.num_channels != 3:
        raise ValueError(
            f"got a model with num_channels={config.num_channels}, allowed: 3, as graphs take RGB "
            "pictures"
        )
    return loaded.model.float().eval(), loaded.recognised


def describe(model, processor, *, to: str) -> dict:
    """Returns what there is to know before the graph is made."""
    names = ["torch", "transformers", *FORMATS[to].packages]
    return {
        "format": to,
        "architecture": type(model).__name__,
        "input": {"pixel_values": ["batch", 3, "height", "width"], "dtype": "uint8"},
        "preprocessing": json.loads(processor.to_json_string()),
        "id2label": model.config.id2label,
        "versions": {
            "vit_hf": __version__,
            **{name: version(name) for name in names},
            "python": platform.python_version(),
        },
    }


def write_graph(model, processor, folder: Path, *, format: Format) -> dict:
    """Traces and writes the graph; returns the account of its outputs."""
    images = torch.zeros(TRACED_BATCH, 3, *TRACED_SIDES, dtype=torch.uint8)
    with quiet():
        exporter, settings = format.exporter()
        module = RawImageModel(model, processor).eval()
        graph = exporter.export(module, {"pixel_values": images}, settings)
        graph.save_pretrained(folder)
    raw_image_processor().save_pretrained(folder)
    with torch.no_grad():
        outputs = module(images)
    account = {
        "outputs": {name: ["batch", *value.shape[1:]] for name, value in outputs.items()},
        "files": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
    }
    opsets = getattr(graph.program, "opset_imports", None)
    return account | ({"opsets": dict(opsets)} if opsets else {})


def measure(folder: Path, pictures, expected: torch.Tensor, *, format: Format) -> dict:
    """Runs the graph that was written, and returns how it compares with its model; see `check`."""
    with quiet():
        got = open_graph(folder).outputs(pictures)
    comparison = compare(expected, got)
    check(comparison, format, num_images=len(pictures))
    allowed = {"top1_agreement": needed_agreement(len(pictures))}
    if format.closeness is not None:
        allowed["relative_difference"] = format.closeness
    return comparison | {"allowed": allowed}


def write_account(account: dict, folder: Path):
    """Writes the account beside the graph."""
    (folder / ACCOUNT).write_text(json.dumps(account, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps exporters from printing their progress, and that they are new."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        transformers_logging.set_verbosity(verbosity)
