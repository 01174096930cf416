# SPDX-License-Identifier: Apache-2.0
"""Training in 8-bit floats: the encoder's dense layers multiply in float8, by torchao.

Micikevicius et al., 2022, arXiv 2209.05433. Weights, their gradients and the optimizer stay in
float32, everything but the products of the dense layers in bfloat16, and the checkpoint's keys what
they are. torchao scales every tensor by its largest value, at every step.
"""

import importlib.util

import torch
from torch import nn

from ..modeling.dense import Dense

LEAST_CAPABILITY = (8, 9)  # of the GPUs that multiply in float8: Ada, Hopper and newer
MULTIPLE = 16  # of widths that float8 kernels take


def check_float8() -> None:
    """Raises a `ValueError` where there is no torchao or no GPU that multiplies in float8."""
    if importlib.util.find_spec("torchao") is None:
        raise ValueError("got float8 without torchao; pip install 'vit_hf[float8]'")
    if not torch.cuda.is_available():
        raise ValueError("got float8, and PyTorch finds no GPU here; allowed: bf16 or float32")
    capability = torch.cuda.get_device_capability()
    if capability < LEAST_CAPABILITY:
        raise ValueError(
            f"got float8 on a GPU of compute capability {'.'.join(map(str, capability))}, allowed: "
            f"{'.'.join(map(str, LEAST_CAPABILITY))} and newer (Ada, Hopper); train in bf16 here"
        )


def convert_to_float8(model: nn.Module, *, emulate: bool = False) -> None:
    """Has the encoder's dense layers multiply in float8, in place.

    Heads, the patch projection and layers whose widths are no multiples of 16 stay as they are.
    Without `torch.compile` it is slower than bfloat16: the scaling then takes passes of its own.

    Args:
        model: to be trained, under autocast in bfloat16.
        emulate: whether to compute the rounding without the kernels, on any device.

    Raises:
        ValueError: where there is no torchao or no GPU that multiplies in float8.
    """
    if not emulate:
        check_float8()
    from torchao.float8 import (  # pyright: ignore[reportMissingImports]
        Float8LinearConfig,
        convert_to_float8_training,
    )

    def is_converted(module: nn.Module, name: str) -> bool:
        return isinstance(module, Dense) and not any(
            width % MULTIPLE for width in module.weight.shape
        )

    # Padded where a batch has no multiple of 16 tokens.
    config = Float8LinearConfig(pad_inner_dim=True, emulate=emulate)
    convert_to_float8_training(model, module_filter_fn=is_converted, config=config)
