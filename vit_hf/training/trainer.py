# SPDX-License-Identifier: Apache-2.0
"""transformers' `Trainer` with what a ViT needs; its loop is transformers' own.

Batches are a function of the seed and their number, see `data.draws`; each step's dropout is a
function of the seed and the step. So a run that was killed goes on from its newest checkpoint, bit
for bit as if nothing had happened, and several processes do what one does.
"""

import atexit
import contextlib
import copy
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, recursively_apply
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ..data.collation import ImageCollator
from ..data.dataset import ImageDataset
from ..data.draws import EpochBatches, derive_seed
from ..data.mixing import augment
from ..data.stream import StreamBatches
from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from ..modeling.filled_in import filled_in
from ..modeling.freed_memory import keep_freed_memory
from ..planning import training_flops
from .arguments import VisionTransformerTrainingArguments
from .bad_images import BadImages
from .checkpoints import STAGING, find_checkpoint
from .drop_path_schedule import DropPathSchedule
from .finite_updates import FiniteUpdatesTrainer, Pass
from .float8 import convert_to_float8
from .parameter_groups import decayed_names, parameter_groups
from .sharding import (
    asks_for_shards,
    complete_sharding,
    prepare_sharding,
)
from .throughput import Throughput, measured_limit

LEAVING_SECONDS = 0.2


class EpochLoader(DataLoader):
    """A `DataLoader` whose batches know their epoch."""

    def set_epoch(self, epoch: int):
        """Chooses the epoch; the `Trainer` calls this."""
        if isinstance(self.batch_sampler, EpochBatches):
            self.batch_sampler.set_epoch(epoch)


