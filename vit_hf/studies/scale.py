# SPDX-License-Identifier: Apache-2.0
"""How large a study is: the network that every arm begins with, and how long it is trained."""

from dataclasses import dataclass
from typing import Any

WIDTH_OF_A_HEAD = 32


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The numbers that a study's arms have in common.

    Args:
        image_size: pixels a side.
        patch_size: pixels a side; a multiple of 4, the stride of the hybrid's stem.
        hidden_size: width of the ViT; a multiple of 32, the width of a head.
        num_hidden_layers: its layers.
        batch_size: images an update.
        steps: updates of a training from scratch.
        pretraining_steps: updates before fine-tuning.
        finetuning_steps: updates of fine-tuning.
        learning_rate: its peak, with AdamW.
        crop_area: least share of the area that a random crop of training keeps; 1 is no crop.
        num_test_images: test images that are measured, by class; all where there are no more.
        flip: whether half of the training images are mirrored.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    image_size: int
    patch_size: int
    hidden_size: int
    num_hidden_layers: int
    batch_size: int
    steps: int
    pretraining_steps: int
    finetuning_steps: int
    learning_rate: float
    crop_area: float
    num_test_images: int
    flip: bool = True

    def __post_init__(self):
        for name in ("steps", "pretraining_steps", "finetuning_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)}, allowed: at least 1")
        for name, unit in (("patch_size", 4), ("hidden_size", WIDTH_OF_A_HEAD)):
            value = getattr(self, name)
            if value < unit or value % unit:
                raise ValueError(f"got {name}={value}, allowed: multiples of {unit}")
        if self.image_size < self.patch_size or self.image_size % (2 * self.patch_size):
            raise ValueError(
                f"got image_size={self.image_size}, allowed: an even number of patches of "
                f"{self.patch_size} pixels, as one study trains at half of it"
            )

    def network(self) -> dict[str, Any]:
        """Returns the settings of the ViT's configuration beside the size of its images."""
        return {
            "patch_size": self.patch_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.hidden_size // WIDTH_OF_A_HEAD,
            "intermediate_size": 4 * self.hidden_size,
        }

    def arguments(self, num_steps: int) -> dict[str, Any]:
        """Returns what a training has that a recipe says otherwise."""
        return {
            "max_steps": num_steps,
            "learning_rate": self.learning_rate,
            "per_device_train_batch_size": self.batch_size,
            "total_train_batch_size": self.batch_size,
            "crop_area": self.crop_area,
            "flip": self.flip,
        }


SCALES = {
    # Seconds, to see that a study runs; its numbers say nothing.
    "miniature": Scale(
        image_size=16,
        patch_size=4,
        hidden_size=64,
        num_hidden_layers=2,
        batch_size=16,
        steps=4,
        pretraining_steps=4,
        finetuning_steps=4,
        learning_rate=1e-3,
        crop_area=0.6,
        num_test_images=100,
    ),
    # Half a minute a training on one CPU core.
    "small": Scale(
        image_size=32,
        patch_size=8,
        hidden_size=64,
        num_hidden_layers=3,
        batch_size=32,
        steps=800,
        pretraining_steps=1600,
        finetuning_steps=250,
        learning_rate=1e-3,
        crop_area=1.0,  # hardly an image is seen twice, but where a study has few of them
        num_test_images=5000,
    ),
    # For an accelerator: the recipes' network of 0.7 M parameters, 20 epochs of CIFAR-10.
    "medium": Scale(
        image_size=32,
        patch_size=4,
        hidden_size=96,
        num_hidden_layers=6,
        batch_size=128,
        steps=8000,
        pretraining_steps=16000,
        finetuning_steps=2000,
        learning_rate=1e-3,
        crop_area=0.6,
        num_test_images=10000,
    ),
}
