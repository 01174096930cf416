# SPDX-License-Identifier: Apache-2.0
"""A study's figure: its panels side by side, means with one standard deviation over the seeds.

Lines differ in lightness, marker and stroke, so that they are told apart in grey print too.
"""

from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from .study import Panel, Study

STYLES: tuple[dict[str, Any], ...] = (  # dark, middle, light
    {"color": "#12284c", "marker": "o", "linestyle": "-"},
    {"color": "#c8553d", "marker": "s", "linestyle": "--"},
    {"color": "#e0a92e", "marker": "^", "linestyle": "-."},
)
PANEL_INCHES = (6.2, 3.9)
SHIFT = 0.12  # between the series of a category


def draw_study(study: Study, content: dict[str, Any]) -> Figure:
    """Draws the figure of a study.

    Args:
        study: whose panels are drawn.
        content: of its `study.json`.
    """
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * len(study.panels), height), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(study.panels), squeeze=False)[0], study.panels):
        draw_panel(axes, panel, [arm for arm in content["arms"] if panel.shows(arm["place"])])
    num_seeds = min(arm["num_seeds"] for arm in content["arms"])
    bars = f"bars: one standard deviation over {num_seeds} seeds" if num_seeds > 1 else "one seed"
    figure.suptitle(f"{study.title}\n{bars}", fontsize="medium")
    return figure


def draw_panel(axes: Axes, panel: Panel, arms: list[dict[str, Any]]):
    """Draws one plot."""
    categories = list(dict.fromkeys(str(arm["place"][panel.x]) for arm in arms))
    lines = list(dict.fromkeys(arm["place"][panel.series] if panel.series else "" for arm in arms))
    for index, (line, style) in enumerate(zip(lines, cycle(STYLES))):
        own = [arm for arm in arms if not panel.series or arm["place"][panel.series] == line]
        if panel.logarithmic:
            own.sort(key=lambda arm: arm["place"][panel.x])
            places = [arm["place"][panel.x] for arm in own]
        else:
            shift = SHIFT * (index - (len(lines) - 1) / 2)
            places = [categories.index(str(arm["place"][panel.x])) + shift for arm in own]
            style = {**style, "linestyle": "none"}
        found = [arm["metrics"][panel.metric] for arm in own]
        axes.errorbar(
            places,
            [100 * metric["mean"] for metric in found],
            yerr=[100 * (metric["deviation"] or 0) for metric in found],
            label=str(line),
            capsize=4,
            **style,
        )
    if panel.logarithmic:
        axes.set_xscale("log")
        ticks = sorted({arm["place"][panel.x] for arm in arms})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xticks(range(len(categories)), categories)
        axes.set_xlim(-0.5, len(categories) - 0.5)
    if panel.series:
        beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        axes.legend(title=panel.series.replace("_", " "), frameon=False, **beside)
    axes.set_title(panel.title, fontsize="medium")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(axis="y", color="0.88")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
