# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning at a higher resolution (section 3.2): positions interpolated, afresh, or no change.

The paper: keep the patch size, so that the sequence grows, and interpolate the position embeddings
by their place in the image.
"""

from .scale import Scale
from .study import Arm, Panel, Study

LABELLED = 0.1  # share of the images that fine-tuning sees


def make_arms(scale: Scale) -> list[Arm]:
    """Returns a pre-training at half of the image size, and three ways to go on from it."""
    half, whole = scale.image_size // 2, scale.image_size
    pretraining = Arm(
        name=f"pre-training at {half} px",
        place={"phase": "pre-training"},
        image_size=half,
        model={**scale.network(), "pooling": "gap"},
        arguments=scale.arguments(scale.pretraining_steps),
    )
    ways = {
        f"interpolated, {whole} px": (whole, False),
        f"re-initialised, {whole} px": (whole, True),
        f"none, {half} px": (half, False),
    }
    return [
        pretraining,
        *(
            Arm(
                name=f"fine-tuning: {way}",
                place={"way": way},
                image_size=image_size,
                model={},
                arguments=scale.arguments(scale.finetuning_steps),
                train_fraction=LABELLED,
                start=pretraining,
                fresh_positions=is_fresh,
            )
            for way, (image_size, is_fresh) in ways.items()
        ),
    ]


HIGHER_RESOLUTION = Study(
    name="higher_resolution",
    title="Higher resolution at fine-tuning",
    source="section 3.2",
    make_arms=make_arms,
    panels=(
        Panel(
            title="Accuracy after fine-tuning with 10 % of the images",
            x="way",
            x_label="position embeddings, image size",
        ),
    ),
)
