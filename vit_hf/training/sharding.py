# SPDX-License-Identifier: Apache-2.0
"""Weights and optimizer sharded over processes (FSDP2), with checkpoints that do not show it.

A checkpoint holds whole tensors under the names of the parameters, whether one process wrote it or
many, with copies of the model or with shards. So it resumes on any of them. transformers writes
another format for shards than for copies, and refuses the one for the other.
"""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, parse_flag_from_env
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import TrainingArguments
from transformers.utils import SAFE_WEIGHTS_NAME

SHARDED_LAYER = "VisionTransformerLayer"  # what is gathered together; the rest of the model is one


def asks_for_shards(args: TrainingArguments) -> bool:
    """Whether a flag or the launcher asks for shards."""
    return args.fsdp_plugin_args is not None or parse_flag_from_env("ACCELERATE_USE_FSDP")


def prepare_sharding(args: TrainingArguments) -> None:
    """Lets accelerate shard on the CPU too, where it would train with copies and not say so.

    accelerate 1.15 looks whether shards are asked for only where processes have GPUs
    (`AcceleratorState.__init__`). Call this between the arguments and the accelerator.

    Raises:
        ValueError: where shards are asked for, but no launcher started the process.
    """
    if not asks_for_shards(args):
        return
    state = PartialState()
    if state.distributed_type == DistributedType.NO:
        raise ValueError(
            "got a request for shards (FSDP) and 1 process, allowed: processes of a launcher; "
            "start the script with accelerate launch or torchrun"
        )
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


def complete_sharding(accelerator: Accelerator) -> None:
    """Chooses what is sharded together where nobody says, and checkpoints of whole tensors.

    accelerate shards the patch embeddings inside the embeddings by itself, and a second time is an
    error; so of the modules that must not be split only the layers are taken.

    Raises:
        ValueError: for FSDP 1.
    """
    plugin: Any = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"got FSDP {plugin.fsdp_version}, allowed: 2; give fsdp_version: 2 in the launcher's "
            'configuration, or --fsdp_config with "version": 2'
        )
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = [SHARDED_LAYER]
    plugin.set_state_dict_type("FULL_STATE_DICT")


def save_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    path: Path,
    *,
    is_sharded: bool,
    writes: bool,
) -> None:
    """Writes an optimizer's state, every tensor whole. Every process must call it.

    Args:
        optimizer: of `model`'s parameters.
        model: as it trains: sharded, wrapped, or plain.
        path: the file.
        is_sharded: whether the main process must gather it.
        writes: whether this process writes.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=is_sharded)
    state = get_optimizer_state_dict(model, unwrapped(optimizer), options=options)
    if writes:
        torch.save(state, path)


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, path: Path) -> None:
    """Loads what `save_optimizer` wrote; every process takes its part of it."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    # Of tensors PyTorch makes each process's part, and asks for at least one; plain SGD has none.
    options = StateDictOptions(full_state_dict=bool(state["state"]))
    set_optimizer_state_dict(model, unwrapped(optimizer), state, options=options)


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Loads the weights of a checkpoint into a sharded model; every process takes its part."""
    weights: Any = load_file(checkpoint / SAFE_WEIGHTS_NAME)
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))


def unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Returns PyTorch's own optimizer, of which accelerate's would scale and skip steps."""
    return getattr(optimizer, "optimizer", optimizer)
