# SPDX-License-Identifier: Apache-2.0
"""Whether the Hub gives back what was pushed: downloaded, compared, opened in a fresh process."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from glob import escape
from pathlib import Path

from huggingface_hub import HfApi

from .export import AUTO_MAP
from .patience import keep_trying

OPEN = """
import json, sys
sys.modules["vit_hf"] = None  # as where this package is not installed
import torch, transformers
repo_id, commit, auto_class = sys.argv[1:]
remote = {"revision": commit, "trust_remote_code": True}
for opened in {"AutoModel", auto_class}:
    model, loading = getattr(transformers, opened).from_pretrained(
        repo_id, output_loading_info=True, **remote
    )
    if opened == auto_class and any(loading[key] for key in ("missing_keys", "unexpected_keys")):
        raise SystemExit(f"{opened}: {loading}")
    pixels = torch.zeros(1, model.config.num_channels, *model.config.image_hw)
    with torch.no_grad():
        model.eval()(pixels)
try:
    processor = transformers.AutoImageProcessor.from_pretrained(repo_id, revision=commit)
except ImportError:  # old releases of transformers have none without torchvision
    processor = None
if processor is not None and model.config.num_channels == 3:
    from PIL import Image
    processor(Image.new("L", (40, 30)), return_tensors="pt")
"""


def check_what_the_hub_has(
    folder: Path, files: Sequence[str], *, repo_id: str, commit: str, api: HfApi, patience: float
):
    """Downloads a commit into a fresh cache, compares it and opens it in a fresh process.

    The process has the downloaded cache and nothing else: no network, not this package.

    Args:
        folder: what was pushed.
        files: the names of its files.
        repo_id: where to, with the owner.
        commit: the hash of the commit.
        api: the client that pushed it.
        patience: seconds in which a download is tried again, see `keep_trying`.

    Raises:
        OSError: where the Hub gives back other bytes, or what it gives back does not open.
    """
    with tempfile.TemporaryDirectory(prefix="vit_hf-") as name:
        cache = Path(name)
        got = download(repo_id, commit, files=files, api=api, cache=cache, patience=patience)
        other = [file for file in files if digest(folder / file) != digest(got / file)]
        if other:
            raise OSError(
                f"the Hub gives back other bytes than those of {', '.join(other)} for the commit "
                f"{commit} of {repo_id}; do not use it"
            )
        open_elsewhere(repo_id, commit, auto_class=auto_class_of(folder), cache=cache)


def download(
    repo_id: str, commit: str, *, files: Sequence[str], api: HfApi, cache: Path, patience: float
) -> Path:
    """Downloads files of a commit into `cache`; returns the folder that they lie in."""
    found = keep_trying(
        lambda: api.snapshot_download(
            repo_id,
            revision=commit,
            cache_dir=cache / "hub",
            allow_patterns=[escape(name) for name in files],
        ),
        patience=patience,
        what=f"downloading {repo_id} again",
    )
    return Path(found)


def open_elsewhere(repo_id: str, commit: str, *, auto_class: str, cache: Path):
    """Opens a downloaded commit with the Auto classes in a process that has nothing else.

    Raises:
        OSError: with the last words of the process, where it does not open.
    """
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_MODULES_CACHE": str(cache / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", OPEN, repo_id, commit, auto_class]
    done = subprocess.run(
        command, env=environment, cwd=cache, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(
            f"the commit {commit} of {repo_id} was pushed, but does not open with {auto_class} in "
            f"a fresh process: {last_error(done.stderr)}"
        )


def last_error(output: str) -> str:
    """Returns the error that a process ended with, in one line, out of what it printed."""
    lines = output.strip().splitlines() or ["it said nothing"]
    starts = [
        place for place, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)
    ]
    return " ".join(" ".join(lines[starts[-1] if starts else -1 :]).split())


def auto_class_of(folder: Path) -> str:
    """Returns the Auto class that opens a folder's weights as the model that was saved."""
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    return next(name for name, reference in AUTO_MAP.items() if reference.endswith(f".{saved}"))


def digest(path: Path) -> str | None:
    """Returns the SHA-256 of a file; `None` where there is none."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
