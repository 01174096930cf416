# SPDX-License-Identifier: Apache-2.0
"""Dense layers' products in float32 by oneDNN, on CPUs where PyTorch's own are slower.

In float32 PyTorch multiplies by MKL, which leaves the AVX512 of AMD's processors unused. oneDNN,
by which it multiplies bfloat16, uses it, and takes about half the time (docs/speed.md).

Shapes: `R` rows, `K` inputs, `N` outputs, `...` any leading axes.
"""

from typing import Any, cast

import torch
from torch.nn import functional

from .hooks import is_traced


def is_amd_with_avx512() -> bool:
    """Whether the processor is one of AMD's with AVX512, as Zen 4 and later are, where PyTorch
    multiplies by MKL and could by oneDNN.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AMD" in capabilities.get("cpu_name", "")
    )


IS_FASTER = is_amd_with_avx512()
NUM_FEW_ROWS = 64  # from which on it is faster


def is_plain_tensor(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor's numbers lie in a CPU's memory, in a type."""
    return (
        type(tensor.data) is torch.Tensor
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.dtype == dtype
    )


def is_ordinary(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether nobody sees it when plain `(..., K)`, `(N, K)` and `(N,)` of one type are multiplied
    in another way. What does not fit together PyTorch tells more clearly.
    """
    return (
        not is_traced()
        and not torch.is_autocast_enabled("cpu")
        and type(inputs) is torch.Tensor
        and is_plain_tensor(inputs, weight.dtype)
        and is_plain_tensor(weight, weight.dtype)
        and (bias is None or is_plain_tensor(bias, weight.dtype))
        and inputs.numel() > 0
        and inputs.shape[-1] == weight.shape[-1]
    )


def can_multiply(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether `(..., K)` and `(N, K)` are multiplied faster by oneDNN, and may be."""
    return (
        IS_FASTER
        and is_ordinary(inputs, weight, bias)
        and inputs.dtype == torch.float32
        and inputs.numel() >= NUM_FEW_ROWS * inputs.shape[-1]
        and (weight.is_contiguous() or weight.t().is_contiguous())  # else by its reference kernel
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


def linear(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Maps `(..., K)` to `(..., N)` as PyTorch's does, by oneDNN where that is faster."""
    if not can_multiply(inputs, weight, bias):
        return functional.linear(inputs, weight, bias)
    rows = inputs.reshape(-1, inputs.shape[-1]).contiguous()
    outputs = cast(torch.Tensor, OneDNNProduct.apply(rows, weight, bias))
    return outputs.reshape(*inputs.shape[:-1], len(weight))


class OneDNNProduct(torch.autograd.Function):
    """`multiply`, whose gradients are `linear` in their turn, and so have gradients too.

    A gradient of inputs alone takes that of the weights with it, unless they are frozen: PyTorch
    does not tell a function which of those that are due is asked for.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Maps `(R, K)` to `(R, N)`."""
        of_rows, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(rows if of_weight else None, weight if of_rows else None)
        return multiply(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Maps the gradient `(R, N)` to those of rows, weights and bias."""
        (gradient,) = gradients
        rows, weight = ctx.saved_tensors
        of_rows, of_weight, of_bias = ctx.needs_input_grad
        return (
            linear(gradient, weight.t()) if of_rows else None,
            linear(gradient.t(), rows.t()) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )
