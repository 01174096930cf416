# SPDX-License-Identifier: Apache-2.0
"""Writes the README's table of benchmarks from the JSON files in `benchmarks/`.

    python scripts/render_benchmarks.py

The table stands between the lines `<!-- benchmarks -->` and `<!-- /benchmarks -->`.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

from vit_hf.benchmark.report import GIB, title_of

ROOT = Path(__file__).parents[1]
START, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
HEAD = (
    "| what | images/s | ours over each peer (quartiles) | of the limit | memory |\n"
    "|---|---:|---|---:|---:|"
)
SCALING_HEAD = (
    "| what | pixels a side | images/s | 10^9 operations an image | 10^9 operations a second |\n"
    "|---|---:|---:|---:|---:|"
)
ALIKE = ("model", "mode", "dtype", "batch_size", "graph", "compile")  # of a row of image sizes
IMPORT = "cpu-import.json"  # of `scripts/time_import.py`
FLOAT8 = "gpu-H14-train-float8.json"  # of `scripts/train_in_float8.py`
NUM_LAST = 12  # updates, over which a loss is averaged


def render(folder: Path) -> str:
    """Returns the tables of the results in a folder, one for each machine, then how the cost grows
    where the same was measured at several image sizes.
    """
    by_machine = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        if path.name not in (IMPORT, FLOAT8):
            results = json.loads(path.read_text())
            by_machine[machine_of(results)].append(results)
    parts = []
    for machine, measured in by_machine.items():
        rows = [row(results) for results in measured]
        parts.append("\n".join([f"{machine}:", "", HEAD, *rows]))
        parts += [largest_batches(one) for one in measured if "largest_batch_size" in one["ours"]]
        scaling = scaling_rows(measured)
        if scaling:
            parts.append("\n".join([SCALING_HEAD, *scaling]))
    if (folder / IMPORT).is_file():
        ratio = json.loads((folder / IMPORT).read_text())["ratio"]
        parts.append(
            "`import vit_hf` takes {:.2f} ({:.2f} to {:.2f}) of the time of importing transformers "
            "with its ViT.".format(ratio["median"], *ratio["spread"])
        )
    if (folder / FLOAT8).is_file():
        parts.append(float8_line(json.loads((folder / FLOAT8).read_text())))
    return "\n\n".join(parts)


def float8_line(results: dict) -> str:
    """Returns what training in float8 was against bfloat16."""
    ratio, losses = results["ratio"], results["losses"]
    last = {dtype: sum(found[-NUM_LAST:]) / NUM_LAST for dtype, found in losses.items()}
    return (
        "{} trains in float8 at {:.2f} ({:.2f} to {:.2f}) of its speed in bfloat16 on one {}; "
        "after {} updates on the same batches the loss is {:.3f}, in bfloat16 {:.3f}.".format(
            results["model"],
            ratio["median"],
            *ratio["spread"],
            results["machine"]["device"],
            len(losses["float8"]),
            last["float8"],
            last["bfloat16"],
        )
    )


def largest_batches(results: dict) -> str:
    """Says how many images fit into the device at once, ours and the peers'."""
    ours, about = results["ours"]["largest_batch_size"], results["options"]
    theirs = [
        f"{count} with {name} (ours are {ours / count:.2f} times as many)"
        for name, peer in results["peers"].items()
        if (count := peer.get("largest_batch_size"))
    ]
    what = f"{ours} images of {about['model']} at {about['image_size']} pixels fit at once"
    return f"In training {', '.join([what, *theirs])}."


def scaling_rows(measured: list[dict]) -> list[str]:
    """Returns the rows of what was measured at several image sizes, smallest first."""
    groups = defaultdict(list)
    for results in measured:
        options = results["options"]
        if results["subject"] == "model":
            alike = {name: value for name, value in options.items() if name in ALIKE}
            groups[json.dumps(alike, sort_keys=True)].append(results)
    rows = []
    for group in groups.values():
        sizes = {results["options"]["image_size"] for results in group}
        if len(sizes) == len(group) > 1:
            rows += map(scaling_row, sorted(group, key=lambda one: one["options"]["image_size"]))
    return rows


def scaling_row(results: dict) -> str:
    """Returns a result's row of the table of image sizes."""
    options, speed = results["options"], results["ours"]["images_per_second"]
    flops = results["limits"]["matrix_products"]["flops_per_image"]
    what = f"{options['model']} {options['mode']} {options['dtype']}, batch {options['batch_size']}"
    side = options["image_size"]
    return f"| {what} | {side} | {speed:.3g} | {flops / 1e9:.1f} | {flops * speed / 1e9:.0f} |"


def machine_of(results: dict) -> str:
    """Names the machine and what counts of its libraries."""
    machine = results["machine"]
    if results["options"]["device"] == "cuda":
        where = machine["device"]
    else:
        capability = machine["torch_cpu_capability"]
        if "amx_tile" in machine["instruction_sets"]:
            capability += " and AMX"
        where = f"{machine['cpu']} with {capability}, {machine['cores']} cores"
    libraries = machine["libraries"]
    return f"{where}; torch {libraries['torch']}, transformers {libraries['transformers']}"


def row(results: dict) -> str:
    """Returns a result's row of the table."""
    ours = results["ours"]
    ratios = ", ".join(ratio(name, peer["ratio"]) for name, peer in results["peers"].items())
    peak = ours["peak_memory_bytes"]
    memory = "-" if peak is None else f"{peak / GIB:.1f} GiB"
    # The limit of a graph is that of the peers' type, not of its own.
    share = "-" if results["options"].get("graph") else f"{ours['limit_share']:.0%}"
    return (
        f"| {title_of(results)} | {ours['images_per_second']:.4g} | {ratios or '-'} | "
        f"{share} | {memory} |"
    )


def ratio(name: str, found: dict) -> str:
    """Names a peer and ours over it."""
    low, high = found["spread"]
    return f"{name} {found['median']:.2f} ({low:.2f} to {high:.2f})"


def placed(text: str, table: str) -> str:
    """Returns a text with the table between its two markers.

    Raises:
        ValueError: where the text has no markers.
    """
    pattern = re.compile(f"{START}.*?{END}", flags=re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"got a README without the lines {START} and {END}; put them into it")
    return pattern.sub(lambda _: f"{START}\n{table}\n{END}", text)


def main() -> int:
    """Writes the README; returns the exit status."""
    readme = ROOT / "README.md"
    try:
        readme.write_text(placed(readme.read_text(), render(ROOT / "benchmarks")))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
