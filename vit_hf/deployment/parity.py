# SPDX-License-Identifier: Apache-2.0
"""Does a graph give the numbers of its model? Measured on real images, from the picture on.

The model is run by PyTorch behind its own image processor, the graph by its own runtime on the raw
pictures, so that the difference holds all that a user would see: the resize in the graph, the
runtime's arithmetic, the precision.

Shapes: `B` images, `K` classes or features.
"""

from collections.abc import Sequence

import torch
from PIL import Image

from .formats import Format
from .serving import main_output

# One image in a hundred may change its class, for those whose two best are level; of fewer, one.
DISAGREEMENTS = 0.01


class NotTheSameModel(ValueError):
    """A graph that does not give its model's numbers."""


@torch.no_grad()
def reference_outputs(model, processor, images: Sequence[Image.Image]) -> torch.Tensor:
    """Returns the outputs `(B, K)` of the model in PyTorch behind its image processor."""
    outputs = []
    for image in images:
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        outputs.append(main_output(model(pixels))[0])
    return torch.stack(outputs)


def compare(expected: torch.Tensor, got: torch.Tensor) -> dict:
    """Compares outputs `(B, K)` of the same images.

    Returns:
        `largest_difference`; `deviation`, how far the outputs of different images lie apart (a
        standard deviation over the images, its mean over the outputs); `relative_difference`, the
        first over the second; `top1_agreement`, the share of outputs whose largest value stands at
        the same place: of images with the same class.

    Raises:
        NotTheSameModel: for other shapes and for values that are not finite.
    """
    if expected.shape != got.shape or not got.isfinite().all():
        raise NotTheSameModel(
            f"the graph gives {tuple(got.shape)} values, {int(got.isfinite().sum())} of them "
            f"finite, the model {tuple(expected.shape)}"
        )
    deviation = deviation_of(expected)
    largest = (expected - got).abs().max().item()
    agreement = (expected.argmax(dim=-1) == got.argmax(dim=-1)).double().mean().item()
    return {
        "largest_difference": largest,
        "deviation": deviation,
        "relative_difference": largest / deviation,
        "top1_agreement": agreement,
    }


def deviation_of(expected: torch.Tensor) -> float:
    """Returns how far the outputs `(B, K)` of different images lie apart.

    Raises:
        ValueError: where they do not, as those of a head of zeros: any two such models would agree.
    """
    deviation = expected.flatten(1).std(dim=0).mean().item()
    if deviation < 1e-6:
        raise ValueError(
            "every image gets the same output, as from a head that is not trained, so that nothing "
            "can be compared; export a trained checkpoint, or its features with --task features"
        )
    return deviation


def check(comparison: dict, format: Format, *, num_images: int):
    """Raises `NotTheSameModel` where a comparison is worse than the format allows."""
    agreement, needed = comparison["top1_agreement"], needed_agreement(num_images)
    if agreement < needed:
        raise NotTheSameModel(
            f"the graph agrees with the model on the class of {agreement:.1%} of {num_images} "
            f"images, allowed: {needed:.1%} or more"
        )
    relative = comparison["relative_difference"]
    if format.closeness is not None and relative > format.closeness:
        raise NotTheSameModel(
            f"the graph's outputs differ by up to {comparison['largest_difference']:.1e} from the "
            f"model's, {relative:.1%} of their deviation, allowed: {format.closeness:.0%}"
        )


def needed_agreement(num_images: int) -> float:
    """Returns the least share of images that keep their class: all but one in a hundred, or but
    one.
    """
    return 1 - max(int(DISAGREEMENTS * num_images), 1) / num_images
