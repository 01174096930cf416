# SPDX-License-Identifier: Apache-2.0
"""The console script `vit-hf`: the command line of `vit_hf`, with a `--help` that answers at once.

Importing `vit_hf` loads torch, to register its models with transformers. Help and the list of
recipes need none of it, so for them the package is stood in for by its bare folder, in which the
command line's own files are found.
"""

import importlib.util
import sys
import types


def main() -> int:
    """Runs the command line of `vit_hf`; returns its exit status."""
    words = sys.argv[1:]
    if not words or words[0] == "recipes" or {"-h", "--help", "--version"} & set(words):
        package = types.ModuleType("vit_hf")
        package.__path__ = importlib.util.find_spec("vit_hf").submodule_search_locations
        sys.modules["vit_hf"] = package
    from vit_hf.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
