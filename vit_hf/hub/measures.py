# SPDX-License-Identifier: Apache-2.0
"""The rows of a card's table of results: each number over the seeds, each gain over a control."""

from dataclasses import dataclass
from itertools import chain
from statistics import mean, stdev

from .results import Metric, Run


@dataclass
class Measure:
    """A row of the table, in words."""

    what: str
    value: str
    seeds: str

    @staticmethod
    def title(metric: Metric) -> str:
        """Returns what was measured: "top 5 accuracy on test"."""
        of = f" of {metric.of}" if metric.of else ""
        return f"{metric.name.replace('_', ' ')} on {metric.split}{of}"


def summarise(runs: list[Run]) -> list[Measure]:
    """Returns a row for each thing that was measured, and one for each gain over a control.

    Numbers of several seeds are told as their mean, their standard deviation and each of them.
    """
    measured: dict[tuple, list[tuple[int, Metric]]] = {}
    for run in runs:
        for metric in run.metrics:
            key = (metric.name, metric.split, metric.of)
            measured.setdefault(key, []).append((run.seed, metric))
    rows = []
    for (name, split, of), several in measured.items():
        rows.append(row_of(several))
        own = dict(measured.get((name, split, None), []))
        pairs = [(seed, own[seed].value - metric.value) for seed, metric in several if seed in own]
        if of is not None and pairs:
            rows.append(gain(name, pairs, where=f"on {split}", control=of))
    return rows


def row_of(several: list[tuple[int, Metric]]) -> Measure:
    """Returns the row of one thing that was measured with one seed or several."""
    first = several[0][1]
    number = Measure.title(first) + f" ({first.num_images:,} images)"
    return Measure(number, in_words([metric for _, metric in several]), seeds_of(several))


def in_words(metrics: list[Metric]) -> str:
    """Returns one number with its interval, or the mean of several."""
    first = metrics[0]
    if len(metrics) == 1:
        value = show(first.value, first.name)
        if first.confidence_interval is None:
            return value
        low, high = (show(end, first.name) for end in first.confidence_interval)
        return f"{value} (95 % interval {low} to {high})"
    values = [metric.value for metric in metrics]
    each = ", ".join(show(value, first.name) for value in values)
    return f"{show(mean(values), first.name)} ± {show(stdev(values), first.name)} ({each})"


def gain(name: str, pairs: list[tuple[int, float]], *, where: str, control: str) -> Measure:
    """Returns the row of the differences, seed by seed, between a model and its control."""
    what = name.replace("_", " ")
    values = [value for _, value in pairs]
    if is_share(name):
        title, unit, form = f"gain in {what} {where} over {control}", " points", "{:+.2f}"
        values = [100 * value for value in values]
    else:
        title, unit, form = f"difference in {what} {where} from {control}", "", "{:+.4g}"
    told = form.format(mean(values)) + unit
    if len(values) > 1:
        spread = form.format(stdev(values)).lstrip("+")
        told += f" ± {spread} ({', '.join(map(form.format, values))})"
    return Measure(title, told, seeds_of(pairs))


def show(value: float, name: str) -> str:
    """Returns a number as it is read: shares in percent."""
    if is_share(name):
        return f"{100 * value:.2f} %"
    return f"{value:,.1f}" if "per_second" in name else f"{value:.4g}"


def is_share(name: str) -> bool:
    """Whether a metric is a share of the images, or a difference of such shares."""
    return "accuracy" in name or name.endswith("calibration_error")


def seeds_of(several: list) -> str:
    """Returns the seeds of a row: a metric's own, where it is a mean over some."""
    own = [getattr(found, "seeds", None) or [seed] for seed, found in several]
    return ", ".join(str(seed) for seed in dict.fromkeys(chain.from_iterable(own)))
