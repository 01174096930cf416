# SPDX-License-Identifier: Apache-2.0
"""Inspection of a checkpoint: every figure that it has, and a report of them (section 4.5, D.7,
D.8).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ..converters import load_image_processor
from ..converters.loading import Loaded, load
from ..data import MaskedPatchCollator
from ..inspection import (
    attention_distance,
    attention_rollout,
    draw_attention_distance,
    draw_attention_rollout,
    draw_filter_components,
    draw_masked_prediction,
    draw_pooled_attention,
    draw_position_similarity,
    masked_prediction,
    pooled_attention,
    uniform_distance,
)
from ..inspection.reading import READERS, reader_of
from ..inspection.report import Panel, as_png
from .arguments import as_size
from .inspection_report import write_report
from .inspection_subject import Photo, Photos, Subject, find_photos

REPORT = "report.html"
NO_PHOTOS = "it needs photos: give them with --images"


def inspect(settings) -> list[Path]:
    """Draws every figure of a checkpoint that it has, and writes them and a report of them.

    Args:
        settings: the flags of `vit-hf inspect`, see `vit_hf.cli.inspect.Arguments`.

    Returns:
        The files that were written, the report first.

    Raises:
        ValueError: for photos that are not there or cannot be read, a device that is not there, and
            a checkpoint that cannot be opened, or that does not say all that is needed.
    """
    for name in ("num_images", "num_shown"):
        if getattr(settings, name) < 1:
            raise ValueError(f"got --{name} {getattr(settings, name)}, allowed: 1 or more")
    files, device = find_photos(settings.images or []), find_device(settings.device)
    size = as_size(settings.image_size, "image_size")
    loaded, processor = open_model(settings.checkpoint, size)
    model: Any = loaded.model.to(device)
    photos_of = Photos(files, processor, model.config)
    shown = list(photos_of.read(settings.num_shown))
    if files and not shown:
        names = ", ".join(str(file) for file in photos_of.unreadable)
        raise ValueError(f"got --images of which none can be read as an image: {names}")
    subject = Subject(model, shown, photos_of, settings.num_images)
    panels = [panel for draw in FIGURES for panel in draw(subject)]
    folder = Path(settings.output_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / REPORT
    report.write_text(
        write_report(settings.checkpoint, loaded, subject, panels, processor), encoding="utf-8"
    )
    written = [report]
    for panel in panels:
        if panel.png is None:
            print(f"not shown: {panel.title}: {panel.reason}")
            continue
        written.append(folder / f"{panel.name}.png")
        written[-1].write_bytes(panel.png)
    if len(shown) < len(files):
        print(f"photos shown: {len(shown)} of {len(files)} (--num_shown)")
    for file in dict.fromkeys(photos_of.unreadable):
        print(f"cannot be read as an image, and was left out: {file}")
    return written


def find_device(name: str | None) -> torch.device:
    """Returns the device of that name, or the best there is."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise ValueError(f"got --device {name}, allowed here: {here}") from error


def open_model(source: str, size) -> tuple[Loaded, Any]:
    """Opens a checkpoint and its image processor."""
    try:
        return load(source, image_size=size), load_image_processor(source, image_size=size)
    except ValueError as error:
        raise ValueError(
            f"{error}. What a checkpoint does not say is said to `vit-hf convert`: inspect the "
            "folder that it writes"
        ) from error


def panel(name: str, title: str, caption: str, draw: Callable[[], Figure]) -> Panel:
    """Draws a figure; one that the model refuses is told with the reason."""
    try:
        return Panel(name, title, caption, png=as_png(draw()))
    except ValueError as error:
        return Panel(name, title, caption, reason=str(error))


# Figures: from a subject to its panels.


def positions(subject: Subject) -> Iterator[Panel]:
    """Figure 7, centre."""
    yield panel(
        "position_similarity",
        "Position embeddings",
        "One tile for each patch: the cosine similarity of its position embedding with those of "
        "all patches. Rows and columns that stand out show that 2-D structure was learned.",
        lambda: draw_position_similarity(subject.model),
    )


