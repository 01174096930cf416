# SPDX-License-Identifier: Apache-2.0
"""The whole life of a ViT on real images: pre-train by masked patch prediction, fine-tune at twice
the resolution, compare with training from scratch, evaluate, export, re-open.
"""

from dataclasses import dataclass, field


@dataclass
class Arguments:
    """The flags of `vit-hf quickstart`."""

    output_dir: str = field(
        default="runs/quickstart", metadata={"help": "Folder for everything that is written."}
    )
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "A Hub dataset or a folder of class folders; by default the 1,797 handwritten "
            "digits that scikit-learn ships."
        },
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Image column, where there are several."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Label column, where there are several."}
    )
    image_size: int = field(
        default=32, metadata={"help": "Pixels a side at fine-tuning; half at pre-training."}
    )
    patch_size: int = field(default=4, metadata={"help": "Pixels a side of a patch."})
    hidden_size: int = field(default=64, metadata={"help": "Width of the model."})
    num_hidden_layers: int = field(default=6, metadata={"help": "Layers of the model."})
    pretrain_epochs: float = field(
        default=40, metadata={"help": "Epochs of masked patch prediction."}
    )
    num_train_epochs: float = field(
        default=20, metadata={"help": "Epochs of fine-tuning, and of the control."}
    )
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Images a step."})
    pretrain_learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak learning rate of pre-training."}
    )
    learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak learning rate of fine-tuning and the control."}
    )
    flip: bool = field(
        default=False,
        metadata={"help": "Mirror half of the training images; leave it off for digits and text."},
    )
    seed: int = field(
        default=0, metadata={"help": "Seed of the split, the weights and the order of the images."}
    )


def run(arguments: Arguments) -> int:
    """Runs the quickstart; returns the exit status."""
    from ..experiment.quickstart import quickstart

    quickstart(arguments)
    return 0
