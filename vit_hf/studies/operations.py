# SPDX-License-Identifier: Apache-2.0
"""Networks of three kinds with as many operations an image: a ViT, a hybrid and a ResNet.

The hybrid (section 3.1) has the root of a ResNet before its encoder, as the authors' R+Ti/16, and
as many tokens as the ViT; the ResNet is transformers' own, of three stages of one basic block.
Their widths are chosen so that an image costs what it costs the ViT. (With a residual block in so
small a stem, little would be left for the encoder.)
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ResNetConfig, ResNetForImageClassification

from .. import VisionTransformerConfig
from ..planning import Task, forward_flops
from .scale import Scale
from .study import Architecture

STEM = {"stem_blocks": [], "stem_width": 32}
STEM_STRIDE = 4
TOLERANCE = 0.2  # share by which operations may differ
NUM_WIDTHS = 64  # that are tried


def operations(
    config: Any,
    *,
    image_size: int,
    task: Task = "image-classification",
    in_training: bool = False,
) -> int:
    """Counts the operations of a forward pass of one image, as `planning.forward_flops` does."""
    if config.model_type != ResNetConfig.model_type:
        return forward_flops(config, task=task, in_training=in_training)
    with torch.device("meta"):
        model = ResNetForImageClassification(config).eval()
        image = torch.empty(1, config.num_channels, image_size, image_size)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(image)
    return counter.get_total_flops()


def networks(scale: Scale) -> dict[str, tuple[Architecture, dict[str, Any]]]:
    """Returns the architecture and the settings of the three.

    Raises:
        ValueError: where no width comes near enough.
    """
    vit = scale.network()

    def hybrid(width: int) -> dict[str, Any]:
        sizes = {"hidden_size": width, "intermediate_size": 4 * width}
        return {**vit, **STEM, **sizes, "patch_size": scale.patch_size // STEM_STRIDE}

    def resnet(width: int) -> dict[str, Any]:
        widths = [width, 2 * width, 4 * width]
        basic = {"depths": [1, 1, 1], "layer_type": "basic"}
        return {"embedding_size": width, "hidden_sizes": widths, **basic}

    def cost(architecture: Architecture, settings: dict[str, Any]) -> int:
        if architecture == "resnet":
            return operations(ResNetConfig(**settings), image_size=scale.image_size)
        config = VisionTransformerConfig(**settings, image_size=scale.image_size)
        return operations(config, image_size=scale.image_size)

    def nearest(
        kind: str, architecture: Architecture, make: Callable[[int], dict], widths: Sequence[int]
    ) -> tuple[Architecture, dict[str, Any]]:
        above = bisect_left(widths, wanted, key=lambda width: cost(architecture, make(width)))
        settings = min(
            map(make, widths[max(0, above - 1) : above + 1]),
            key=lambda settings: abs(cost(architecture, settings) - wanted),
        )
        if abs(cost(architecture, settings) - wanted) > TOLERANCE * wanted:
            raise ValueError(
                f"got a ViT of {wanted / 1e6:.2f} million operations an image, to which no "
                f"{kind} comes near; give a larger --hidden_size or --num_hidden_layers"
            )
        return architecture, settings

    wanted = cost("vision_transformer", vit)
    unit = 4 * vit["num_attention_heads"]
    widths = range(unit, unit * NUM_WIDTHS, unit)
    return {
        "ViT": ("vision_transformer", vit),
        "hybrid": nearest("hybrid", "vision_transformer", hybrid, widths),
        "ResNet": nearest("ResNet", "resnet", resnet, range(4, 4 * NUM_WIDTHS, 4)),
    }