def filters(subject: Subject) -> Iterator[Panel]:
    """Figure 7, left."""
    hybrid = subject.model.config.stem_blocks is not None
    yield panel(
        "filter_components",
        "Filters of the hybrid's root" if hybrid else "Patch filters",
        "The first principal components of the filters that see pixels, the one that explains "
        "most first, each scaled on its own around a middle grey."
        + (" A hybrid's patch projection sees the stem's feature map, not pixels." * hybrid),
        lambda: draw_filter_components(subject.model),
    )


def distances(subject: Subject) -> Iterator[Panel]:
    """Figure 7, right."""

    def draw() -> Figure:
        if not subject.shown:
            raise ValueError(NO_PHOTOS)
        count = min(subject.num_images, len(subject.photos.files))
        unreadable = len(subject.photos.unreadable)
        read = tqdm(
            subject.photos.read(count),
            "attention distance",
            total=count,
            unit="image",
            disable=None,
        )
        distance = attention_distance(subject.model, (photo.pixels for photo in read))
        config = subject.model.config
        return draw_attention_distance(
            distance,
            num_images=count - (len(subject.photos.unreadable) - unreadable),
            uniform=uniform_distance(
                config.grid_of(tuple(subject.shown[0].pixels.shape[1:])), config.pixels_per_patch
            ),
        )

    yield panel(
        "attention_distance",
        "Attention distance",
        "How far away each head looks: the distance between a patch and the patches that it "
        "attends to, weighted by the attention, averaged over patches and images. Low heads look "
        "nearby, as convolutions do.",
        draw,
    )


def rollouts(subject: Subject) -> Iterator[Panel]:
    """Figures 6 and 14."""

    def draw() -> Figure:
        if not subject.shown:
            raise ValueError(NO_PHOTOS)
        return draw_attention_rollout(
            torch.stack([photo.picture for photo in subject.shown]),
            attention_rollout(subject.model, [photo.pixels for photo in subject.shown]),
            titles=[Path(photo.name).stem for photo in subject.shown],
            patch_hw=subject.model.config.pixels_per_patch,
        )

    yield panel(
        "attention_rollout",
        "Attention rollout",
        f"How much of each patch flows into {READERS[reader_of(subject.model)]} through all "
        "layers: attention averaged over heads, with the residual, multiplied across layers.",
        draw,
    )


def last_maps(subject: Subject) -> Iterator[Panel]:
    """The last layer's maps, a panel for each photo."""
    reader = READERS[reader_of(subject.model)]
    title, caption = "Last-layer attention", f"Last-layer attention of {reader}, by head."
    if not subject.shown:
        yield Panel("pooled_attention", title, caption, reason=NO_PHOTOS)
    for number, photo in enumerate(subject.shown, start=1):

        def draw(photo: Photo = photo) -> Figure:
            maps = pooled_attention(subject.model, [photo.pixels])[0]
            return draw_pooled_attention(
                photo.picture, maps, model=subject.model, title=Path(photo.name).stem
            )

        yield panel(f"pooled_attention_{number}", f"{title}: {photo.name}", caption, draw)


def masked_patches(subject: Subject) -> Iterator[Panel]:
    """Appendix B.1.2."""

    def draw() -> Figure:
        model = subject.model
        if not hasattr(model, "prediction_head"):
            raise ValueError(f"{type(model).__name__} was not made to predict masked patches")
        if not subject.shown:
            raise ValueError(NO_PHOTOS)
        pixels = [photo.pixels for photo in subject.shown]
        collator = MaskedPatchCollator(model.config)
        drawn = [collator.corruption({"pixel_values": each.numpy()}) for each in pixels]
        masked, replacement = (torch.stack(each) for each in zip(*drawn, strict=True))
        return draw_masked_prediction(
            masked_prediction(model, torch.stack(pixels), masked, replacement),
            prediction_target=model.config.prediction_target,
        )

    yield panel(
        "masked_prediction",
        "Masked patch prediction",
        "The image, the same with the corrupted patches grey, and with what was predicted for "
        "them: of each patch its mean colour, 4x4 colours or its pixels, as the model was trained.",
        draw,
    )


FIGURES = (positions, filters, distances, rollouts, last_maps, masked_patches)
