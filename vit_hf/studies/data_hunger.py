# SPDX-License-Identifier: Apache-2.0
"""Data hunger (section 4.3, figures 3 and 4): who gains most from more images, at the same compute.

The paper: with few images a ResNet or a hybrid is ahead of a ViT of the same compute; with many the
ViT overtakes.
"""

from .operations import networks
from .scale import Scale
from .study import Arm, Panel, Study

PERCENTS = (1, 3, 10, 30, 100)  # of the training images


def make_arms(scale: Scale) -> list[Arm]:
    """Returns every network with every share of the images; all are trained as many steps."""
    return [
        Arm(
            name=f"{kind}, {percent} % of the images",
            place={"network": kind, "percent": percent},
            architecture=architecture,
            image_size=scale.image_size,
            model=settings,
            arguments=scale.arguments(scale.steps),
            train_fraction=percent / 100,
        )
        for kind, (architecture, settings) in networks(scale).items()
        for percent in PERCENTS
    ]


DATA_HUNGER = Study(
    name="data_hunger",
    title="Data hunger: equal operations an image, equal steps",
    source="section 4.3, figures 3 and 4",
    make_arms=make_arms,
    panels=(
        Panel(
            title="Accuracy as the training images grow",
            x="percent",
            x_label="training images (% of all, by class)",
            series="network",
            logarithmic=True,
        ),
    ),
)
