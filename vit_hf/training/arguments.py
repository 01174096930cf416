# SPDX-License-Identifier: Apache-2.0
"""transformers' `TrainingArguments` with what a ViT's training has beside them.

Defaults that differ from transformers': bfloat16 where the device has it, rows that keep their
columns, nothing reported to services, one update's batch that stays the same on any number of
devices.
"""

import os
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.utils import logging

from .float8 import check_float8

logger = logging.get_logger(__name__)

MAX_DEFAULT_BATCH_SIZE = 128  # images a device takes at once, where nobody says
# transformers' flags that would change what the package answers for, and what to do instead.
REFUSED = {
    "bf16_full_eval": "it rounds the weights that are exported; --bf16 evaluates in bfloat16 too",
    "fp16_full_eval": "it rounds the weights that are exported; --fp16 evaluates in float16 too",
    "label_smoothing_factor": "it replaces the model's own loss; give --label_smoothing, in Python "
    "BatchAugmentation(label_smoothing=...)",
}


@dataclass
class VisionTransformerTrainingArguments(TrainingArguments):
    """The flags of training: transformers' own, and these."""

    _argument_group_name: ClassVar[str] = (
        "training: transformers' flags, and this package's at the end"
    )

    output_dir: str = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="runs/training", metadata={"help": "Folder for everything that is written."}
    )
    bf16: bool | None = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None,
        metadata={
            "help": "bfloat16; by default what the launcher says, else where the device is built "
            "for it."
        },
    )
    float8: bool = field(
        default=False,
        metadata={
            "help": "The encoder's dense layers multiply in 8-bit floats (torchao), the rest in "
            "bfloat16; for Ada, Hopper and newer GPUs, with --torch_compile. Also what `accelerate "
            "launch --mixed_precision fp8` asks for."
        },
    )
    dataloader_drop_last: bool = field(
        default=False,
        metadata={
            "help": "Of what is evaluated, and of a dataset of your own. Training on images leaves "
            "out what fills no update of an epoch, with or without it."
        },
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Stays off: the loss reaches every parameter."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Stays off: the model's inputs are made from the columns."}
    )
    report_to: None | str | list[str] = field(  # noqa: RUF036  (the order that the parser takes)
        default="none", metadata={"help": "Services to report to, such as tensorboard or wandb."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of everything that is drawn."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.accelerator.is_available,
        metadata={"help": "Pinned memory; by default where there is an accelerator."},
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Stays off: a loss that is not finite ends the run."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "A checkpoint-N folder to go on from; or last: the newest whole one in "
            "output_dir, and a fresh start where there is none."
        },
    )
    hub_strategy: Literal["end", "every_save"] = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="end",
        metadata={"help": "When to push: end, or every_save (each checkpoint, ready to be used)."},
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=False, metadata={"help": "As in transformers; no callback here needs it."}
    )
    total_train_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Images an update, over all devices: what is missing on the devices is "
            "accumulated. Replaces gradient_accumulation_steps."
        },
    )
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "Decay of the average of the weights that is evaluated and exported (the "
            "paper's Polyak averaging: 0.9999); 0 is none."
        },
    )
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "Factor of the learning rate from each layer to the one below; 1 is none."
        },
    )
    drop_path_warmup: float = field(
        default=0.0,
        metadata={"help": "Share of the training over which drop path rises to its rate."},
    )
    max_bad_fraction: float = field(
        default=0.1,
        metadata={
            "help": "Share of the training images that may be unreadable before the run ends; each "
            "counts when it is met. Of a stream, of those seen, or of 1000 while they are fewer."
        },
    )

    def __post_init__(self):
        # Without a device to share, processes that were launched would each train alone.
        self.use_cpu = (
            self.use_cpu
            or not torch.accelerator.is_available()
            or parse_flag_from_env("ACCELERATE_USE_CPU")
        )
        self.float8 = self.float8 or os.environ.get("ACCELERATE_MIXED_PRECISION") == "fp8"
        if self.float8:
            if self.bf16 is False or self.fp16:
                raise ValueError(
                    f"got float8 with bf16={self.bf16} and fp16={self.fp16}; what is not in float8 "
                    "is in bfloat16: leave them out"
                )
            check_float8()
            self.bf16 = True
        is_full_precision = self.bf16 is False and not self.fp16  # as the flag says
        if self.bf16 is None and not self.fp16:
            launched = os.environ.get("ACCELERATE_MIXED_PRECISION")
            self.fp16 = launched == "fp16"
            self.bf16 = launched == "bf16" or (
                launched is None and not self.use_cpu and has_bfloat16()
            )
        self.bf16 = bool(self.bf16)
        self.refuse()
        super().__post_init__()
        if is_full_precision:
            self.mixed_precision = "no"  # whatever the launcher says
        if self.total_train_batch_size is not None:
            self.gradient_accumulation_steps = accumulation_steps(
                self.total_train_batch_size,
                batch_size=self.per_device_train_batch_size,
                num_devices=self.world_size,
            )

    def refuse(self):
        """Raises `ValueError` for what is out of range, and for what cannot be done."""
        for name, do in REFUSED.items():
            if getattr(self, name):
                raise ValueError(f"got {name}={getattr(self, name)}, allowed: none; {do}")
        for name, low, high in (
            ("ema_decay", 0.0, 1.0),
            ("layer_decay", 0.0, 1.0),
            ("drop_path_warmup", 0.0, 1.0),
            ("max_bad_fraction", 0.0, 1.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"got {name}={getattr(self, name)}, allowed: {low:g} to {high:g}")
        if self.ema_decay and self.load_best_model_at_end and self.save_only_model:
            raise ValueError(
                f"got ema_decay={self.ema_decay} with load_best_model_at_end and save_only_model: "
                "the best average lies beside the optimizer's state; leave save_only_model out"
            )
        for name in ("per_device_train_batch_size", "total_train_batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)}, allowed: at least 1")
        if self.auto_find_batch_size and self.total_train_batch_size is not None:
            raise ValueError(
                "got auto_find_batch_size with total_train_batch_size, which would no longer be "
                "made up; leave one of them out"
            )


def has_bfloat16() -> bool:
    """Whether an accelerator computes in bfloat16 natively."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def accumulation_steps(total: int, *, batch_size: int, num_devices: int) -> int:
    """Returns how many batches to accumulate for an update of `total` images.

    Raises:
        ValueError: where `total` is no multiple of what the devices take at once.
    """
    at_once = batch_size * num_devices
    if total % at_once:
        sizes = [
            size for size in range(1, total // num_devices + 1) if total % (size * num_devices) == 0
        ]
        nearest = min(sizes, key=lambda size: abs(size - batch_size), default=None)
        do = (
            f"give --per_device_train_batch_size {nearest}"
            if nearest
            else f"give a total_train_batch_size that is a multiple of {num_devices}"
        )
        raise ValueError(
            f"got total_train_batch_size={total}, which {num_devices} devices with batches of "
            f"{batch_size} cannot make up; {do}"
        )
    return total // at_once


def default_batch_size(total: int, *, num_devices: int) -> int:
    """Returns the largest batch of a device, at most 128 images, that makes up `total`."""
    sizes = range(1, min(MAX_DEFAULT_BATCH_SIZE, max(1, total // num_devices)) + 1)
    return max((size for size in sizes if total % (size * num_devices) == 0), default=1)
