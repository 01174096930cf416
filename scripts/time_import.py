# SPDX-License-Identifier: Apache-2.0
"""Times `import vit_hf` against the import of transformers with its ViT, in turns.

    python scripts/time_import.py benchmarks/cpu-import.json

Each turn is a fresh interpreter; who begins alternates. Both have configuration, classifier and
image processor at hand afterwards.
"""

import json
import subprocess
import sys
from pathlib import Path

from vit_hf.benchmark.turns import quartiles, ratio_of, take_turns

TURNS = 11
CLOCK = "import time; started = time.perf_counter(); {}; print(time.perf_counter() - started)"
OURS = "from vit_hf import VisionTransformerForImageClassification, VisionTransformerConfig"
THEIRS = "from transformers import ViTForImageClassification, ViTConfig, ViTImageProcessor"


def seconds_of(statement: str) -> float:
    """Returns the seconds that an import takes in a fresh interpreter."""
    command = [sys.executable, "-W", "ignore", "-c", CLOCK.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    """Writes the times; returns the exit status."""
    turns = {"ours": lambda: seconds_of(OURS), "transformers": lambda: seconds_of(THEIRS)}
    for turn in turns.values():
        turn()  # the files are in memory after it
    own, pairs = take_turns(turns.pop("ours"), turns, num_turns=TURNS)
    low, median, high = quartiles(own)
    found = {
        "ours_seconds": {"median": median, "spread": [low, high]},
        "ratio": ratio_of(pairs["transformers"]),
    }
    Path(sys.argv[1]).write_text(json.dumps(found, indent=2) + "\n")
    print(
        f"import vit_hf takes {median:.2f} s, {found['ratio']['median']:.3f} of transformers' ViT"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
