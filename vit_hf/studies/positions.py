# SPDX-License-Identifier: Apache-2.0
"""Position embeddings (D.4, table 8), and class token against mean (D.3, figure 9).

The paper: some position embedding is much better than none, and which one hardly matters; the mean
of the tokens does as well as a class token, but wants a learning rate of its own.
"""

from .scale import Scale
from .study import Arm, Panel, Study

POSITIONS = {
    "none": "none",
    "1-D": "learned_1d",
    "2-D": "learned_2d",
    "relative": "relative",
}
POOLINGS = {"class token": "cls", "mean": "gap"}
FACTORS = (0.5, 1, 2, 4)  # of the scale's learning rate


def make_arms(scale: Scale) -> list[Arm]:
    """Returns every position embedding with a class token, and both poolings with every rate.

    The former are trained as long as a pre-training: what patches show is learned first, where they
    lie much later.
    """
    comparison = [
        make_arm(
            scale,
            name=f"{name} positions",
            place={"positions": name},
            settings={"position_embedding": kind},
            arguments=scale.arguments(scale.pretraining_steps),
        )
        for name, kind in POSITIONS.items()
    ]
    rates = [scale.learning_rate * factor for factor in FACTORS]
    sweep = [
        make_arm(
            scale,
            name=f"{name}, learning rate {rate:g}",
            place={"pooling": name, "learning_rate": rate},
            settings={"pooling": kind},
            arguments={**scale.arguments(scale.steps), "learning_rate": rate},
        )
        for name, kind in POOLINGS.items()
        for rate in rates
    ]
    return comparison + sweep


def make_arm(scale: Scale, *, name: str, place: dict, settings: dict, arguments: dict) -> Arm:
    """Returns an arm with 1-D positions and a class token, where nothing else is set."""
    usual = {**scale.network(), "position_embedding": "learned_1d", "pooling": "cls"}
    return Arm(
        name=name,
        place=place,
        image_size=scale.image_size,
        model={**usual, **settings},
        arguments=arguments,
    )


POSITIONS_AND_POOLING = Study(
    name="positions",
    title="Position embeddings and pooling",
    source="D.4 with table 8, D.3 with figure 9",
    make_arms=make_arms,
    panels=(
        Panel(
            title="Position embeddings, with a class token",
            x="positions",
            x_label="position embedding",
        ),
        Panel(
            title="Pooling, with 1-D positions",
            x="learning_rate",
            x_label="peak learning rate",
            series="pooling",
            logarithmic=True,
        ),
    ),
)
