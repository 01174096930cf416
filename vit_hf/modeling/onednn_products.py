# SPDX-License-Identifier: Apache-2.0
"""Products by oneDNN on a CPU, and in float32 where PyTorch's own are slower.

In float32 PyTorch multiplies by MKL, which leaves the AVX512 of AMD's processors unused. oneDNN,
by which it multiplies bfloat16, uses it: there a dense layer's products, forward and backward, take
about half as long (docs/speed.md).

Shapes: `K` inputs, `N` outputs, `...` any leading axes.
"""

from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils import _python_dispatch

# By names that a checkpoint's code may outlive.
is_seen_by_mode = getattr(_python_dispatch, "is_in_torch_dispatch_mode", lambda: False)
is_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def is_amd_with_avx512() -> bool:
    """Whether the processor is one of AMD's with AVX512, as Zen 4 and later are, and PyTorch can
    multiply by oneDNN.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AMD" in capabilities.get("cpu_name", "")
    )


IS_FASTER = is_amd_with_avx512()
NUM_FEW_ROWS = 64  # from which on it is faster


def is_ordinary(inputs: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether inputs and weights are plain tensors of one type on a CPU, and nobody sees by which
    operation they are multiplied: compilers and tracers, counters of operations, autocast, and the
    transforms of `torch.func` know PyTorch's own.
    """
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or torch.is_autocast_enabled("cpu")
        or type(inputs) is not torch.Tensor
        or inputs.device.type != "cpu"
        or inputs.dtype != weight.dtype
        or inputs.numel() == 0
        or inputs.shape[-1] != weight.shape[-1]  # which PyTorch says more clearly
        or weight.device.type != "cpu"
        or type(weight.data) is not torch.Tensor
        or is_seen_by_mode()
        or is_transformed()
        or getattr(forward_ad, "_current_level", -1) >= 0
    )


def can_multiply(inputs: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `(..., K)` and `(N, K)` are multiplied faster by `OneDNNProduct`, and may be."""
    return (
        IS_FASTER
        and is_ordinary(inputs, weight)
        and inputs.dtype == torch.float32
        and inputs.numel() >= NUM_FEW_ROWS * inputs.shape[-1]
        and bool(torch.backends.mkldnn.enabled)
    )


def multiply(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    algorithm: str = "",
) -> torch.Tensor:
    """Maps `(..., K)` to `(..., N)` by oneDNN, which PyTorch's autograd does not know.

    Args:
        inputs: `(..., K)`.
        weight: `(N, K)`, as they lie or packed.
        bias: `(N,)`.
        activation: applied while the product is written, by oneDNN's name.
        algorithm: of the activation.
    """
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], algorithm)


class OneDNNProduct(torch.autograd.Function):
    """`multiply`, differentiable as often as one likes: its gradients are such products too."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Maps `(..., K)` to `(..., N)`."""
        ctx.save_for_backward(inputs, weight)
        return multiply(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Maps the gradient `(..., N)` to those of inputs, weights and bias."""
        (gradient,) = gradients
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            OneDNNProduct.apply(gradient, weight.t(), None) if of_inputs else None,
            OneDNNProduct.apply(rows.t(), inputs.flatten(0, -2).t(), None) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
