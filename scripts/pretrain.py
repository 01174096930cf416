# SPDX-License-Identifier: Apache-2.0
"""`vit-hf pretrain` as a script, for `accelerate launch scripts/pretrain.py ...`."""

import sys

from vit_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
