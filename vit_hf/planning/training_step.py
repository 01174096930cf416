# SPDX-License-Identifier: Apache-2.0
"""One step of training as `vit-hf pretrain` makes it, on tensors without data.

Weights in float32, matrix products in the `dtype` that autocast casts to, PyTorch's optimizers.
"""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from ..modeling.losses import INDEX_LOSSES
from .flops import MODELS
from .tracing import AsOnAccelerator, MemoryTrace, tensors_of

TrainedTask = Literal["image-classification", "masked-patch-prediction"]
Optimizer = Literal["adamw_torch_fused", "adamw_torch", "sgd"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TrainingStep:
    """What the memory of a step depends on, beside the model and the batch.

    Args:
        task: what the model is trained for.
        dtype: of the matrix products; the weights are float32.
        optimizer: by transformers' name; `"sgd"` is with momentum, as in the papers.
        gradient_checkpointing: of the encoder's layers.
        accumulates: whether gradients of earlier batches are there when the step begins.
        on_accelerator: or on a CPU, whose kernels keep other things.

    Raises:
        ValueError: for a name that there is not.
    """

    task: TrainedTask = "image-classification"
    dtype: str = "bfloat16"
    optimizer: Optimizer = "adamw_torch_fused"
    gradient_checkpointing: bool = False
    accumulates: bool = False
    on_accelerator: bool = True

    def __post_init__(self):
        tasks = get_args(TrainedTask)
        allowed = {"task": tasks, "dtype": DTYPES, "optimizer": OPTIMIZERS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"got {name}={getattr(self, name)!r}, allowed: {', '.join(values)}"
                )


def adamw_fused(parameters, *, on_accelerator: bool) -> torch.optim.Optimizer:
    """One operation for all weights, which takes no memory."""
    return torch.optim.AdamW(parameters, fused=True)


def adamw(parameters, *, on_accelerator: bool) -> torch.optim.Optimizer:
    """On an accelerator one operation after another for all weights, else weight by weight."""
    return torch.optim.AdamW(parameters, foreach=on_accelerator)


def sgd(parameters, *, on_accelerator: bool) -> torch.optim.Optimizer:
    """With momentum."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=on_accelerator)


OPTIMIZERS = {"adamw_torch_fused": adamw_fused, "adamw_torch": adamw, "sgd": sgd}


def trace_step(
    config: VisionTransformerConfig, step: TrainingStep, *, batch_size: int
) -> tuple[MemoryTrace, int]:
    """Runs one step, which is not the first, without data.

    Args:
        config: of the model; images have its native size.
        step: the kind of step.
        batch_size: images that the device takes at once.

    Returns:
        What was recorded, and how many of the entries of `moved` were there before the weights were
        updated.
    """
    with torch.device("meta"):
        model: Any = MODELS[step.task](config).train()
    as_on_device = AsOnAccelerator if step.on_accelerator else nullcontext
    if step.gradient_checkpointing:
        enable_checkpointing(model, as_on_device)
    gc.collect()  # now, and not while memory is recorded
    trace = MemoryTrace()
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_device():
        model.to_empty(device="cpu")
        weights = list(model.parameters())
        optimizer = OPTIMIZERS[step.optimizer](weights, on_accelerator=step.on_accelerator)
        with MemoryTrace():  # which nobody reads
            take_first_step(optimizer, weights)
        inputs = make_inputs(config, step.task, batch_size)
        if step.accumulates:
            for weight in weights:
                weight.grad = torch.empty_like(weight)
        with trace:
            trace.label("weights", [*weights, *model.buffers()])
            trace.label("optimizer", tensors_of(list(optimizer.state.values())))
            trace.label("gradients", gradients_of(weights))
            trace.label("activations", inputs.values())
            forward_and_backward(model, inputs, dtype=DTYPES[step.dtype])
            trace.label("gradients", gradients_of(weights))
            num_moved = len(trace.moved)
            optimizer.step()
    return trace, num_moved


def enable_checkpointing(model, as_on_device: Callable[[], AbstractContextManager]):
    """Has a model's layers compute their activations again; newer versions renamed it.

    They are computed again within `as_on_device()`, as no mode of the forward pass reaches into the
    backward pass: PyTorch takes a mode off for every function that the mode sees, `backward` too.
    """
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)(
        {"use_reentrant": False, "context_fn": lambda: (nullcontext(), as_on_device())}
    )


def take_first_step(optimizer: torch.optim.Optimizer, weights: list[torch.Tensor]):
    """Has the optimizer make its state."""
    for weight in weights:
        weight.grad = torch.empty_like(weight)
    optimizer.step()
    optimizer.zero_grad()


def gradients_of(weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """Returns the gradients that there are."""
    return [weight.grad for weight in weights if weight.grad is not None]


def make_inputs(
    config: VisionTransformerConfig, task: TrainedTask, batch_size: int
) -> dict[str, torch.Tensor]:
    """Returns what the model of a task takes: images, and labels or masks.

    Labels are class indices, or where the loss takes none a number for each class; of every image,
    or of every token where nothing is pooled.
    """
    inputs = {"pixel_values": torch.empty(batch_size, config.num_channels, *config.image_hw)}
    if task == "image-classification":
        num_tokens = config.num_prefix_tokens + config.num_patches
        shape = (batch_size, num_tokens) if config.pooling == "none" else (batch_size,)
        if (config.problem_type or config.classification_loss) in INDEX_LOSSES:
            return inputs | {"labels": torch.empty(shape, dtype=torch.long)}
        return inputs | {"labels": torch.empty(*shape, config.num_labels)}
    mask = torch.empty(batch_size, config.num_patches, dtype=torch.long)
    return inputs | {"bool_masked_pos": mask, "patch_replacement": mask.clone()}


def forward_and_backward(model, inputs: dict[str, torch.Tensor], *, dtype: torch.dtype):
    """Computes the gradients of a batch."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model(**inputs).loss
    loss.backward()
