# SPDX-License-Identifier: Apache-2.0
"""Streamed rows to samples: endless, shuffled, dealt to processes and workers, and resumable.

The shards of a stream are dealt to *lanes*, one for each worker of each process, and batch number
`n` of the whole run comes from lane `n % num_lanes`. So batch `n` is the same for every way to
spread the lanes over processes and workers. Each lane reads a block of rows at a time and shuffles
it, by a seed of the lane, epoch and block. Where a lane stands travels with each batch that it
fills, and belongs into the run's checkpoints: a resumed run opens each lane where it stood and
reads at most its current block again, without decoding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import Dataset, Sampler

from .dataset import MAX_SUBSTITUTES, name_of, nothing_decodable, sample_of
from .decoding import UndecodableImage
from .draws import derive_seed

BLOCK_SIZE = 1000  # rows that are shuffled together; undecoded, some 100 MB of photographs


class StreamBatches(Sampler[list[int]]):
    """The numbers, in the whole run, of the batches of one process."""

    def __init__(self, num_batches: int, *, rank: int = 0, num_processes: int = 1):
        self.num_batches, self.rank, self.num_processes = num_batches, rank, num_processes

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        """Yields each number in a list: the `DataLoader` asks for a batch of one batch."""
        for batch in range(self.num_batches):
            yield [batch * self.num_processes + self.rank]


@dataclass
class Place:
    """Where a lane stands.

    Attributes:
        epoch: passes over the lane's shards that are finished.
        block: blocks of this epoch that are finished.
        row: rows of the current block that were taken.
        shards: state of the lane's shards before the current block, see
            `datasets.IterableDataset.state_dict`; `None` at the start of an epoch.
        num_lanes: how many share the stream; among another number it would be another share.
    """

    epoch: int = 0
    block: int = 0
    row: int = 0
    shards: dict | None = None
    num_lanes: int = 1


class Lane:
    """One reader of a share of the shards.

    Args:
        rows: the whole stream, with `image` (undecoded) and perhaps `label`.
        number: the lane's, from 0.
        seed: of the order.
        place: where to begin.
    """

    def __init__(self, rows: IterableDataset, number: int, *, seed: int, place: Place):
        self.source, self.number, self.seed, self.place = rows, number, seed, place
        self.rows = self.endless_rows()

    def endless_rows(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yields rows with the seeds of their augmentation, and keeps `place` up to date."""
        place = self.place
        while True:
            shards = self.shards_of_epoch(place.epoch)
            if place.shards is not None:
                shards.load_state_dict(place.shards)
            num_rows = 0
            for block in shards.iter(batch_size=BLOCK_SIZE):
                after = shards.state_dict()
                size = len(block["image"])
                num_rows += size
                numbers = (self.seed, place.epoch, self.number, place.block)
                generator = torch.Generator().manual_seed(derive_seed(*numbers))
                for index in torch.randperm(size, generator=generator)[place.row :].tolist():
                    place.row += 1
                    row = {name: column[index] for name, column in block.items()}
                    yield row, derive_seed(*numbers, index)
                place.block, place.row, place.shards = place.block + 1, 0, after
            if num_rows == 0 and place.shards is None:
                raise ValueError(f"got no image from the shards of lane {self.number}")
            place.epoch, place.block, place.row, place.shards = place.epoch + 1, 0, 0, None

    def shards_of_epoch(self, epoch: int) -> IterableDataset:
        """Returns the lane's share of the shards, dealt anew in every epoch."""
        num_lanes = self.place.num_lanes
        share = split_dataset_by_node(self.source, self.number, num_lanes, strategy="shards")
        # Shuffles the shards, and them alone: `shuffle` has a buffer too, whose rows would be lost
        # when resumed. Epoch 0 is not shuffled.
        share.set_epoch(1 + derive_seed(self.seed, epoch) % (2**31 - 1))
        return share

    def sample(self, transform: Callable[..., np.ndarray]) -> dict[str, Any]:
        """Returns the next sample whose image can be decoded."""
        undecodable = []
        while len(undecodable) < MAX_SUBSTITUTES:
            row, seed = next(self.rows)
            try:
                return sample_of(row, transform, seed=seed, undecodable=undecodable)
            except UndecodableImage:
                name = f"epoch {self.place.epoch}, lane {self.number}, block {self.place.block}"
                undecodable.append(name_of(row, f"{self.place.row} of {name}"))
        raise nothing_decodable(undecodable)


class ImageStream(Dataset):
    """Batches of a stream by their number in the run, for a `DataLoader` over `StreamBatches`.

    Samples are those of `ImageDataset`; the last of each batch also holds `place`, the lane's
    number and its place after the batch.

    Args:
        rows: a stream with the columns `image` (undecoded) and perhaps `label`.
        transform: `(image, *, seed) -> (3, H, W)` uint8.
        batch_size: samples a batch.
        num_lanes: as many as there are workers in all processes.
        seed: of the order and the augmentation.
        places: where lanes begin, by number, from a checkpoint.

    Raises:
        ValueError: for more lanes than shards, and for places of another number of lanes.
    """

    def __init__(
        self,
        rows: IterableDataset,
        transform: Callable[..., np.ndarray],
        *,
        batch_size: int,
        num_lanes: int = 1,
        seed: int = 0,
        places: Mapping[int, dict] | None = None,
    ):
        if rows.num_shards < num_lanes:
            raise ValueError(
                f"got a stream of {rows.num_shards} shards for {num_lanes} workers (all processes "
                f"together), allowed: at most one worker a shard. Use fewer workers "
                f"(--dataloader_num_workers), or split the data into at least {num_lanes} shards"
            )
        self.rows, self.transform, self.batch_size = rows, transform, batch_size
        self.num_lanes, self.seed = num_lanes, seed
        self.places = {number: Place(**place) for number, place in (places or {}).items()}
        for place in self.places.values():
            if place.num_lanes != num_lanes:
                raise ValueError(
                    f"got {num_lanes} workers (all processes together) for a run that read its "
                    f"stream with {place.num_lanes}, allowed: as many, or images would be skipped "
                    "and others come twice; resume with the --dataloader_num_workers and the "
                    "number of processes that it began with"
                )
        self.lanes: dict[int, Lane] = {}

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the samples of one batch."""
        lane = self.lane(numbers[0] % self.num_lanes)
        samples = [lane.sample(self.transform) for _ in range(self.batch_size)]
        samples[-1]["place"] = (lane.number, asdict(lane.place))
        return samples

    def lane(self, number: int) -> Lane:
        """Returns a lane; it lives on in the worker that reads it."""
        if number not in self.lanes:
            place = self.places.get(number, Place(num_lanes=self.num_lanes))
            self.lanes[number] = Lane(self.rows, number, seed=self.seed, place=place)
        return self.lanes[number]
