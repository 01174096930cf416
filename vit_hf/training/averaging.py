# SPDX-License-Identifier: Apache-2.0
"""An average of the weights over training: Polyak averaging (table 2 of the paper: 0.9999).

The average of each parameter lives in the optimizer's state, beside Adam's moments, so it is saved,
resumed and sharded with it.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import OPTIMIZER_NAME

from .checkpoints import CheckpointingTrainer
from .sharding import load_optimizer

AVERAGE = "average"  # the key in the optimizer's state of a parameter


def keep_average(
    optimizer: torch.optim.Optimizer, decay: float, num_updates: Callable[[], int]
) -> torch.utils.hooks.RemovableHandle:
    """Makes an optimizer average the weights after each of its steps.

    Args:
        optimizer: any optimizer with one state per parameter.
        decay: `average = decay * average + (1 - decay) * weight`. Early on it is less, so that the
            first weights are forgotten: at most `(1 + n) / (10 + n)` after `n` updates.
        num_updates: how many updates came before.

    Returns:
        The hook's handle.
    """

    @torch.no_grad()
    def update(optimizer: torch.optim.Optimizer, args, kwargs):
        past = num_updates()
        weight = 1 - min(decay, (1 + past) / (10 + past))
        is_left_out = getattr(optimizer, "found_inf", None)  # by a GPU, see `finite_updates`
        if is_left_out is not None:
            weight = weight * (1 - is_left_out)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = optimizer.state[parameter]
                if AVERAGE in state:
                    state[AVERAGE].lerp_(parameter, as_weight_of(parameter, weight))
                else:
                    state[AVERAGE] = parameter.detach().clone()

    return optimizer.register_step_post_hook(update)


def as_weight_of(parameter: torch.Tensor, weight: float | torch.Tensor) -> float | torch.Tensor:
    """Returns a weight as `lerp_` takes it: a tensor in the type of what is averaged."""
    return weight.to(parameter) if isinstance(weight, torch.Tensor) else weight


@contextlib.contextmanager
def averaged_weights(optimizer: torch.optim.Optimizer | None):
    """Puts the average in the place of the weights, and the weights back at the end."""
    # accelerate wraps the optimizer in one that passes `state` through.
    state = optimizer.state if optimizer is not None else {}
    kept = [
        (parameter, parameter.detach().clone())
        for parameter, values in state.items()
        if AVERAGE in values
    ]
    try:
        with torch.no_grad():
            for parameter, _ in kept:
                parameter.copy_(state[parameter][AVERAGE])
        yield
    finally:
        with torch.no_grad():
            for parameter, weight in kept:
                parameter.copy_(weight)


def forget_average(optimizer: torch.optim.Optimizer) -> None:
    """Leaves the weights alone, as if they had never been averaged."""
    for values in optimizer.state.values():
        values.pop(AVERAGE, None)


class AveragingTrainer(CheckpointingTrainer):
    """A `Trainer` that evaluates, predicts with and keeps the average, where `ema_decay` asks for
    one; else there is none, whatever a checkpoint held.
    """

    args: Any

    def averaging(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Returns a new optimizer, which averages the weights where it is asked for."""
        if self.args.ema_decay:
            keep_average(optimizer, self.args.ema_decay, lambda: self.state.global_step)
        return optimizer

    def averaged_weights(self):
        """A context in which the model has its averaged weights, where there is an average."""
        return averaged_weights(self.optimizer)

    def evaluation_loop(self, *args, **kwargs):
        """Evaluates, or predicts, with the averaged weights where there are any."""
        with self.averaged_weights():
            return super().evaluation_loop(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None):
        super()._load_optimizer_and_scheduler(checkpoint)
        if not self.args.ema_decay:
            forget_average(self.optimizer)

    def _load_best_model(self):
        super()._load_best_model()
        if self.args.ema_decay:  # the average is what was the best
            path = Path(str(self.state.best_model_checkpoint)) / OPTIMIZER_NAME
            load_optimizer(self.optimizer, self.model_wrapped, path)
