# SPDX-License-Identifier: Apache-2.0
"""What an NVIDIA GPU computes faster as one matrix product, in bfloat16 and float16.

The patch projection is a product of the patches instead of a convolution. In inference queries,
keys and values are one product instead of three, and GELU is applied while a product is written.
Parameters, keys and modules stay what they are. A layer with something of someone else's on it (a
hook, an adapter, quantised or sharded weights) is called as always.

Shapes: `B` batch, `C` channels, `H` and `W` height and width of the image, `h` and `w` of a patch,
`N` patches, `K` inputs and `D` outputs of a layer, `...` any leading axes.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from .hooks import is_unwatched
from .patches import cut_patches

HALF_TYPES = (torch.bfloat16, torch.float16)
# cuBLAS applies GELU by the tanh formula, to the sum in float32 before it is rounded. In bfloat16
# that is nearer to exact GELU than exact GELU of the rounded product is, see docs/speed.md.
TYPES_OF_ACTIVATIONS = {"gelu": (torch.bfloat16,), "gelu_pytorch_tanh": HALF_TYPES}


def is_half_on_gpu(inputs: torch.Tensor) -> bool:
    """Whether inputs are what products are fused for."""
    is_on_nvidia = inputs.device.type == "cuda" and torch.version.hip is None
    return is_on_nvidia and inputs.dtype in HALF_TYPES


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer's own weights alone decide what it returns, and it `is_unwatched`.

    Args:
        layer: any.
        kind: the class whose forward pass it has to have.
    """
    return (
        type(layer).forward is kind.forward
        and type(layer.weight) is nn.Parameter
        and is_unwatched(layer)
    )


def can_fuse(layer: nn.Module, kind: type[nn.Module], inputs: torch.Tensor) -> bool:
    """Whether a layer's product with inputs may be computed without calling it, and is faster so.

    Args:
        layer: any, see `is_plain` for what is left alone.
        kind: the class whose forward pass it has to have.
        inputs: in the type that it multiplies in, see `as_multiplied`.
    """
    return (
        is_half_on_gpu(inputs)
        and is_plain(layer, kind)
        and layer.weight.device == inputs.device
        and (layer.weight.dtype == inputs.dtype or torch.is_autocast_enabled(inputs.device.type))
    )


def as_multiplied(inputs: torch.Tensor) -> torch.Tensor:
    """Returns what dense layers are given in the type that they multiply in.

    Under autocast each of them would cast its own copy, and cast back as many gradients; their
    gradients are now added up in the lower type. Autocast leaves float64 alone, and so does this.
    """
    device = inputs.device.type
    if inputs.is_meta or inputs.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return inputs
    return inputs.to(torch.get_autocast_dtype(device))


def can_multiply_patches(projection: nn.Conv2d, images: torch.Tensor) -> bool:
    """Whether a convolution may be computed as a product of patches: its kernels are as large as
    their steps, and lie beside each other.

    Args:
        projection: the convolution.
        images: `(B, C, H, W)`, in the type that it multiplies in.
    """
    return (
        can_fuse(projection, nn.Conv2d, images)
        and projection.stride == projection.kernel_size
        and projection.padding == (0, 0)
        and projection.dilation == (1, 1)
        and projection.groups == 1
    )


def multiply_patches(images: torch.Tensor, projection: nn.Conv2d) -> torch.Tensor:
    """Maps images `(B, C, H, W)` to patch embeddings `(B, N, D)`, row by row.

    Args:
        images: rows and columns of pixels that fill no patch are left out.
        projection: kernels `(D, C, h, w)`, see `can_multiply_patches`.
    """
    height, width = projection.kernel_size
    grid = images.shape[2] // height, images.shape[3] // width
    patches = cut_patches(images, grid, (height, width))  # (B, N, C, h, w)
    return functional.linear(patches.flatten(2), projection.weight.flatten(1), projection.bias)


def is_inference(layer: nn.Module) -> bool:
    """Whether a layer is only evaluated. Where a layer in training is computed without gradients,
    it is computed again with them, and that has to be the same.
    """
    return not torch.is_grad_enabled() and not layer.training


def can_multiply_at_once(
    layers: Sequence[nn.Linear], kind: type[nn.Module], inputs: torch.Tensor
) -> bool:
    """Whether the products of layers with the same inputs may be one, in inference; in training the
    gradients would have to be put together.

    Args:
        layers: of the same inputs.
        kind: the class whose forward pass they have to have.
        inputs: in the type that they multiply in.
    """
    return (
        all(is_inference(layer) and can_fuse(layer, kind, inputs) for layer in layers)
        and len({layer.bias is None for layer in layers}) == 1
    )


def multiply_at_once(inputs: torch.Tensor, layers: Sequence[nn.Linear]) -> list[torch.Tensor]:
    """Maps `(..., K)` to what layers of the same inputs make of it, `(..., D)` each."""
    weights: list[torch.Tensor] = [layer.weight for layer in layers]
    biases: list[torch.Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    bias = torch.cat(biases) if biases else None
    outputs = functional.linear(inputs, torch.cat(weights), bias)
    return list(outputs.split([len(weight) for weight in weights], dim=-1))


def can_activate(layer: nn.Linear, activation: str, inputs: torch.Tensor) -> bool:
    """Whether an activation may be applied while a layer's product, which `can_fuse` allows, is
    written: in inference.

    Args:
        layer: the layer.
        activation: its name, as in `hidden_act`.
        inputs: of the layer, in the type that it multiplies in.
    """
    return (
        inputs.dtype in TYPES_OF_ACTIVATIONS.get(activation, ())
        and layer.bias is not None
        and is_inference(layer)
    )


def multiply_and_activate(inputs: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """Maps `(..., K)` to GELU of what a layer makes of it, `(..., D)`."""
    # On a GPU autocast knows nothing of this operation, so it is given its type.
    weight, bias = layer.weight.to(inputs.dtype), layer.bias.to(inputs.dtype)
    rows = inputs.reshape(-1, inputs.shape[-1])
    outputs = torch.ops.aten._addmm_activation.default(bias, rows, weight.t(), use_gelu=True)
    return outputs.reshape(*inputs.shape[:-1], len(weight))
