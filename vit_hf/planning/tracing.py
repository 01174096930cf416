# SPDX-License-Identifier: Apache-2.0
"""A record of every block of memory that a program takes and gives back, without taking any.

PyTorch runs the program on tensors without data (`FakeTensorMode`), and on the way to them every
operation passes through a `MemoryTrace`. What it records is the program as it is: autocast's copies
of the weights, what the backward pass keeps, what checkpointing computes again.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

# What a block is; one that nobody names is of the last kind.
KINDS = ("weights", "weight_copies", "gradients", "optimizer", "activations")


class MemoryTrace(TorchDispatchMode):
    """Records, within its context, the blocks of memory and the bytes that operations move.

    Attributes:
        events: the number of a block and its bytes, positive where it is taken and negative where
            it is given back, in order.
        kinds: of the blocks that `label` named, by number.
        moved: the bytes that operations read and write, each tensor of each of them.
    """

    def __init__(self):
        super().__init__()
        self.events: list[tuple[int, int]] = []
        self.kinds: dict[int, str] = {}
        self.moved: list[int] = []
        self._numbers: Any = WeakIdKeyDictionary()  # of the blocks in use, by storage

    def __exit__(self, *error):
        super().__exit__(*error)
        self.events = list(self.events)  # what is given back later goes to the old one

    def label(self, kind: str, tensors: Iterable[torch.Tensor]):
        """Says what the blocks of some tensors are, from when they were taken."""
        for tensor in tensors:
            self.kinds[self._number(tensor)] = kind

    def timelines(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the bytes in use after each event, split by what they grow with.

        Every block is a constant and a multiple of the batch. Of a batch larger than any constant,
        which is to be had where tensors have no data, the one is the remainder of a division by it
        and the other the quotient.

        Returns:
            The constants and the bytes for each image, both `(events, kinds)`.
        """
        fixed, per_image = np.zeros((2, len(self.events), len(KINDS)), dtype=np.int64)
        for moment, (number, size) in enumerate(self.events):
            kind, sign = KINDS.index(self.kinds.get(number, KINDS[-1])), -1 if size < 0 else 1
            quotient, remainder = divmod(abs(size), batch_size)
            fixed[moment, kind], per_image[moment, kind] = sign * remainder, sign * quotient
        return fixed.cumsum(axis=0), per_image.cumsum(axis=0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "prim":  # asks for a tensor's device, or the like
            return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            # Someone wants a value and there is none: a class, a pixel's value, a count of steps.
            return 1.0 if args[0].is_floating_point() else 0
        num_events = len(self.events)
        outputs = func(*args, **kwargs)
        written = tensors_of(outputs) or tensors_of(changed_arguments(func, args))
        for tensor in written:
            self._number(tensor)
        if func is torch.ops.aten._to_copy.default and self._kind_of(args[0]) == "weights":
            self.label("weight_copies", written)
        if len(self.events) > num_events or func._schema.is_mutable:  # else it moves nothing
            self.moved += map(num_bytes, tensors_of((args, kwargs)) + written)
        return outputs

    def _kind_of(self, tensor: torch.Tensor) -> str:
        return self.kinds.get(self._number(tensor), KINDS[-1])

    def _number(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        if storage not in self._numbers:
            number, size = len(self.events), storage.nbytes()
            self._numbers[storage] = number
            self.events.append((number, size))
            weakref.finalize(storage, self.events.append, (number, -size)).atexit = False
        return self._numbers[storage]


class AsOnAccelerator(TorchFunctionMode):
    """Lets tensors of the CPU take the memory that an accelerator's would.

    Under autocast an accelerator computes the norms in float32, which the CPU does not. Its dropout
    keeps one byte a value, the CPU's a factor; that of its attention is drawn again in the backward
    pass.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in ("layer_norm", "group_norm") and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        elif name == "dropout":
            return fused_dropout(*args, **kwargs)
        elif name == "scaled_dot_product_attention":
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def fused_dropout(
    values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """Dropout in one operation, which keeps a mask of bytes; the arguments are PyTorch's."""
    return torch.native_dropout(values, p, training)[0] if training and p > 0 else values


def changed_arguments(func, args: tuple) -> list:
    """Returns the arguments that an operation writes to."""
    specifications = zip(args, func._schema.arguments, strict=False)
    return [arg for arg, spec in specifications if spec.alias_info and spec.alias_info.is_write]


def tensors_of(values: Any) -> list[torch.Tensor]:
    """Returns the tensors in nested tuples, lists and dictionaries."""
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def num_bytes(tensor: torch.Tensor) -> int:
    """Returns the bytes of a tensor's values; values that are repeated count once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
