# SPDX-License-Identifier: Apache-2.0
"""Which parameters decay, and how fast each layer learns.

Decay is of kernels only, as in the authors' code. With layer-wise decay of the learning rate (BEiT,
Bao et al., 2022) each layer learns `layer_decay` times as fast as the one above it.

Shapes: none; `L` layers.
"""

import re
from collections import defaultdict

from torch import nn


def decayed_names(model: nn.Module) -> set[str]:
    """Names the kernels of dense layers and convolutions: all that the authors' code decays.

    transformers' own choice also decays the class token and the position table.
    """
    return {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def depth_of(name: str, num_layers: int) -> int:
    """Returns how deep a parameter lies: 0 in the stem, 1 ... L in the layers, L + 1 above them."""
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    if layer:
        return int(layer[1]) + 1
    in_stem = re.search(r"(?:^|\.)(embeddings|positions|pre_layernorm)\.", name)
    return 0 if in_stem else num_layers + 1


def parameter_groups(
    model: nn.Module,
    *,
    num_layers: int,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float,
) -> list[dict]:
    """Returns an optimizer's groups, those with the full learning rate first."""
    decayed = decayed_names(model)
    groups = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # With one learning rate for all there are two groups, and as few calls of a kernel.
            below = 0 if layer_decay == 1 else num_layers + 1 - depth_of(name, num_layers)
            groups[below, name in decayed].append(parameter)
    return [
        {
            "params": groups[below, decays],
            "lr": learning_rate * layer_decay**below,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for below, decays in sorted(groups, key=lambda key: (key[0], not key[1]))
    ]
