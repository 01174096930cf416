# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole or not there: written under another name, then renamed.

A process that is killed while it writes leaves a folder `.saving` behind, which is never taken for
a checkpoint and goes with the next one that is written.
"""

import json
import shutil
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from .sharding import load_optimizer, load_weights, save_optimizer

STAGING = ".saving"  # in the run's folder; holds the checkpoint that is being written
STATE = "trainer_state.json"
PLACES = "stream_places_{rank}.json"  # where the lanes of a stream stood
LAST = "last"  # as --resume_from_checkpoint: the newest there is, or a fresh start


def find_checkpoint(wanted: str | bool | None, output_dir) -> str | None:
    """Returns the folder of the checkpoint to resume from.

    Args:
        wanted: a folder; "last" for the newest checkpoint in `output_dir`, or a fresh start where
            there is none; true for the newest, which must be there; nothing for a fresh start.
        output_dir: the run's folder.

    Raises:
        ValueError: where there is no such checkpoint.
    """
    if not wanted:
        return None
    output_dir = Path(output_dir)
    if wanted == LAST or wanted is True or str(wanted).lower() == "true":
        newest = get_last_checkpoint(str(output_dir)) if output_dir.is_dir() else None
        if newest is None and wanted != LAST:
            raise ValueError(
                f"got resume_from_checkpoint={wanted}, but {output_dir} holds no checkpoint; "
                f"{LAST!r} starts afresh where there is none"
            )
        return newest
    if not (Path(wanted) / STATE).is_file():
        raise ValueError(
            f"got resume_from_checkpoint={wanted}, which is no folder with a {STATE}; "
            f"give a checkpoint-N folder of a run, or {LAST!r}"
        )
    return str(wanted)


def publish(staged: Path, output_dir: Path, *, best_step: int | None) -> Path:
    """Renames a whole checkpoint to its place.

    Args:
        staged: the checkpoint's folder in the staging folder.
        output_dir: the run's folder.
        best_step: step of the best checkpoint so far, to which the trainer's state points.

    Returns:
        The checkpoint's folder.
    """
    final = output_dir / staged.name
    if best_step is not None:
        state = json.loads((staged / STATE).read_text())
        state["best_model_checkpoint"] = str(output_dir / f"checkpoint-{best_step}")
        (staged / STATE).write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
    if final.exists():  # a run that was resumed from an earlier checkpoint comes by again
        shutil.rmtree(final)
    staged.rename(final)
    return final


def read_places(checkpoint: Path) -> dict[int, dict]:
    """Returns where every lane of a stream stood: the furthest that a process's file knows, as of
    the other processes' lanes it has the places that the run was resumed with.
    """
    places = {}
    for file in checkpoint.glob(PLACES.format(rank="*")):
        for lane, place in json.loads(file.read_text()).items():
            known = places.get(int(lane), place)
            places[int(lane)] = max(known, place, key=itemgetter("epoch", "block", "row"))
    return places


def of_groups(state: dict[str, Any], num_groups: int) -> dict[str, Any]:
    """Returns a schedule's state for so many groups of parameters, of which it may have had others
    that all learned alike.

    Raises:
        ValueError: where it had others that did not.
    """
    rates = state.get("base_lrs", [])
    if len(rates) in (0, num_groups):
        return state
    if len(set(rates)) > 1 or num_groups > len(rates):
        raise ValueError(
            f"got a checkpoint with the learning rates of {len(rates)} groups of parameters, and "
            f"this run has {num_groups}; resume with the layer_decay and num_hidden_layers that it "
            "began with"
        )
    return {
        name: value[:num_groups] if isinstance(value, list) and len(value) == len(rates) else value
        for name, value in state.items()
    }


class CheckpointingTrainer(Trainer):
    """A `Trainer` whose checkpoints are whole, fit any number of processes, and know the stream."""

    model: Any
    model_wrapped: Any
    optimizer: Any
    staging_dir: str | None = None  # where a checkpoint is being written

    def __init__(self, *args, **kwargs):
        self.places: dict[int, dict] = {}  # of the lanes of a stream, after the batches taken
        self.newest_checkpoint: str | None = None  # of this run
        super().__init__(*args, **kwargs)

    def _inner_training_loop(self, *args, **kwargs):
        # Once for each size of batch that is tried.
        checkpoint = kwargs.get("resume_from_checkpoint")
        self.places = {} if checkpoint is None else read_places(Path(checkpoint))
        self.newest_checkpoint = checkpoint
        return super()._inner_training_loop(*args, **kwargs)

    def _save_checkpoint(self, model, trial):
        """Writes a checkpoint under another name and renames it when it is whole."""
        run_dir = Path(super()._get_output_dir(trial))
        if self.args.should_save:
            shutil.rmtree(run_dir / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.staging_dir = str(run_dir / STAGING)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.staging_dir = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            best = self.state.best_global_step
            staged = run_dir / STAGING / f"checkpoint-{self.state.global_step}"
            final = publish(staged, run_dir, best_step=best)
            shutil.rmtree(staged.parent, ignore_errors=True)
            if best is not None:
                self.state.best_model_checkpoint = str(run_dir / f"checkpoint-{best}")
            rotate_checkpoints(
                output_dir=str(final.parent),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.newest_checkpoint = str(run_dir / f"checkpoint-{self.state.global_step}")
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial) -> str:
        return self.staging_dir or super()._get_output_dir(trial)

    def _save_optimizer_and_scheduler(self, output_dir: str):
        writes = self.args.should_save
        save_optimizer(
            self.optimizer,
            self.model_wrapped,
            Path(output_dir) / OPTIMIZER_NAME,
            is_sharded=self.is_fsdp_enabled,
            writes=writes,
        )
        if writes:
            scheduler: Any = self.lr_scheduler
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None):
        if checkpoint is None or not (Path(checkpoint) / OPTIMIZER_NAME).is_file():
            return  # as transformers: of a checkpoint of weights alone, the weights
        load_optimizer(self.optimizer, self.model_wrapped, Path(checkpoint) / OPTIMIZER_NAME)
        scheduler: Any = self.lr_scheduler
        state = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
        scheduler.load_state_dict(of_groups(state, len(self.optimizer.param_groups)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None):
        if self.is_fsdp_enabled:
            load_weights(self.model if model is None else model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self):
        if self.is_fsdp_enabled:
            load_weights(self.model, Path(str(self.state.best_model_checkpoint)))
        else:
            super()._load_best_model()

    def _save_rng_state(self, output_dir: str):
        super()._save_rng_state(output_dir)
        if self.places:
            path = Path(output_dir) / PLACES.format(rank=self.args.process_index)
            path.write_text(json.dumps(self.places))
