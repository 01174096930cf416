# SPDX-License-Identifier: Apache-2.0
"""Turns: a ratio is made of neighbouring turns, whatever the machine does meanwhile."""

import pytest

from vit_hf.benchmark.options import InputOptions
from vit_hf.benchmark.running import outline
from vit_hf.benchmark.turns import ratio_of, speed_of, take_turns


def test_a_ratio_is_pair_by_pair():
    # The machine halves its speed after each pair; ours is always twice as fast.
    order, clock = [], {"speed": 800.0}

    def turn(name, factor):
        order.append(name)
        speed = clock["speed"] * factor
        if len(order) % 2 == 0:
            clock["speed"] /= 2
        return speed

    own, pairs = take_turns(
        lambda: turn("ours", 1.0), {"peer": lambda: turn("peer", 0.5)}, num_turns=4
    )
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours"]
    assert own == [800.0, 400.0, 200.0, 100.0]
    ratio = ratio_of(pairs["peer"])
    assert ratio == {"median": 2.0, "spread": [2.0, 2.0], "pairs": [2.0] * 4}


def test_each_peer_is_next_to_a_turn_of_ours():
    order = []
    turns = {name: lambda name=name: order.append(name) or 1.0 for name in ("ours", "a", "b")}
    own, pairs = take_turns(turns.pop("ours"), turns, num_turns=2)
    assert order == ["ours", "a", "ours", "b", "a", "ours", "b", "ours"]
    assert len(own) == 4 and {name: len(found) for name, found in pairs.items()} == {"a": 2, "b": 2}


def test_it_says_how_far_it_is():
    told = []
    take_turns(lambda: 1.0, {"peer": lambda: 1.0}, num_turns=2, say=told.append)
    assert told == ["turn 1 of 2 is done", "turn 2 of 2 is done"]


def test_what_will_be_done_is_said_before():
    options = InputOptions(turns=6, seconds=10.0)
    told = outline(["ours", "peer", "limit"], options)  # 6 x 2 pairs of 20 s
    assert told.startswith("ours, peer, limit: each looks for its fastest setting, 2.5 s")
    assert told.endswith("turns of about 4.0 minutes in all")


def test_ours_alone():
    own, pairs = take_turns(lambda: 3.0, {}, num_turns=3)
    assert own == [3.0] * 3 and pairs == {}


def test_a_median_and_quartiles():
    told = speed_of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert told["images_per_second"] == 3.0 and told["spread"] == [2.0, 4.0]
    assert told["turns"] == pytest.approx([1, 2, 3, 4, 100])
