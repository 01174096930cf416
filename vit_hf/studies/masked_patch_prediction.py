# SPDX-License-Identifier: Apache-2.0
"""Masked patch prediction (B.1.2): what is predicted, and how much is corrupted.

The paper: all three targets work, raw pixels slightly worse; the mean colour has the best few-shot
accuracy; corrupting 15 % is slightly worse than 50 %; pre-training gains 2 points over none.
"""

from .scale import Scale
from .study import MASKED, Arm, Panel, Study

TARGETS = {
    "mean colour": "mean_color",
    "4x4 colours": "downsampled_color",
    "raw pixels": "raw_pixels",
}
PERCENTS = (50, 15)  # of the patches that are corrupted
LABELLED = 0.1  # share of the images that fine-tuning has the labels of


def make_arms(scale: Scale) -> list[Arm]:
    """Returns, for every target and corruption, a pre-training and its fine-tuning, and last the
    same fine-tuning from scratch.
    """
    network = {**scale.network(), "pooling": "gap"}
    arms = []
    for target, prediction_target in TARGETS.items():
        for percent in PERCENTS:
            place = {"target": target, "corrupted": f"{percent} %"}
            pretraining = Arm(
                name=f"pre-training: {target}, {percent} % corrupted",
                place={**place, "phase": "pre-training"},
                recipe=MASKED,
                image_size=scale.image_size,
                model={
                    **network,
                    "prediction_target": prediction_target,
                    "corruption_ratio": percent / 100,
                },
                arguments=scale.arguments(scale.pretraining_steps),
            )
            arms += [pretraining, finetuning(scale, {}, start=pretraining, place=place)]
    scratch = {"target": "from scratch", "corrupted": "nothing"}
    return [*arms, finetuning(scale, network, start=None, place=scratch)]


def finetuning(scale: Scale, network: dict, *, start: Arm | None, place: dict) -> Arm:
    """Returns the fine-tuning of a pre-training, or of a fresh network."""
    after = "from scratch" if start is None else start.name.removeprefix("pre-training: ")
    return Arm(
        name=f"fine-tuning: {after}",
        place={**place, "phase": "fine-tuning"},
        image_size=scale.image_size,
        model=network,
        arguments=scale.arguments(scale.finetuning_steps),
        train_fraction=LABELLED,
        start=start,
    )


MASKED_PATCH_PREDICTION = Study(
    name="masked_patch_prediction",
    title="Masked patch prediction",
    source="appendix B.1.2",
    make_arms=make_arms,
    panels=(
        Panel(
            title="Fine-tuned with the labels of 10 % of the images",
            x="target",
            x_label="prediction target",
            series="corrupted",
            where={"phase": "fine-tuning"},
        ),
        Panel(
            title="Frozen, linear, 10 labelled images a class",
            x="target",
            x_label="prediction target",
            series="corrupted",
            where={"phase": "pre-training"},
            metric="few_shot_10_accuracy",
            y_label="10-shot test accuracy (%)",
        ),
    ),
)
