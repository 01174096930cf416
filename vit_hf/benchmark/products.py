# SPDX-License-Identifier: Apache-2.0
"""The machine's limit for a model: a contender that does its matrix products and nothing else.

The products are recorded from our model as PyTorch runs it without data, with attention written
out, forward, and in training backward too. Each is timed on its own, in the fastest of the ways
that there are for it, and counts as often as the model has it. What a model does beside them
(softmax, norms, GELU, the optimizer's update) the limit does not hold, so nobody is expected at all
of it.

Shapes of a product: `(B, M, K)` by `(B, K, N)`.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from ..modeling.dense import Dense, can_pack_type
from ..modeling.modeling_vision_transformer import VisionTransformerForImageClassification
from ..modeling.onednn_products import multiply as multiply_by_onednn
from .contender import Contender, no_garbage_collection, wait_for

aten = torch.ops.aten
NUM_TRIALS = 10  # of each way of a product, before the faster is chosen
MULTIPLE = 8  # of rows and columns, at which a GPU's kernels for 16-bit floats are fast
# Where an operation has its two factors.
FACTORS = {
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.baddbmm.default: (1, 2),
}


@dataclass(frozen=True)
class Product:
    """A matrix product.

    Args:
        left: shape of the left factor, two or three numbers.
        right: shape of the right one.
        left_strides: how the left one lies in memory.
        right_strides: how the right one does.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    left_strides: tuple[int, ...]
    right_strides: tuple[int, ...]

    @property
    def flops(self) -> int:
        """Operations, two for each multiply-add."""
        *batch, rows, inner = self.left
        return 2 * (batch[0] if batch else 1) * rows * inner * self.right[-1]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """`M`, `K` and `N`."""
        return self.left[-2], self.left[-1], self.right[-1]


class ProductRecorder(TorchDispatchMode):
    """Counts, within its context, the matrix products that operations are.

    A convolution is the product of its patches and its kernels.

    Attributes:
        products: how often each was there.
    """

    def __init__(self):
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        if func in FACTORS:
            left, right = (args[place] for place in FACTORS[func])
            self.count(left, right)
        elif func is aten.convolution.default:
            patches, kernels = unrolled(outputs, args[1])
            self.count(patches, kernels.t())
        elif func is aten.convolution_backward.default:
            patches, kernels = unrolled(args[0], args[2])
            gradient = patches.new_empty(patches.shape[0], kernels.shape[0])
            of_input, of_kernels, _ = args[-1]
            if of_input:
                self.count(gradient, kernels)
            if of_kernels:
                self.count(gradient.t(), patches)
        return outputs

    def count(self, left: torch.Tensor, right: torch.Tensor):
        """Counts the product of two factors."""
        strides = (solid_strides(left), solid_strides(right))
        self.products[Product(tuple(left.shape), tuple(right.shape), *strides)] += 1


