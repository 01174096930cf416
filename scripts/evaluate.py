# SPDX-License-Identifier: Apache-2.0
"""`vit-hf evaluate` as a script, for `accelerate launch scripts/evaluate.py ...`."""

import sys

from vit_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
