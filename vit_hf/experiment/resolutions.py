# SPDX-License-Identifier: Apache-2.0
"""Accuracy, speed and memory by resolution: positions are interpolated, nothing is trained."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

from matplotlib.figure import Figure

from ..evaluation.cost import Meter
from ..evaluation.intervals import Interval, of_share
from ..evaluation.predictions import collect_predictions
from ..hub.results import Metric
from .classifying import classes_of, share
from .results import measured
from .subject import Subject

GIB = 2**30
COLOR = "#1b4f8a"
CAPTION = "Accuracy with its 95 % interval, images a second and peak memory by image size."


@dataclass
class Resolution:
    """What was measured at one image size.

    Attributes:
        image_hw: height and width.
        accuracy: the share of images that are right.
        interval: of it, at 95 %.
        num_images: on how many images.
        images_per_second: of the model alone, over all processes.
        peak_memory_gib: of one process, `None` where the system does not tell.
    """

    image_hw: tuple[int, int]
    accuracy: float
    interval: Interval
    num_images: int
    images_per_second: float
    peak_memory_gib: float | None

    @property
    def name(self) -> str:
        """The size in words: "96", or "96x160" where it is no square."""
        height, width = self.image_hw
        return str(height) if height == width else f"{height}x{width}"


def parse_resolutions(words: Sequence[str]) -> list[tuple[int, int]]:
    """Returns heights and widths, the smallest first, of words such as `96,128` and `96x160`.

    Raises:
        ValueError: for other words.
    """
    sizes = set()
    for word in ",".join(words).split(","):
        numbers = word.strip().split("x")
        if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):
            raise ValueError(
                f"got --resolutions {' '.join(words)}, allowed: image sizes such as 96,128 or "
                f"96x160 (height x width), which {word.strip()!r} is not"
            )
        sizes.add((int(numbers[0]), int(numbers[-1])))
    return in_order(sizes)


def in_order(sizes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns heights and widths, the smallest first."""
    return sorted(sizes, key=lambda size: (prod(size), size))


def measure_resolutions(
    subject: Subject, sizes: Sequence[tuple[int, int]], *, split: str
) -> list[Resolution]:
    """Measures a classifier at each image size, on a whole split."""
    classes = classes_of(subject.names(), subject.model.config.id2label)
    points = []
    for size in sizes:
        meter = Meter(subject.model.device)
        found = collect_predictions(
            subject.model,
            subject.loader(split, size),
            classes=classes,
            autocast=subject.autocast,
            progress=subject.bar(f"{size[0]}x{size[1]} pixels"),
            around=meter.around,
        )
        is_right, peak = found.is_right(), meter.peak_memory_bytes()
        points.append(
            Resolution(
                image_hw=size,
                accuracy=share(is_right),
                interval=of_share(int(is_right.sum()), len(is_right)),
                num_images=len(is_right),
                images_per_second=meter.images_per_second(),
                peak_memory_gib=None if peak is None else peak / GIB,
            )
        )
    return points


def resolution_metrics(
    points: Sequence[Resolution], *, split: str, batch_size: int, device: str
) -> list[Metric]:
    """Returns the entries of `results.json`, such as `accuracy_at_96`."""
    metrics = []
    for point in points:
        about: dict[str, Any] = {"split": split, "num_images": point.num_images}
        size = {"image_size": list(point.image_hw)}
        cost = {**size, "batch_size": batch_size, "device": device}
        name = f"accuracy_at_{point.name}"
        metrics.append(
            measured(name, point.accuracy, **about, interval=point.interval, settings=size)
        )
        speed = f"images_per_second_at_{point.name}"
        metrics.append(measured(speed, point.images_per_second, **about, settings=cost))
        if point.peak_memory_gib is not None:
            memory = f"peak_memory_gib_at_{point.name}"
            metrics.append(measured(memory, point.peak_memory_gib, **about, settings=cost))
    return metrics


def draw_resolutions(
    points: Sequence[Resolution], *, native_hw: tuple[int, int], device: str
) -> Figure:
    """Draws accuracy, images a second and memory by image size; the native one is a dashed line.

    Sizes that are no squares stand at the root of their area, apart from the line.

    Args:
        points: the measurements, the smallest size first.
        native_hw: the size that the checkpoint was trained at.
        device: what it ran on, in words.
    """
    sides = [sqrt(prod(point.image_hw)) for point in points]
    panels = {
        "accuracy (%)": [100 * point.accuracy for point in points],
        "images a second": [point.images_per_second for point in points],
    }
    if all(point.peak_memory_gib is not None for point in points):
        whose = " of the process" if device.startswith("CPU") else ""
        panels[f"peak memory{whose} (GiB)"] = [point.peak_memory_gib or 0.0 for point in points]
    figure = Figure(figsize=(3.4 * len(panels), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, values) in zip(axes, panels.items()):
        squares = [at for at, point in enumerate(points) if len(set(point.image_hw)) == 1]
        axis.axvline(sqrt(prod(native_hw)), color="0.6", linestyle="--", linewidth=1, zorder=0)
        axis.plot([sides[at] for at in squares], [values[at] for at in squares], color=COLOR)
        axis.plot(sides, values, marker="o", linestyle="none", color=COLOR)
        axis.set_xticks(sides, [point.name for point in points], rotation=60, fontsize=8)
        axis.set_xlabel("image size (pixels)")
        axis.set_ylabel(title)
        axis.grid(axis="y", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
        if axis is not axes[0]:
            axis.set_ylim(0, 1.1 * max(values))
    low = [100 * (point.accuracy - point.interval.low) for point in points]
    high = [100 * (point.interval.high - point.accuracy) for point in points]
    reach = [[max(0.0, length) for length in ends] for ends in (low, high)]  # Wilson rounds at 0
    axes[0].errorbar(sides, panels["accuracy (%)"], reach, fmt="none", color=COLOR, capsize=3)
    where = f"On {points[0].num_images:,} images; {device}"
    figure.suptitle(f"{where} (dashed: native size; bars: 95 % interval)", fontsize=10)
    return figure
