# SPDX-License-Identifier: Apache-2.0
"""Look inside a checkpoint: the paper's figures as PNG files, and one report.html with all of them,
the configuration, the passport of its conversion and its results.
"""

from dataclasses import dataclass, field


@dataclass
class Arguments:
    """The arguments of `vit-hf inspect`."""

    checkpoint: str = field(
        init=False,
        metadata={
            "word": None,
            "help": "A folder, a file or a Hub id of any format that `vit-hf convert` reads.",
        },
    )
    output_dir: str = field(metadata={"help": "The folder for the PNG files and report.html."})
    images: list[str] | None = field(
        default=None,
        metadata={
            "help": "Photos, or folders of photos; without them, the figures that need none."
        },
    )
    num_images: int = field(
        default=128,
        metadata={
            "help": "Images that the attention distance is averaged over; the paper has 128."
        },
    )
    num_shown: int = field(
        default=4, metadata={"help": "Images that are shown, with maps and predictions."}
    )
    image_size: list[int] | None = field(
        default=None,
        metadata={
            "help": "Image size to look at the model with: one number, or height and width; by "
            "default its own."
        },
    )
    device: str | None = field(
        default=None,
        metadata={"help": "Such as cpu or cuda:1; by default a GPU where there is one."},
    )


def run(arguments: Arguments) -> int:
    """Inspects a checkpoint; returns the exit status."""
    from transformers.utils.logging import disable_progress_bar

    from ..experiment.inspecting import inspect

    disable_progress_bar()
    for path in inspect(arguments):
        print(f"wrote: {path}")
    return 0
