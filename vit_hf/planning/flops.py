# SPDX-License-Identifier: Apache-2.0
"""What a model and a run cost, in floating-point operations.

The operations of matrix products and convolutions are counted by PyTorch as it runs the model
without data, two for each multiply-add, so that every variant is counted as it is built. Training
is three times the forward pass, as the backward pass has two products for each of the forward's.
Every token of every layer counts, though a classifier leaves those of the last layer out that
nobody reads: what is counted is the architecture's, whoever computes it.
This is how Dosovitskiy et al., 2020 (arXiv 2010.11929), count the exaFLOPs of table 6: its rows
follow from 303 million images an epoch (section 4.1).
"""

from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from ..modeling.modeling_vision_transformer import (
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)

FORWARDS_PER_STEP = 3  # the forward pass, and a backward pass of twice its operations
MODELS = {
    "image-classification": VisionTransformerForImageClassification,
    "masked-patch-prediction": VisionTransformerForMaskedPatchPrediction,
    "features": VisionTransformerModel,
}
Task = Literal["image-classification", "masked-patch-prediction", "features"]


def forward_flops(
    config: VisionTransformerConfig,
    *,
    task: Task = "image-classification",
    in_training: bool = False,
) -> int:
    """Counts the operations of a forward pass of one image of the native size.

    Args:
        config: of the model; the image is `config.image_hw`.
        task: what the model is for; its head counts.
        in_training: whether patch dropout leaves patches out, as the configuration says.

    Returns:
        Floating-point operations, two for each multiply-add.

    Raises:
        ValueError: for a task that there is not.
    """
    if task not in MODELS:
        raise ValueError(f"got task={task!r}, allowed: {', '.join(MODELS)}")
    with torch.device("meta"):
        model = MODELS[task](config).train(in_training).requires_grad_(False)
        image = torch.empty(1, config.num_channels, *config.image_hw)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(image, output_hidden_states=True)  # which has the last layer compute every token
    return counter.get_total_flops()


def training_flops(
    config: VisionTransformerConfig, *, num_images: int, task: Task = "image-classification"
) -> int:
    """Counts the operations of training on `num_images` images, each time one is seen.

    The optimiser's own operations, few for each parameter and step, are not counted.
    """
    return FORWARDS_PER_STEP * forward_flops(config, task=task, in_training=True) * num_images


def images_seen(arguments: dict[str, Any], *, dataset_size: int) -> int:
    """Returns how many images a run sees, repetitions counted.

    Args:
        arguments: by transformers' names: `max_steps` with `total_train_batch_size`, or
            `num_train_epochs`.
        dataset_size: training images.
    """
    if arguments.get("max_steps", -1) > 0:
        return arguments["max_steps"] * arguments["total_train_batch_size"]
    return round(arguments["num_train_epochs"] * dataset_size)
