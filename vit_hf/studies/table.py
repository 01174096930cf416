# SPDX-License-Identifier: Apache-2.0
"""A study's results in Markdown: the table for the terminal, and more for the documentation."""

from typing import Any


def summary(content: dict[str, Any]) -> list[str]:
    """Returns the lines that tell a study in the documentation: command, circumstances, table."""
    dataset, scale = content["dataset"], content["scale"]
    num_seeds = min(arm["num_seeds"] for arm in content["arms"])
    return [
        "```bash",
        content["command"],
        "```",
        "",
        f"{len(content['arms'])} trainings with {num_seeds} seeds each, "
        f"{content['seconds'] / 60:.0f} minutes in all; {scale['image_size']} px, patches of "
        f"{scale['patch_size']} px, width {scale['hidden_size']}, {scale['num_hidden_layers']} "
        f"layers, {scale['batch_size']} images an update. Measured on "
        f"{dataset['test_images_measured']:,} of {dataset['splits']['test']:,} test images; "
        "± is one standard deviation over the seeds.",
        "",
        *table(content),
    ]


def table(content: dict[str, Any]) -> list[str]:
    """Returns the lines of the table.

    Args:
        content: of a `study.json`.
    """
    arms = content["arms"]
    names = [
        name
        for name in dict.fromkeys(name for arm in arms for name in arm["metrics"])
        if name == "accuracy" or name.startswith("few_shot")
    ]
    header = ["", *map(heading, names), "training images", "images seen", "training GFLOPs", "s"]
    rows = [
        [
            arm["arm"],
            *(shown(arm["metrics"].get(name)) for name in names),
            f"{arm['training_images']:,}",
            f"{arm['images_seen']:,}",
            f"{arm['training_flops'] / 1e9:,.0f}",
            f"{arm['seconds']:.0f}",
        ]
        for arm in arms
    ]
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (header, rule, *rows)
    ]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def heading(metric: str) -> str:
    """Returns the heading of a metric's column; `few_shot_10_accuracy` is "10-shot, %"."""
    if metric.startswith("few_shot_"):
        return f"{metric.split('_')[2]}-shot, %"
    return "accuracy, %"


def shown(metric: dict[str, float | None] | None) -> str:
    """Returns a mean in percent with the deviation over the seeds."""
    if metric is None or metric["mean"] is None:
        return "-"
    mean = f"{100 * metric['mean']:.1f}"
    return mean if metric["deviation"] is None else f"{mean} ± {100 * metric['deviation']:.1f}"
