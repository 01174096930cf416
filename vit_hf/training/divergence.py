# SPDX-License-Identifier: Apache-2.0
"""Where the numbers of a training stop being finite: the first bad module, by its name.

When a loss is nan or infinite, the step's forward is run again and watched. Values are looked at in
the order in which they are computed, so the first find is the origin and not what followed from it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn


class NonFiniteLoss(FloatingPointError):
    """The loss, or the gradient, is not finite; the training ends with it."""


def first_bad_module(model: nn.Module, inputs: Mapping[str, Any] | None = None) -> str | None:
    """Says where the first values are that are not finite.

    Inputs are looked at first, then every module in the order of execution, then the gradients that
    the parameters hold, from the last layer to the first, as the backward pass goes.

    Args:
        model: without what compiles or distributes it, and with the parameters of the step. A
            sharded model (FSDP) gathers its weights, so all processes must call.
        inputs: what the forward was called with; `None` looks at parameters and gradients alone.
            For the same dropout, torch must have been seeded as before that forward.

    Returns:
        A place and the reason, such as `"vit.layers.3.mlp.fc1 (its weight holds nan)"`, to be read
        after "the first values that are not finite are in"; `None` where all is finite.
    """
    if inputs is None:
        place = bad_parameter(model)
    else:
        place = bad_input(inputs) or ForwardWatch(model).run(inputs)
    return place or bad_gradient(model)


class ForwardWatch:
    """Runs a forward and remembers the first place whose values are not finite."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self.running: list[nn.Module] = []  # from the model inward
        self.place: str | None = None

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Any]) -> str | None:
        """Runs the forward on `inputs`, and returns the place with its reason."""
        hooks = []
        for module in self.names:
            hooks.append(module.register_forward_pre_hook(self.begin, with_kwargs=True))
            hooks.append(module.register_forward_hook(self.end, with_kwargs=True))
        try:
            with torch.compiler.set_stance("force_eager"):
                self.model(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return self.place

    def begin(self, module: nn.Module, args: tuple, kwargs: dict):
        """Looks at a module's inputs: where they are the first, the module around it made them."""
        if self.place is None and self.running and not is_finite((args, kwargs)):
            around = self.running[-1]
            reason = parameter_reason(around) or f"what it gives to {self.name_of(module)}"
            self.place = f"{self.name_of(around)} ({reason})"
        self.running.append(module)

    def end(self, module: nn.Module, args: tuple, kwargs: dict, output: Any):
        """Looks at a module's outputs, after those of its parts."""
        self.running.pop()
        if self.place is None and not is_finite(output):
            loss = output.get("loss") if isinstance(output, Mapping) else None
            others = {**output, "loss": None} if loss is not None else output
            if loss is not None and is_finite(others):
                self.place = f"the loss alone (the model's outputs {reach(others)})"
            else:
                reason = parameter_reason(module) or input_reason((args, kwargs), output)
                self.place = f"{self.name_of(module)} ({reason})"

    def name_of(self, module: nn.Module) -> str:
        """Returns a module's name in the model; the model's own is that of its class."""
        return self.names[module] or type(module).__name__


def bad_input(inputs: Mapping[str, Any]) -> str | None:
    """Names the first input that is not finite, and its images."""
    for name, value in inputs.items():
        for tensor in floating_tensors(value):
            if not is_finite(tensor):
                rows = torch.atleast_1d(tensor)
                bad = ~torch.isfinite(rows).reshape(len(rows), -1).all(1)  # (B,)
                images = ", ".join(str(image) for image in bad.nonzero().flatten().tolist()[:5])
                return f"the input {name} (images {images} of the batch)"
    return None


def bad_parameter(model: nn.Module) -> str | None:
    """Names the first module with a parameter that is not finite."""
    for name, module in model.named_modules():
        reason = parameter_reason(module)
        if reason:
            return f"{name or type(module).__name__} ({reason})"
    return None


def bad_gradient(model: nn.Module) -> str | None:
    """Names the parameter whose gradient the backward pass spoilt first."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not is_finite(parameter.grad):
            return f"the gradient of {name} ({kinds_of(parameter.grad)}; those above are finite)"
    return None


def parameter_reason(module: nn.Module) -> str | None:
    """Says which of a module's own parameters is not finite."""
    for name, parameter in module.named_parameters(recurse=False):
        if not is_finite(parameter):
            return f"its {name} holds {kinds_of(parameter)}"
    return None


def input_reason(inputs: Any, output: Any) -> str:
    """Says how large the inputs of a module are whose output is not finite."""
    reason = f"its inputs {reach(inputs)}"
    types = {tensor.dtype for tensor in floating_tensors(output) if not is_finite(tensor)}
    if torch.float16 in types:
        reason += f", its output is float16, which ends at {torch.finfo(torch.float16).max:.3g}"
    return reason


def reach(values: Any) -> str:
    """Says the largest magnitude of some tensors' finite values."""
    peaks = [
        tensor[torch.isfinite(tensor)].abs().max().item()
        for tensor in floating_tensors(values)
        if torch.isfinite(tensor).any()
    ]
    return f"reach {max(peaks, default=0.0):.2g}"


def kinds_of(tensor: torch.Tensor) -> str:
    """Says what a tensor that is not finite holds: nan, inf, or both."""
    tensor = local(tensor)
    return " and ".join(
        kind
        for kind, is_kind in (("nan", tensor.isnan()), ("inf", tensor.isinf()))
        if is_kind.any()
    )


def is_finite(values: Any) -> bool:
    """Whether all values of all floating-point tensors in there are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in floating_tensors(values))


def floating_tensors(values: Any) -> Iterator[torch.Tensor]:
    """Yields the floating-point tensors in nested mappings, tuples and lists."""
    if isinstance(values, torch.Tensor):
        if values.is_floating_point():
            yield local(values)
    elif isinstance(values, Mapping):
        yield from floating_tensors(list(values.values()))
    elif isinstance(values, tuple | list):
        for value in values:
            yield from floating_tensors(value)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Returns this process's shard of a sharded tensor; any other tensor as it is."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()
