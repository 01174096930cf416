# SPDX-License-Identifier: Apache-2.0
"""Batches are a function of the seed, the epoch and their number alone."""

import pytest

from vit_hf.data.draws import Draw, EpochBatches, derive_seed


def updates(num_images, *, batch_size, accumulation, num_processes, epoch=0, seed=0):
    """Returns the images of each update, over all processes."""
    batches = []
    for rank in range(num_processes):
        sampler = EpochBatches(
            num_images,
            batch_size=batch_size,
            accumulation=accumulation,
            rank=rank,
            num_processes=num_processes,
            seed=seed,
        )
        sampler.set_epoch(epoch)
        own = list(sampler)
        assert len(own) == len(sampler)
        batches.append(own)
    in_order = [batch for together in zip(*batches, strict=True) for batch in together]
    per_update = accumulation * num_processes
    return [
        [draw for batch in in_order[first : first + per_update] for draw in batch]
        for first in range(0, len(in_order), per_update)
    ]


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "num_processes"), [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2)]
)
def test_every_way_to_make_up_a_batch_gives_the_same_updates(
    batch_size, accumulation, num_processes
):
    found = updates(
        45, batch_size=batch_size, accumulation=accumulation, num_processes=num_processes
    )
    assert found == updates(45, batch_size=8, accumulation=1, num_processes=1)
    assert [len(update) for update in found] == [8] * 5


def test_an_epoch_takes_no_image_twice_and_the_next_takes_them_in_another_order():
    first = [d for u in updates(40, batch_size=8, accumulation=1, num_processes=1) for d in u]
    second = updates(40, batch_size=8, accumulation=1, num_processes=1, epoch=1)
    assert sorted(draw.index for draw in first) == list(range(40))
    assert [draw.index for draw in first] != [draw.index for u in second for draw in u]
    assert not {draw.seed for draw in first} & {draw.seed for u in second for draw in u}


def test_another_seed_is_another_order():
    found = [
        updates(40, batch_size=8, accumulation=1, num_processes=1, seed=seed) for seed in (0, 1)
    ]
    assert found[0] != found[1]


def test_few_images_come_again_with_other_augmentation():
    (update,) = updates(3, batch_size=8, accumulation=1, num_processes=1)
    assert [draw.index for draw in update].count(update[0].index) == 3
    assert len({draw.seed for draw in update}) == 8


def test_seeds_depend_on_every_number():
    seeds = {derive_seed(*numbers) for numbers in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (0, 1), (0,)]}
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, 1, 2) == derive_seed(0, 1, 2)


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="got a training set of 0 images"):
        EpochBatches(0, batch_size=1)


def test_a_draw_is_no_plain_index():
    assert Draw(3, (5,)) != 3 and Draw(3, (5,)).index == 3
