# SPDX-License-Identifier: Apache-2.0
"""`vit-hf finetune` as a script, for `accelerate launch scripts/finetune.py ...`."""

import sys

# Python puts this folder first, where `evaluate.py` would be taken for the library of that name.
sys.path.pop(0)

from vit_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
