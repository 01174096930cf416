# SPDX-License-Identifier: Apache-2.0
"""The account of images that could not be decoded: named in a file, and too many end the run."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path

FILE = "bad_images.jsonl"  # one {"image": name} a line
COUNTED = "bad_images_{rank}.json"  # in a checkpoint: what a process counted until then
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
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.names: set[str] = {json.loads(line)["image"] for line in lines}
        self.replaced: set[str] = set()  # of the training images
        self.num_seen = 0

    def begin(self, checkpoint: Path | None, *, is_main: bool) -> None:
        """Begins a training: afresh, or with what was counted until a checkpoint.

        That is the main process's then, so that all processes together count it once.
        """
        self.replaced, self.num_seen = set(), 0
        if checkpoint is None:
            self.names = set()
        if not is_main:
            return
        if checkpoint is None:
            self.path.unlink(missing_ok=True)  # of an earlier run
            return
        for file in checkpoint.glob(COUNTED.format(rank="*")):
            counted = json.loads(file.read_text())
            self.num_seen += counted["num_seen"]
            self.replaced.update(counted["replaced"])
        self.record(self.replaced)

    def save(self, checkpoint: Path, *, rank: int) -> None:
        """Writes what this process counted to a checkpoint."""
        counted = {"num_seen": self.num_seen, "replaced": sorted(self.replaced)}
        (checkpoint / COUNTED.format(rank=rank)).write_text(json.dumps(counted))

    def record(self, names: Iterable[str]) -> None:
        """Writes the names that are new to the file."""
        new = [name for name in dict.fromkeys(names) if name not in self.names]
        if not new:
            return
        self.names.update(new)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:  # lines of several processes stay whole
            file.write("".join(json.dumps({"image": name}) + "\n" for name in new))

    def count(self, num_images: int, names: Collection[str]) -> None:
        """Counts a batch of training.

        Args:
            num_images: images of the batch.
            names: the unreadable ones that they replaced.

        Raises:
            ValueError: where too many cannot be read.
        """
        self.record(names)
        self.replaced.update(names)
        self.num_seen += num_images
        of = self.num_images or max(self.num_seen, SMALLEST_STREAM)
        if len(self.replaced) > self.max_fraction * of:
            raise ValueError(
                f"{len(self.replaced)} of {of} images cannot be decoded, allowed: a share of "
                f"{self.max_fraction:g} (--max_bad_fraction). They are named in {self.path}; "
                "repair or remove them, or allow a larger share"
            )
