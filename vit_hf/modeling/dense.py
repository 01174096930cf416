# SPDX-License-Identifier: Apache-2.0
"""The encoder's dense layers, whose weights can be packed for inference on a CPU.

oneDNN multiplies faster by weights that lie in the order in which its kernels read them. Packed
weights are a second copy beside the parameters, which stay what they are: a packed model has the
same keys, trains, saves and loads as before.

Shapes: `K` inputs, `N` outputs, `...` any leading axes.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.activations import ACT2FN

from .fused_products import (
    as_multiplied,
    can_activate,
    can_fuse,
    is_plain,
    multiply_and_activate,
)
from .hooks import is_unwatched
from .onednn_products import is_ordinary, linear, multiply

PACKABLE_TYPES = (torch.float32, torch.bfloat16)
# The activations that oneDNN applies while it writes the product: its name and its algorithm.
FUSED_ACTIVATIONS = {
    "gelu": ("gelu", "none"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}
CLASSES = {name: type(ACT2FN[name]) for name in FUSED_ACTIVATIONS}
# With AVX2 alone, in float32, packed weights are faster only where several threads share so few
# rows, and oneDNN's GELU is slower than PyTorch's; see docs/speed.md.
HAS_AVX2_ALONE = torch.backends.cpu.get_cpu_capability() == "AVX2"
NUM_FEW_ROWS = 256


def can_pack(model: Any) -> bool:
    """Whether a model's weights can be packed: on a CPU, of a type that it packs."""
    return model.device.type == "cpu" and can_pack_type(model.dtype)


def is_faster_packed(inputs: torch.Tensor) -> bool:
    """Whether `(..., K)` is multiplied faster by packed weights on this processor."""
    num_rows = inputs.numel() // inputs.shape[-1]
    return not HAS_AVX2_ALONE or (num_rows <= NUM_FEW_ROWS and torch.get_num_threads() > 1)


def is_faster_fused(activation: str) -> bool:
    """Whether one of `FUSED_ACTIVATIONS` is applied faster by oneDNN on this processor."""
    return activation in FUSED_ACTIVATIONS and not (HAS_AVX2_ALONE and "gelu" in activation)


@functools.cache
def can_pack_type(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch packs weights of a type on this processor.

    Those of bfloat16 need AVX512 (or its like), as Intel's and AMD's servers have since Skylake and
    Zen 4.
    """
    if dtype not in PACKABLE_TYPES or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


@functools.cache
def count_fused_updates():
    """Has PyTorch count the changes that its fused optimizers make, as it counts all others."""

    def count(optimizer: torch.optim.Optimizer, args, kwargs):
        for group in optimizer.param_groups:
            if group.get("fused"):
                torch.autograd.graph.increment_version(group["params"])

    register_optimizer_step_post_hook(count)


class PackedWeights(NamedTuple):
    """Weights as oneDNN has them, and what they were packed from."""

    weights: Any
    source: torch.Tensor  # held, so that its place in memory stays its
    changes: int  # that the source had seen

    def is_of(self, weight: torch.Tensor, changes: int) -> bool:
        """Whether they are those of a weight that has seen so many changes."""
        return self.source.data_ptr() == weight.data_ptr() and self.changes == changes


class Dense(nn.Linear):
    """A linear layer, `(..., K)` to `(..., N)`, with weights `(N, K)` that `pack` packs."""

    packs_weights = False
    packed: PackedWeights | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps `(..., K)` to `(..., N)`."""
        if self.packs_weights and self.can_use_packed(inputs):
            return self.multiply(inputs)
        return linear(inputs, self.weight, self.bias)

    def activated(self, inputs: torch.Tensor, name: str, activation: nn.Module) -> torch.Tensor:
        """Maps `(..., K)` to `(..., N)` and applies an activation, in one pass where that is known.

        Args:
            inputs: `(..., K)`.
            name: of the activation, as in `hidden_act`.
            activation: itself; one that someone has exchanged or looks at is called.
        """
        if type(activation) is not CLASSES.get(name) or not is_unwatched(activation):
            return activation(self(inputs))
        if (
            self.packs_weights
            and is_faster_fused(name)
            and is_plain(self, Dense)  # else someone is to see the product alone
            and self.can_use_packed(inputs)
        ):
            return self.multiply(inputs, *FUSED_ACTIVATIONS[name])
        inputs = as_multiplied(inputs)
        if can_fuse(self, Dense, inputs) and can_activate(self, name, inputs):
            return multiply_and_activate(inputs, self)
        return activation(self(inputs))

    def multiply(self, inputs: torch.Tensor, *activation: str) -> torch.Tensor:
        """Multiplies by the packed weights, and applies an activation of oneDNN's."""
        return multiply(inputs, self.packed_weights(), self.bias, *activation)

    def pack(self):
        """Has the weights packed anew, when they are next used so and whenever they have changed.

        Raises:
            ValueError: where they are not on a CPU, or of a type that cannot be packed.
        """
        weight = self.weight
        if type(weight.data) is not torch.Tensor or weight.device.type != "cpu":
            raise ValueError(
                f"got weights on {weight.device.type} (a {type(weight.data).__name__}), allowed: "
                "plain ones on the CPU, for which weights are packed; an accelerator is as fast "
                "without"
            )
        if weight.dtype not in PACKABLE_TYPES:
            raise ValueError(
                f"got weights of {weight.dtype}, allowed: "
                f"{', '.join(map(str, PACKABLE_TYPES))}; convert the model first, with "
                "model.to(torch.bfloat16)"
            )
        if not torch.backends.mkldnn.is_available():
            raise ValueError("this build of PyTorch has no oneDNN, which packs the weights")
        if not can_pack_type(weight.dtype):
            raise ValueError(
                f"got weights of {weight.dtype}, which oneDNN packs on a processor with AVX512, "
                "and this one has none; allowed here: torch.float32, with model.float()"
            )
        self.packs_weights, self.packed = True, None

    def unpack(self):
        """Lets go of the packed weights."""
        self.packs_weights, self.packed = False, None

    def can_use_packed(self, inputs: torch.Tensor) -> bool:
        """Whether this call is plain inference on a CPU in the type of the weights, and the faster
        for packed ones.
        """
        return (
            not torch.is_grad_enabled()
            and is_ordinary(inputs, self.weight, self.bias)
            and can_pack_type(self.weight.dtype)
            and is_faster_packed(inputs)
        )

    def packed_weights(self) -> Any:
        """Returns the packed weights, packed anew where the weights have changed since."""
        weight, packed = self.weight, self.packed  # which other threads may exchange meanwhile
        changes = 0 if weight.is_inference() else weight._version
        if packed is None or not packed.is_of(weight, changes):
            count_fused_updates()
            source = weight.detach()
            weights = torch.ops.mkldnn._reorder_linear_weight(source)
            packed = self.packed = PackedWeights(weights, source, changes)
        return packed.weights

    def __getstate__(self):
        """Leaves the packed weights out of a copy, which packs its own."""
        return self.__dict__ | {"packed": None}
