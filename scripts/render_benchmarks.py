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


def render(folder: Path) -> str:
    """Returns the tables of the results in a folder, one for each machine."""
    rows = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        results = json.loads(path.read_text())
        rows[machine_of(results)].append(row(results))
    return "\n\n".join(
        "\n".join([f"{machine}:", "", HEAD, *lines]) for machine, lines in rows.items()
    )


def machine_of(results: dict) -> str:
    """Names the machine and what counts of its libraries."""
    machine = results["machine"]
    if results["options"]["device"] == "cuda":
        where = machine["device"]
    else:
        where = f"{machine['cpu']}, {machine['cores']} cores"
    libraries = machine["libraries"]
    return f"{where}; torch {libraries['torch']}, transformers {libraries['transformers']}"


def row(results: dict) -> str:
    """Returns a result's row of the table."""
    ours = results["ours"]
    ratios = ", ".join(ratio(name, peer["ratio"]) for name, peer in results["peers"].items())
    peak = ours["peak_memory_bytes"]
    memory = "-" if peak is None else f"{peak / GIB:.1f} GiB"
    return (
        f"| {title_of(results)} | {ours['images_per_second']:.4g} | {ratios or '-'} | "
        f"{ours['limit_share']:.0%} | {memory} |"
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
