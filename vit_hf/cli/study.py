# SPDX-License-Identifier: Apache-2.0
"""One of the paper's claims at a scale that anyone can run: data_hunger, positions,
masked_patch_prediction, higher_resolution. Writes study.json and a figure; goes on where it
stopped.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from . import nearest
from .progress import hide_progress_bars


@dataclass
class Arguments:
    """The flags of `vit-hf study` beside those of the images; those of the scale change it."""

    name: str = field(
        init=False,
        metadata={
            "word": None,
            "help": "data_hunger, positions, masked_patch_prediction or higher_resolution.",
        },
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for everything; by default runs/studies/NAME."}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Every arm is trained with each."}
    )
    scale: Literal["miniature", "small", "medium"] = field(
        default="small",
        metadata={
            "help": "miniature: seconds, to see that it runs; small: one CPU core, about half a "
            "minute a training; medium: an accelerator."
        },
    )
    image_size: int | None = field(default=None, metadata={"help": "Pixels a side."})
    patch_size: int | None = field(default=None, metadata={"help": "Pixels a side of a patch."})
    hidden_size: int | None = field(default=None, metadata={"help": "Width of the ViT."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Layers of the ViT."})
    batch_size: int | None = field(default=None, metadata={"help": "Images an update."})
    steps: int | None = field(
        default=None, metadata={"help": "Updates of a training from scratch."}
    )
    pretraining_steps: int | None = field(
        default=None, metadata={"help": "Updates before fine-tuning."}
    )
    finetuning_steps: int | None = field(default=None, metadata={"help": "Updates of fine-tuning."})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate; the sweep is around it."}
    )
    crop_area: float | None = field(
        default=None,
        metadata={"help": "Least share of the area that a random crop keeps; 1 is no crop."},
    )
    num_test_images: int | None = field(
        default=None, metadata={"help": "Test images that are measured, by class."}
    )
    flip: bool = field(
        default=True,
        metadata={
            "help": "Mirrors half of the images; not for text, and by default not for digits."
        },
    )


def argument_classes() -> list[type]:
    """Returns the dataclasses whose fields are the flags."""
    from ..experiment.arguments import DataArguments

    return [Arguments, DataArguments]


def defaults(given: dict) -> dict:
    """Returns the flags' defaults for the images of `given`: the digits are not mirrored."""
    return {} if "dataset_name" in given else {"flip": False}


def run(arguments: Arguments, data) -> int:
    """Runs a study; returns the exit status."""
    from ..studies import STUDIES
    from ..studies.running import run_study
    from ..studies.scale import SCALES, Scale

    if arguments.name not in STUDIES:
        raise ValueError(
            f"got the study {arguments.name!r}, allowed: {', '.join(STUDIES)}."
            f"{nearest(arguments.name, STUDIES)}"
        )
    hide_progress_bars()
    given = {item.name: getattr(arguments, item.name) for item in fields(Scale)}
    given = {name: value for name, value in given.items() if value is not None}
    scale = replace(SCALES[arguments.scale], **given)
    if arguments.scale == "miniature":
        print("scale miniature: shows that the study runs; its numbers say nothing", flush=True)
    output_dir = Path(arguments.output_dir or f"runs/studies/{arguments.name}")
    run_study(STUDIES[arguments.name], scale, data, seeds=arguments.seeds, output_dir=output_dir)
    return 0