class VisionTransformerTrainer(FiniteUpdatesTrainer):
    """A `Trainer` for the models of this package.

    `args` is a `VisionTransformerTrainingArguments`. The training set is an `ImageDataset`, or for
    a stream a function from its options (`batch_size`, `num_lanes`, `places`) to an `ImageStream`.
    Any other dataset that a `Trainer` takes is dealt as transformers deals it.

    Raises:
        ValueError: for arguments of another class.
    """

    args: VisionTransformerTrainingArguments  # pyright: ignore[reportIncompatibleVariableOverride]
    model: PreTrainedModel

    def __init__(self, *args, data_collator=None, **kwargs):
        super().__init__(*args, data_collator=data_collator or ImageCollator(), **kwargs)
        if not isinstance(self.args, VisionTransformerTrainingArguments):
            raise ValueError(
                f"got args of the class {type(self.args).__name__}, allowed: "
                "VisionTransformerTrainingArguments, which takes the same settings"
            )
        if self.args.float8:
            convert_to_float8(self.model)
        size = len(self.train_dataset) if isinstance(self.train_dataset, ImageDataset) else None
        self.bad_images = BadImages(Path(self.args.output_dir), self.args.max_bad_fraction, size)
        self.throughput: Throughput | None = None
        self.micro_step = 0  # of the accumulated batches of this update
        if self.args.drop_path_warmup:
            self.add_callback(DropPathSchedule(self.args.drop_path_warmup))

    def create_accelerator_and_postprocess(self):
        """Makes the accelerator; refuses processes that would train beside each other.

        Raises:
            ValueError: where several processes were launched and this one is on its own, and where
                shards are asked for and cannot be had.
        """
        prepare_sharding(self.args)
        super().create_accelerator_and_postprocess()
        if asks_for_shards(self.args):
            complete_sharding(self.accelerator)
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched > 1 and self.accelerator.distributed_type == DistributedType.NO:
            raise ValueError(
                f"got {launched} processes from the launcher, but this one trains alone, and all "
                "would write the same folder; give --use_cpu where there is no accelerator, or "
                "start the script without a launcher"
            )

    def close(self):
        """Ends what several processes share, when the run is written; does no harm to one.

        Call it last, on every process. Other runs can follow in the same process: the process group
        lasts until the interpreter ends. A `DistributedDataParallel` that outlives it can hang or
        abort the end of a process on gloo.
        """
        self.model_wrapped = self.model
        self.accelerator.free_memory()
        leave_process_group_at_exit()

    # Input

    def get_train_dataloader(self) -> DataLoader:
        """Returns this process's batches; they are dealt here, not by accelerate."""
        args, dataset = self.args, self.train_dataset
        if dataset is None:
            raise ValueError("got no train_dataset; give the trainer one to train on")
        if not callable(dataset) and not isinstance(dataset, ImageDataset):
            return super().get_train_dataloader()  # someone's own: as transformers would
        if args.train_sampling_strategy != "random":
            raise ValueError(
                f"got train_sampling_strategy={args.train_sampling_strategy!r}, allowed for images "
                "and streams: random"
            )
        deal = {"rank": args.process_index, "num_processes": args.world_size}
        if callable(dataset):
            if args.max_steps <= 0:
                raise ValueError(
                    "got a stream without max_steps: nobody knows how long it is; give --max_steps"
                )
            num_batches = args.max_steps * args.gradient_accumulation_steps
            batches = StreamBatches(num_batches, **deal)
            dataset = dataset(
                batch_size=self._train_batch_size,
                num_lanes=args.world_size * max(1, args.dataloader_num_workers),
                places=self.places,
            )
        else:
            batches = EpochBatches(
                len(dataset),
                batch_size=self._train_batch_size,
                accumulation=args.gradient_accumulation_steps,
                seed=args.seed if args.data_seed is None else args.data_seed,
                **deal,
            )
        return EpochLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            generator=torch.Generator().manual_seed(args.seed),  # leaves the global one alone
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Takes the batches of an update, and measures how long that takes."""
        self.micro_step, self.passes = 0, []
        with self.throughput.waiting() if self.throughput else contextlib.nullcontext():
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            self.bad_images.count(len(batch["pixel_values"]), batch.pop("undecodable", ()))
            self.places |= batch.pop("places", {})
        return batches, num_items

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Moves a batch to the device, and augments and normalises its pixels there."""
        for name in ("undecodable", "is_undecodable", "places"):
            inputs.pop(name, None)
        inputs = super()._prepare_inputs(inputs)
        decisions = inputs.pop("augmentation", {})
        if inputs["pixel_values"].dtype == torch.uint8:
            config: Any = self.model.config
            num_labels = config.num_labels
            inputs["pixel_values"], labels = augment(
                inputs["pixel_values"], inputs.get("labels"), decisions, num_labels=num_labels
            )
            inputs["pixel_values"] = self.standardize(inputs["pixel_values"])
            inputs |= {} if labels is None else {"labels": labels}
        return inputs

    def _prepare_input(self, data):
        """Moves a part of a batch to the device; from pinned memory, while a GPU computes."""
        if isinstance(data, torch.Tensor) and self.args.device.type == "cuda":
            data = data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def standardize(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Turns the authors' [-1, 1] into the mean and deviation of the model's own processor."""
        processor: Any = self.processing_class
        if processor is None or set(processor.image_mean) | set(processor.image_std) == {0.5}:
            return pixel_values
        mean, deviation = (
            filled_in(values, pixel_values.device)[:, None, None]
            for values in (processor.image_mean, processor.image_std)
        )
        return pixel_values.mul(0.5).add(0.5).sub(mean).div(deviation)  # (B, 3, H, W)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluates one batch; an image that cannot be decoded gets the label -1, and is wrong."""
        self.bad_images.record(inputs.get("undecodable", ()))
        is_undecodable = inputs.get("is_undecodable")
        batch_size = len(inputs["pixel_values"])
        num_own = self.num_own_images(batch_size)
        own = {
            name: values[:num_own] if isinstance(values, torch.Tensor) else values
            for name, values in inputs.items()
        }
        loss, logits, labels = super().prediction_step(
            model, own, prediction_loss_only, ignore_keys=ignore_keys
        )
        if num_own < batch_size:  # the others are dropped after they were gathered
            rows = torch.arange(batch_size).clamp(max=num_own - 1)
            logits, labels = recursively_apply(lambda values: values[rows], (logits, labels))
        if is_undecodable is not None and isinstance(labels, torch.Tensor):
            labels = labels.masked_fill(is_undecodable.to(labels.device), -1)
        return loss, logits, labels

    def num_own_images(self, batch_size: int) -> int:
        """Returns how many images of an evaluated batch are not there to fill it up.

        accelerate deals the batches to the processes in turn and fills the last ones up with images
        from the beginning, so that all processes have as many. Of what is gathered of the last
        ones it keeps the first `remainder` entries: these images' own. Computed from them alone,
        and repeated for each image as transformers does, the loss is that of one process. A process
        none of whose images are its own evaluates them all, and nothing of it is kept.
        """
        dealt = self.accelerator.gradient_state  # of the batch at hand
        if not dealt.end_of_dataloader or dealt.remainder <= 0:
            return batch_size
        num_own = dealt.remainder - self.args.process_index * batch_size
        return min(num_own, batch_size) if num_own > 0 else batch_size

    # Steps

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names the parameters that decay: kernels only, as in the authors' code."""
        return sorted(decayed_names(model))

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Makes the optimizer: layer-wise learning rates, decay of kernels, the average."""
        if self.optimizer is None:
            args, model = self.args, self.model if model is None else model
            if self.optimizer_cls_and_kwargs is not None:
                optimizer_class, options = self.optimizer_cls_and_kwargs
            else:
                optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, model)
            num_layers = getattr(self.model.config, "num_hidden_layers", None)
            if num_layers is None and args.layer_decay != 1:
                raise ValueError(
                    f"got layer_decay={args.layer_decay} for a {self.model.config.model_type}, "
                    "whose layers are not known, allowed: 1"
                )
            groups = parameter_groups(
                model,
                num_layers=num_layers or 0,
                learning_rate=args.learning_rate,
                weight_decay=args.weight_decay,
                layer_decay=args.layer_decay,
            )
            self.optimizer = self.averaging(optimizer_class(groups, **options))
        return self.optimizer

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of one batch, with dropout drawn from the seed and the step."""
        args, step = self.args, self.state.global_step
        seed = derive_seed(args.seed, step, self.micro_step, args.process_index)
        torch.manual_seed(seed)
        self.micro_step += 1
        batch = dict(inputs)  # the step takes entries out of it
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.passes.append(Pass(loss, seed, batch))
        return loss

    # Logs

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Trains; `resume_from_checkpoint` is a folder, "last", or true, see `find_checkpoint`."""
        args = self.args
        checkpoint = find_checkpoint(resume_from_checkpoint, args.output_dir)
        shutil.rmtree(Path(args.output_dir) / STAGING, ignore_errors=True)
        config = self.model.config
        measures = {}
        if config.model_type == VisionTransformerConfig.model_type:  # else nobody counts them here
            is_labelled = "labels" in self.label_names
            task = "image-classification" if is_labelled else "masked-patch-prediction"
            measures = {
                "model_flops_per_image": training_flops(config, num_images=1, task=task),
                "limit": measured_limit(
                    width=config.hidden_size, device=args.device, dtype=computed_in(args)
                ),
            }
        self.throughput = Throughput(device=args.device, num_devices=args.world_size, **measures)
        if args.device.type == "cpu":
            keep_freed_memory()
        return super().train(resume_from_checkpoint=checkpoint, **kwargs)

    def _inner_training_loop(self, *args, **kwargs):
        checkpoint = kwargs.get("resume_from_checkpoint")
        self.bad_images.begin(
            None if checkpoint is None else Path(checkpoint), is_main=self.args.process_index == 0
        )
        return super()._inner_training_loop(*args, **kwargs)

    def _run_epoch(self, *args, **kwargs):
        # transformers trains a finished run one step further when it is resumed within an epoch.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> float:
        """Returns the operations of a batch, forward and backward, as `planning` counts them."""
        per_image = self.throughput.model_flops_per_image if self.throughput else None
        if per_image is None:
            return super().floating_point_ops(inputs)
        return per_image * len(inputs["pixel_values"])

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        # Called after each step, and once more after each epoch, when nothing was fetched since.
        if self.throughput is not None and not self.throughput.is_between_steps:
            self.throughput.step(self.get_total_train_batch_size(self.args))
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None):
        """Logs, and with each training loss how fast it goes."""
        if "loss" in logs and self.throughput is not None:
            logs = {**logs, **self.throughput.log_entries()}
        super().log(logs, start_time)

    # Checkpoints

    def _save_rng_state(self, output_dir: str):
        super()._save_rng_state(output_dir)
        self.bad_images.save(Path(output_dir), rank=self.args.process_index)

    def exportable_model(self):
        """Returns a copy of the model on the CPU, averaged weights where there is an average.

        Every process must call it: sharded weights are gathered, on the main process alone.
        """
        unwrapped = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        model = type(unwrapped)(copy.deepcopy(unwrapped.config))
        with self.averaged_weights():
            weights = self.accelerator.get_state_dict(self.model)
            if self.args.should_save:  # inside: they may be the model's own tensors
                model.load_state_dict(weights)
        return model.eval()

    # The Hub: pushing is the experiment's, which never lets training die of it.

    def init_hf_repo(self, token=None, private=None):
        """Does nothing: a run starts whether or not the Hub answers."""

    def _push_from_checkpoint(self, checkpoint_folder: str):
        """Does nothing, see `init_hf_repo`."""


def leave_process_group_at_exit():
    """Has the interpreter leave the other processes when it ends, once and before what was
    registered until now.
    """
    atexit.unregister(leave_process_group)
    atexit.register(leave_process_group)


def leave_process_group():
    """Leaves the other processes, where there are any.

    gloo's threads let go of the last collectives' tensors when these are done, for which they need
    the interpreter; a process whose interpreter ends meanwhile is aborted. Where something still
    holds the group, destroying it does not wait for them, and nothing tells when they are done: so
    they are given a time that is long for them.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        time.sleep(LEAVING_SECONDS)


def computed_in(args: VisionTransformerTrainingArguments) -> torch.dtype:
    """Returns the type that the matrix products of a training are computed in."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
