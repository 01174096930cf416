# SPDX-License-Identifier: Apache-2.0
"""`vit-hf finetune` as a script, for `accelerate launch scripts/finetune.py ...`."""

import sys

from vit_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
