# SPDX-License-Identifier: Apache-2.0
"""The account of images that could not be decoded: named in a file, and too many end the run."""

import json
from collections.abc import Iterable
from pathlib import Path

FILE = "bad_images.jsonl"  # one {"image": name} a line
SMALLEST_STREAM = 1000  # images of a stream after which a share of them means something


class BadImages:
    """Counts unreadable images, each once.

    Args:
        folder: where `bad_images.jsonl` goes; it is made when there is a first one.
        max_fraction: share of the training images that may be unreadable.
        num_images: size of the training set; `None` for a stream, of which those seen count.
    """

    def __init__(self, folder: Path, max_fraction: float, num_images: int | None):
        self.path, self.max_fraction, self.num_images = folder / FILE, max_fraction, num_images
        # A resumed run, and a run in the same folder, goes on with the same account.
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.names: set[str] = {json.loads(line)["image"] for line in lines}
        self.num_seen = 0

    def record(self, names: Iterable[str]) -> None:
        """Writes the names that are new to the file."""
        new = [name for name in dict.fromkeys(names) if name not in self.names]
        if not new:
            return
        self.names.update(new)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:  # lines of several processes stay whole
            file.write("".join(json.dumps({"image": name}) + "\n" for name in new))

    def count(self, num_images: int, names: Iterable[str]) -> None:
        """Counts a batch of training.

        Args:
            num_images: images of the batch.
            names: the unreadable ones that they replaced.

        Raises:
            ValueError: where too many cannot be read.
        """
        self.record(names)
        self.num_seen += num_images
        of = self.num_images or max(self.num_seen, SMALLEST_STREAM)
        if len(self.names) > self.max_fraction * of:
            raise ValueError(
                f"{len(self.names)} of {of} images cannot be decoded, allowed: a share of "
                f"{self.max_fraction:g} (--max_bad_fraction). They are named in {self.path}; "
                "repair or remove them, or allow a larger share"
            )
