# SPDX-License-Identifier: Apache-2.0
"""Streams: every row once an epoch, the same batches however the lanes are spread, and resumed
where they stood.
"""

import itertools
import json
from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, Features, Image, load_dataset
from torch.utils.data import DataLoader

from vit_hf.data import stream as stream_module
from vit_hf.data.collation import ImageCollator
from vit_hf.data.stream import ImageStream, StreamBatches
from vit_hf.data.transforms import ImageTransform

NUM_ROWS, NUM_SHARDS = 96, 4
TRANSFORM = ImageTransform((8, 8), crop_area=0.3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, image_rows):
    """Four parquet files of 24 rows, whose labels are their places."""
    folder = tmp_path_factory.mktemp("shards")
    names = ClassLabel(names=[str(label) for label in range(NUM_ROWS)])
    features = Features({"image": Image(decode=False), "label": names})
    rows = Dataset.from_list(image_rows(NUM_ROWS), features=features)
    for index in range(NUM_SHARDS):
        shard = rows.shard(NUM_SHARDS, index, contiguous=True)
        shard.to_parquet(folder / f"train-{index}.parquet")
    return load_dataset("parquet", data_dir=str(folder), split="train", streaming=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(stream_module, "BLOCK_SIZE", 10)


def batches(shards, num_batches, *, num_workers=0, num_lanes=1, deal=None, places=None, skip=0):
    deal = deal or {"rank": 0, "num_processes": 1}
    stream = ImageStream(
        shards, TRANSFORM, batch_size=6, num_lanes=num_lanes, seed=3, places=places
    )
    numbers = list(StreamBatches(num_batches, **deal))[skip:]
    return list(
        DataLoader(
            stream, batch_sampler=numbers, collate_fn=ImageCollator(), num_workers=num_workers
        )
    )


def test_every_row_once_an_epoch_in_another_order_each(shards):
    labels = [batch["labels"].tolist() for batch in batches(shards, 2 * NUM_ROWS // 6)]
    first, second = labels[: NUM_ROWS // 6], labels[NUM_ROWS // 6 :]
    for epoch in (first, second):
        assert sorted(label for batch in epoch for label in batch) == list(range(NUM_ROWS))
    assert first != second
    in_first = [label for batch in first for label in batch]
    assert sum(after == before + 1 for before, after in itertools.pairwise(in_first)) < 20


def test_lanes_share_the_rows_out(shards):
    found = batches(shards, NUM_ROWS // 6, num_workers=2, num_lanes=2)
    counts = Counter(label for batch in found for label in batch["labels"].tolist())
    assert counts == Counter(range(NUM_ROWS))


def test_the_same_batches_however_the_lanes_are_spread(shards):
    alone = batches(shards, 12, num_workers=0, num_lanes=2)
    two_workers = batches(shards, 12, num_workers=2, num_lanes=2)
    processes = [
        batches(shards, 6, num_lanes=2, deal={"rank": rank, "num_processes": 2}) for rank in (0, 1)
    ]
    together = [batch for pair in zip(*processes, strict=True) for batch in pair]
    for one, two, three in zip(alone, two_workers, together, strict=True):
        assert one["pixel_values"].equal(two["pixel_values"])
        assert one["pixel_values"].equal(three["pixel_values"])


@pytest.mark.parametrize("stop", [1, 5, 16, 23])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_where_it_stood(shards, stop, num_workers):
    options = {"num_workers": num_workers, "num_lanes": 2}
    whole = batches(shards, 30, **options)
    places = {}
    for batch in whole[:stop]:
        places |= batch["places"]
    places = {int(lane): place for lane, place in json.loads(json.dumps(places)).items()}
    rest = batches(shards, 30, **options, places=places, skip=stop)
    for expected, found in zip(whole[stop:], rest, strict=True):
        assert expected["labels"].equal(found["labels"])
        assert expected["pixel_values"].equal(found["pixel_values"])


def test_resuming_decodes_nothing_that_was_decoded(shards):
    calls = []

    class Counting(ImageTransform):
        def __call__(self, source, *, seed=None):
            calls.append(seed)
            return super().__call__(source, seed=seed)

    whole = batches(shards, 15)
    stream = ImageStream(
        shards,
        Counting((8, 8), crop_area=0.3),
        batch_size=6,
        seed=3,
        places=whole[11]["places"],
    )
    stream.__getitems__([12])
    assert len(calls) == 6


def test_too_few_shards_says_how_many_are_needed(shards):
    with pytest.raises(ValueError, match=r"got a stream of 4 shards for 5 workers.*at least 5 sh"):
        ImageStream(shards, TRANSFORM, batch_size=2, num_lanes=5)


@pytest.mark.parametrize("num_lanes", [1, 4])
def test_another_number_of_lanes_is_refused(shards, num_lanes):
    places = batches(shards, 2, num_lanes=2)[1]["places"]
    with pytest.raises(ValueError, match=rf"got {num_lanes} workers .* stream with 2, allowed: as"):
        ImageStream(shards, TRANSFORM, batch_size=6, num_lanes=num_lanes, seed=3, places=places)
