# SPDX-License-Identifier: Apache-2.0
"""Whether an update's losses and its gradient's norm are finite, before the weights change.

A host that asks a GPU waits until it has done all that it was given, and the GPU then waits for the
host. So where the optimizer can, the GPU itself leaves an update out whose numbers are not finite,
as PyTorch's fused optimizers do under `GradScaler`, and the host reads of it while the next update
is computed, before that one changes a weight, or before anything is logged, evaluated or saved.
Until then the run goes on: callbacks also see an update that was left out, and the schedule of the
learning rate is a step further when it ends.

Shapes: `P` passes of an update.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from accelerate.utils import DistributedType
from torch import nn

from .averaging import AveragingTrainer
from .divergence import NonFiniteLoss, first_bad_module
from .drop_path_schedule import DropPathSchedule
from .sharding import unwrapped

# Those in which every process has all weights, and the same norm of all of the gradient.
WHOLE_WEIGHTS = (DistributedType.NO, DistributedType.MULTI_GPU)


@dataclass
class Pass:
    """A batch that went forward and backward."""

    loss: torch.Tensor
    seed: int  # that its dropout was drawn from
    batch: dict[str, Any]


@dataclass
class Update:
    """The passes of an update, and what came of them.

    Args:
        step: its number, from 1.
        passes: before it.
        norm: of the gradient; `None` is not looked at.
        are_bad: `(P,)` or, with the norm, `(P + 1,)`: above 0 where one is not finite.
        optimizer: that leaves it out if it is bad, of an update that is read later.
        written: when the GPU has brought `are_bad` to the host.
    """

    step: int
    passes: list[Pass]
    norm: torch.Tensor | None
    are_bad: torch.Tensor
    optimizer: torch.optim.Optimizer | None = None
    written: torch.cuda.Event | None = None

    def left_out_if_bad(self, optimizer: torch.optim.Optimizer) -> "Update":
        """Returns the update to be read later: its next step by the optimizer leaves the weights
        and the optimizer's state alone if it is bad.
        """
        leave_out_if(optimizer, (self.are_bad.amax() > 0).float())  # kernels ask for 1
        are_bad, written = self.are_bad.to("cpu", non_blocking=True), None
        if self.are_bad.is_cuda:
            written = torch.cuda.Event()
            written.record()
        return replace(self, are_bad=are_bad, optimizer=optimizer, written=written)

    def bad_places(self) -> list[int]:
        """Returns which passes had a loss that is not finite; the number of passes stands for the
        norm.
        """
        if self.written is not None:
            self.written.synchronize()
        return [place for place, is_bad in enumerate(self.are_bad.tolist()) if is_bad]


def are_not_finite(passes: list[Pass], norm: torch.Tensor | None) -> torch.Tensor:
    """Returns 1 for each loss, and for the norm, that is not finite: `(P,)` or `(P + 1,)`."""
    numbers = [each.loss for each in passes] + ([] if norm is None else [norm])
    return torch.stack([~torch.isfinite(number) for number in numbers]).float()


def can_leave_out(optimizer: torch.optim.Optimizer, accelerator: Any) -> bool:
    """Whether a GPU can leave an update out by itself: fused optimizers, and no `GradScaler`, which
    has them do so for its own reasons.
    """
    groups = optimizer.param_groups
    return (
        accelerator.device.type == "cuda"
        and accelerator.distributed_type in WHOLE_WEIGHTS
        and accelerator.scaler is None
        and getattr(optimizer, "_step_supports_amp_scaling", False)
        and all(group.get("fused") for group in groups)  # what is resumed can be another's
    )


def leave_out_if(optimizer: Any, is_bad: torch.Tensor | None) -> None:
    """Has an optimizer leave out its next steps where `is_bad` is 1; `None` has it leave out none.

    These are the attributes that `GradScaler` sets on a fused optimizer.
    """
    optimizer.grad_scale, optimizer.found_inf = None, is_bad


def whole(norm: Any, device: torch.device) -> torch.Tensor:
    """Returns a norm on a device, put together where its parts are on several of them."""
    parts = getattr(norm, "full_tensor", None)
    return torch.as_tensor(norm if parts is None else parts(), device=device)


class FiniteUpdatesTrainer(AveragingTrainer):
    """A `Trainer` that ends where a loss or the gradient's norm is not finite, before the weights
    change. Whoever makes a pass puts it into `passes`, and empties them for the next update.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.passes: list[Pass] = []  # of this update
        self.unread: Update | None = None  # the one before, while nobody knows if it is finite

    def _get_grad_norm(self, model, grad_norm=None):
        """Returns the gradient's norm, and ends the run where it or a loss is not finite.

        They are looked at here, so that the device is waited for once in an update, behind all that
        comes before it; on a GPU with the next update's, see `finite_updates`.
        """
        norm: Any = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.end_if_not_finite()  # the update before
        is_looked_at = norm is not None and not self.args.fp16
        looked_at = whole(norm, self.args.device) if is_looked_at else None
        are_bad: Any = are_not_finite(self.passes, looked_at)
        if self.args.world_size > 1:  # all look for the place together, as sharded weights need it
            are_bad = self.accelerator.reduce(are_bad, reduction="sum")
        update = Update(self.state.global_step + 1, self.passes, looked_at, are_bad)
        optimizer = unwrapped(cast(torch.optim.Optimizer, self.optimizer))
        if can_leave_out(optimizer, self.accelerator):
            self.unread = update.left_out_if_bad(optimizer)
        else:
            self.unread = update
            self.end_if_not_finite()
        return norm

    def end_if_not_finite(self):
        """Ends the run where the update that is still unread was not finite."""
        update, self.unread = self.unread, None
        if update is None:
            return
        places = update.bad_places()
        if update.optimizer is not None:
            leave_out_if(update.optimizer, None)
        if places:
            self.stop_diverged(update, places[0])

    def stop_diverged(self, update: Update, place: int):
        """Ends a run whose numbers are not finite, before its weights are touched.

        Args:
            update: that they are of.
            place: of the pass with the loss, or, behind all passes, the norm.
        """
        is_loss, inputs = place < len(update.passes), None
        number: Any = update.passes[place].loss if is_loss else update.norm
        what, nowhere = "the loss", "all that the same forward pass computes again is finite"
        if not is_loss:
            what = "the norm of the gradient"
            nowhere = "every gradient is finite, it is the norm alone that overflows"
        self.state.global_step = update.step - 1  # as it was
        if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
            self.repeat(update.passes)  # its backward pass also updates
        if is_loss:
            torch.manual_seed(update.passes[place].seed)
            inputs = self._prepare_inputs(update.passes[place].batch)
        where = first_bad_module(cast(nn.Module, self.model), inputs)
        place_found = f"the first values that are not finite are in {where}" if where else nowhere
        kept = self.newest_checkpoint
        raise NonFiniteLoss(
            f"{what} is {number.item()} at step {update.step}; {place_found}. "
            + (f"The last good checkpoint is {kept}. " if kept else "No checkpoint was written. ")
            + "Try a lower learning rate, a longer warm-up, or bf16 in the place of fp16"
        )

    def repeat(self, passes: list[Pass]):
        """Makes the gradients of an update again: they were clipped by a norm that is not finite,
        or are the next one's by now.
        """
        model: Any = self.model_wrapped
        model.zero_grad()
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, DropPathSchedule):
                callback.on_step_begin(self.args, self.state, self.control)
        for each in passes:
            torch.manual_seed(each.seed)
            super().training_step(model, dict(each.batch))

    # Before anything is told, kept or begun anew of an update that nobody knows of.

    def train(self, *args, **kwargs):
        """Trains; what a run that failed has left is not looked at."""
        self.unread = None
        return super().train(*args, **kwargs)

    def _run_epoch(self, *args, **kwargs):
        super()._run_epoch(*args, **kwargs)
        self.end_if_not_finite()

    def averaged_weights(self):
        """A context, see `AveragingTrainer`; before it, while the model has its own weights."""
        self.end_if_not_finite()
        return super().averaged_weights()

    def _save_checkpoint(self, *args, **kwargs):
        self.end_if_not_finite()
        super()._save_checkpoint(*args, **kwargs)

    def log(self, *args, **kwargs):
        """Logs."""
        self.end_if_not_finite()
        super().log(*args, **kwargs)