def unrolled(outputs: torch.Tensor, kernels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what a convolution multiplies: its patches `(M, K)` and its kernels `(N, K)`.

    Args:
        outputs: of it, `(B, N, H, W)`, or as large.
        kernels: `(N, C, h, w)`.
    """
    num_outputs, inner = len(kernels), kernels[0].numel()
    return (
        outputs.new_empty(outputs.numel() // num_outputs, inner),
        kernels.new_empty(num_outputs, inner),
    )


def solid_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """Returns a tensor's strides, or those of a contiguous one where its values are repeated."""
    tensor = tensor if all(tensor.stride()) else torch.empty_like(tensor).contiguous()
    return tuple(tensor.stride())


def products_of(
    config: VisionTransformerConfig, *, batch_size: int, is_training: bool
) -> Counter[Product]:
    """Returns the matrix products of a step of our classifier, and how often each is there."""
    with torch.device("meta"):
        model = VisionTransformerForImageClassification(config)
        model.set_attn_implementation("eager")
        model.train(is_training).requires_grad_(is_training)
        images = torch.empty(batch_size, config.num_channels, *config.image_hw)
        labels = torch.zeros(batch_size, dtype=torch.long)
    recorder = ProductRecorder()
    with recorder, torch.set_grad_enabled(is_training):
        logits = model(images, output_hidden_states=True).logits  # every token of every layer
        if is_training:
            functional.cross_entropy(logits, labels).backward()
    return recorder.products


class MatrixProducts(Contender):
    """The matrix products of a step, in the type that the contenders compute in."""

    is_comparable = False

    def prepare(self, settings: dict) -> None:
        """Makes the factors of every product."""
        options = self.options
        config = VisionTransformerConfig(**options.our_settings)
        products = products_of(
            config, batch_size=options.batch_size, is_training=options.is_training
        )
        dtype = getattr(torch, options.compute_dtype)
        self.flops = sum(product.flops * count for product, count in products.items())
        self.multiplications: list = [
            (fastest(self.ways(product, dtype), device=self.device), count)
            for product, count in products.items()
        ]

    @torch.no_grad()
    def ways(self, product: Product, dtype: torch.dtype) -> list[Callable[[], torch.Tensor]]:
        """Returns how a product can be computed: as it lies, on a CPU also by oneDNN, in inference
        with its right factor, the weights, packed, and on a GPU with rows and columns filled up to
        where its kernels are fast.
        """
        left = random_factor(product.left, product.left_strides, dtype, self.device)
        right = random_factor(product.right, product.right_strides, dtype, self.device)
        multiply = torch.mm if left.ndim == 2 else torch.bmm
        ways: list[Callable[[], torch.Tensor]] = [partial(multiply, left, right)]
        if self.device.type == "cuda" and any(size % MULTIPLE for size in product.sizes):
            ways.append(partial(multiply, filled_up(left), filled_up(right)))
        can_use_onednn = self.device.type == "cpu" and can_pack_type(dtype) and left.ndim == 2
        if can_use_onednn:
            ways.append(partial(multiply_by_onednn, left, right.t()))
        if can_use_onednn and not self.options.is_training:
            weights = Dense(*right.shape, bias=False, dtype=dtype)
            weights.weight.copy_(right.t())
            weights.pack()
            ways.append(partial(weights.multiply, left))  # also where it is slower
        return ways

    def forget(self) -> None:
        """Lets go of the factors."""
        self.multiplications = []

    @torch.no_grad()
    def measure(self, num_steps: int) -> float:
        """Returns the seconds that the products of some steps take, each timed on its own."""
        seconds = 0.0
        with no_garbage_collection():
            for multiply, count in self.multiplications:
                seconds += count * seconds_of(multiply, num_steps, device=self.device)
        return seconds

    def settle(self) -> dict:
        """Makes ready; says the operations of an image too."""
        return {**super().settle(), "flops_per_image": self.flops / self.images_per_step}


def seconds_of(multiply: Callable[[], Any], num_times: int, *, device: torch.device) -> float:
    """Returns the seconds that a product takes so many times, after once that warms up."""
    multiply()
    wait_for(device)
    started = time.perf_counter()
    for _ in range(num_times):
        multiply()
    wait_for(device)
    return time.perf_counter() - started


@torch.no_grad()
def fastest(ways: list[Callable[[], Any]], *, device: torch.device) -> Callable[[], Any]:
    """Returns the fastest way, by the best of a few trials of each, in turns."""
    if len(ways) == 1:
        return ways[0]
    trials = [[seconds_of(way, 1, device=device) for way in ways] for _ in range(NUM_TRIALS)]
    best = [min(seconds) for seconds in zip(*trials, strict=True)]
    return ways[best.index(min(best))]


def filled_up(factor: torch.Tensor) -> torch.Tensor:
    """Returns a factor with zeros after its rows and columns, up to a multiple, as it lay."""
    *_, rows, columns = factor.shape
    padding = (0, -columns % MULTIPLE, 0, -rows % MULTIPLE)
    is_transposed = factor.stride(-1) != 1
    if is_transposed:
        factor, padding = factor.mT, (*padding[2:], *padding[:2])
    filled = functional.pad(factor, padding)
    return filled.mT if is_transposed else filled


def random_factor(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Returns a factor of noise that lies in memory as the model's does."""
    generator = torch.Generator(device).manual_seed(0)
    factor = torch.empty_strided(shape, strides, dtype=dtype, device=device)
    return factor.copy_(torch.randn(shape, generator=generator, device=device))
