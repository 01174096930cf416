# SPDX-License-Identifier: Apache-2.0
"""What a study is: arms that differ in one thing each, and the plots in which they stand."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .scale import Scale

Architecture = Literal["vision_transformer", "resnet"]

SUPERVISED = "cifar10-scratch-tiny"
MASKED = "cifar10-masked-patch-prediction-tiny"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One training, repeated with every seed.

    Args:
        name: in tables, and of its folder.
        place: where it stands in the plots, such as `{"model": "ViT", "share": 0.1}`.
        image_size: pixels a side.
        model: settings of the configuration; after a `start` those that change.
        recipe: whose arguments it is trained with; it also says the task.
        arguments: what differs from the recipe.
        architecture: `"resnet"` is transformers' own ResNet, with its settings in `model`.
        train_fraction: share of the training images, drawn by class with the seed.
        start: the arm whose weights it goes on from.
        fresh_positions: whether position embeddings start afresh there.
    """

    name: str
    place: dict[str, Any]
    image_size: int
    model: dict[str, Any]
    arguments: dict[str, Any]
    recipe: str = SUPERVISED
    architecture: Architecture = "vision_transformer"
    train_fraction: float = 1.0
    start: "Arm | None" = None
    fresh_positions: bool = False

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return "".join(
            letter if letter.isalnum() or letter in ".-" else "_" for letter in self.name
        )

    def settings(self) -> dict[str, Any]:
        """Returns all that its weights depend on beside the seed and the images."""
        settings = {name: value for name, value in asdict(self).items() if name != "place"}
        settings["start"] = self.start and self.start.settings()
        return settings


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot of a study's figure.

    Args:
        title: above it.
        x: the entry of the arms' `place` along the horizontal axis.
        x_label: what that is, with its unit.
        series: the entry that tells the lines apart; `None` for one line.
        where: entries that an arm must have to be in it.
        metric: what the vertical axis shows, in percent.
        y_label: what that is.
        logarithmic: whether the horizontal axis is; else its values are categories.
    """

    title: str
    x: str
    x_label: str
    series: str | None = None
    where: dict[str, Any] = field(default_factory=dict)
    metric: str = "accuracy"
    y_label: str = "test accuracy (%)"
    logarithmic: bool = False

    def shows(self, place: dict[str, Any]) -> bool:
        """Whether an arm of that place is in it."""
        needed = {self.x, *([self.series] if self.series else [])}
        return needed <= set(place) and all(
            place.get(name) == value for name, value in self.where.items()
        )


@dataclass(frozen=True, kw_only=True)
class Study:
    """A claim of the paper, and the arms that test it.

    Args:
        name: what `vit-hf study` takes.
        title: of its figure.
        source: where the claim stands in the paper.
        make_arms: the arms of a scale; what an arm starts from comes before it.
        panels: of its figure.
    """

    name: str
    title: str
    source: str
    make_arms: Callable[[Scale], list[Arm]]
    panels: tuple[Panel, ...]
