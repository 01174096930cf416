# SPDX-License-Identifier: Apache-2.0
"""Which images make up each batch of training, as a pure function of the seed.

No generator lives on from batch to batch: the order of an epoch comes from the seed and the epoch,
and each drawn image carries a seed of its own, from which its augmentation is drawn. So a run that
was killed and resumed, on any number of workers, sees bit-identical batches, and so do several
processes together.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One image of a batch: its place in the dataset, and the numbers that the seed of its
    augmentation is derived from, in the worker: for a batch of 128 that takes milliseconds.
    """

    index: int
    numbers: tuple[int, ...]

    @property
    def seed(self) -> int:
        """The seed."""
        return derive_seed(*self.numbers)


def derive_seed(*numbers: int) -> int:
    """Returns a 63-bit seed that depends on every one of the non-negative `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class EpochBatches(Sampler[list[Draw]]):
    """The batches of one process, epoch by epoch.

    The images of an epoch, in a random order, are dealt to updates of
    `batch_size * accumulation * num_processes` images: the first `batch_size` of an update to the
    first process, the next to the second, and so on, then again for the next accumulated batch.
    The remainder that fills no update is left out, so the updates are the same for every way to
    make up one effective batch. Where there are fewer images than an update takes, they come again.

    Args:
        num_images: size of the dataset.
        batch_size: images a process takes at once.
        accumulation: batches that a process accumulates for an update.
        rank: this process, from 0.
        num_processes: how many processes train together.
        seed: of the order and the augmentation.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        num_processes: int = 1,
        seed: int = 0,
    ):
        if num_images < 1:
            raise ValueError("got a training set of 0 images, allowed: at least one")
        self.num_images, self.batch_size, self.accumulation = num_images, batch_size, accumulation
        self.rank, self.num_processes, self.seed = rank, num_processes, seed
        self.epoch = 0

    def set_epoch(self, epoch: int):
        """Chooses the epoch that is iterated next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """The batches that this process takes in an epoch."""
        images_per_update = self.batch_size * self.accumulation * self.num_processes
        return max(1, self.num_images // images_per_update) * self.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yields this process's batches of the epoch."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        order = torch.randperm(self.num_images, generator=generator).tolist()
        for batch in range(len(self)):
            first = (batch * self.num_processes + self.rank) * self.batch_size
            yield [
                Draw(order[place % len(order)], (self.seed, self.epoch, place))
                for place in range(first, first + self.batch_size)
            ]
