# SPDX-License-Identifier: Apache-2.0
"""Turns: ours and another are measured one after the other, again and again, and held against each
other pair by pair.

So a machine that becomes slower meets both alike. Who begins alternates.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

QUARTILES = (0.25, 0.5, 0.75)


def take_turns(
    ours: Callable[[], float],
    others: Mapping[str, Callable[[], float]],
    *,
    num_turns: int,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[float], dict[str, list[tuple[float, float]]]]:
    """Measures in turns.

    Args:
        ours: takes our turn and returns its images a second.
        others: take a turn of each of the others; each is next to one of ours.
        num_turns: of each of the others; of ours alone, where there are no others.
        say: takes lines that tell how far it is.

    Returns:
        All of our turns, and for each of the others the pairs of ours and theirs.
    """
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in others}
    own = []
    for number in range(num_turns):
        for name, theirs in others.items():
            order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            speeds = [turn() for turn in order]
            pair = (speeds[0], speeds[1]) if number % 2 == 0 else (speeds[1], speeds[0])
            pairs[name].append(pair)
            own.append(pair[0])
        if not others:
            own.append(ours())
        say(f"turn {number + 1} of {num_turns} is done")
    return own, pairs


def ratio_of(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Returns ours over theirs: the `median` of the pairs' ratios, their `spread`, and `pairs`."""
    ratios = [ours / theirs for ours, theirs in pairs]
    low, median, high = quartiles(ratios)
    return {"median": median, "spread": [low, high], "pairs": ratios}


def speed_of(turns: Sequence[float]) -> dict[str, Any]:
    """Returns `images_per_second`, the median of the turns, its `spread`, and the `turns`."""
    low, median, high = quartiles(turns)
    return {"images_per_second": median, "spread": [low, high], "turns": list(turns)}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the first quartile, the median and the third quartile."""
    low, median, high = np.quantile(np.asarray(values, dtype=np.float64), QUARTILES)
    return float(low), float(median), float(high)
