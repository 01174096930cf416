# SPDX-License-Identifier: Apache-2.0
"""A plan: what a training costs on given devices, whether it fits, and what limits it."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from .communication import bytes_sent
from .devices import Device
from .flops import FORWARDS_PER_STEP, MODELS, forward_flops
from .memory import Parallel, Parameters, StepMemory
from .training_step import TrainingStep

EXA = 10**18
SECONDS_AN_HOUR = 3600
DEFAULT_UTILISATION = 0.4  # of the device's peak; docs/planning.md compares it with the paper's


@dataclass(frozen=True)
class Run:
    """A training to plan.

    Args:
        config: of the model.
        num_images: images seen in all, repetitions counted.
        batch_size: images of an update, over all devices.
        per_device_batch_size: images that a device takes at once; what is missing in an update is
            accumulated.
        step: the kind of step; whether it accumulates follows from the batches.
        device: that it runs on.
        parallel: how many devices, and how they share.
        average: whether an average of the weights is kept.
        utilisation: share of the device's peak that the model's operations reach.

    Raises:
        ValueError: for numbers that are not positive, and an update that the devices cannot make
            up.
    """

    config: VisionTransformerConfig
    num_images: int
    batch_size: int
    per_device_batch_size: int
    step: TrainingStep
    device: Device
    parallel: Parallel = field(default_factory=Parallel)
    average: bool = False
    utilisation: float = DEFAULT_UTILISATION

    def __post_init__(self):
        for name in ("num_images", "batch_size", "per_device_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)}, allowed: 1 or more")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"got utilisation={self.utilisation}, allowed: above 0, and 1 at most")
        at_once = self.per_device_batch_size * self.parallel.num_devices
        if self.batch_size % at_once:
            raise ValueError(
                f"got batch_size={self.batch_size}, which {self.parallel.num_devices} devices with "
                f"batches of {self.per_device_batch_size} cannot make up; allowed: a multiple of "
                f"{at_once}"
            )

    @property
    def num_batches(self) -> int:
        """Batches that a device accumulates for an update."""
        return self.batch_size // (self.per_device_batch_size * self.parallel.num_devices)


@dataclass(frozen=True)
class Plan:
    """What a run costs; times are in seconds for one update, memory in bytes on each device.

    `flops_per_image` are of the forward pass in training, without the patches that patch dropout
    leaves out; `total_exaflops` of the whole training as the paper counts: three forward passes an
    image, nothing that checkpointing computes again.
    """

    parameters: int
    flops_per_image: int
    total_exaflops: float
    num_images: int
    num_updates: int
    batch_size: int
    per_device_batch_size: int
    num_batches_accumulated: int
    dtype: str
    optimizer: str
    gradient_checkpointing: bool
    fsdp: bool
    devices: int
    device: Device
    utilisation: float
    memory_bytes_per_device: int
    memory_bytes: dict[str, int]
    memory_bytes_other_checkpointing: int
    largest_per_device_batch: int
    fits: bool
    communication_bytes_per_update: float
    seconds_per_update: dict[str, float]
    limit: str
    hours: float
    device_hours: float
    would_fit: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON takes it."""
        return asdict(self)


def make_plan(run: Run) -> Plan:
    """Plans a run: traces its step with and without checkpointing, and counts."""
    config, step, parallel = run.config, run.step, run.parallel
    parameters = count_parameters(config, task=step.task)
    step = replace(step, accumulates=run.num_batches > 1)
    other = replace(step, gradient_checkpointing=not step.gradient_checkpointing)
    memories = {kind.gradient_checkpointing: StepMemory(config, kind) for kind in (step, other)}
    uses = Uses(run, memories, parameters)
    memory = memories[step.gradient_checkpointing]
    at_peak = uses.at_peak(step.gradient_checkpointing, parallel)
    largest = uses.largest_batch(step.gradient_checkpointing, parallel)
    fits = largest >= run.per_device_batch_size

    flops = forward_flops(config, task=step.task, in_training=True)
    sent = bytes_sent(parameters.total, parallel, dtype=step.dtype, num_batches=run.num_batches)
    seconds = seconds_of_update(run, flops, memory=memory, num_bytes_sent=sent)
    num_updates = math.ceil(run.num_images / run.batch_size)
    hours = num_updates * max(seconds.values()) / SECONDS_AN_HOUR
    return Plan(
        parameters=parameters.total,
        flops_per_image=flops,
        total_exaflops=FORWARDS_PER_STEP * flops * run.num_images / EXA,
        num_images=run.num_images,
        num_updates=num_updates,
        batch_size=run.batch_size,
        per_device_batch_size=run.per_device_batch_size,
        num_batches_accumulated=run.num_batches,
        dtype=step.dtype,
        optimizer=step.optimizer,
        gradient_checkpointing=step.gradient_checkpointing,
        fsdp=parallel.fsdp,
        devices=parallel.num_devices,
        device=run.device,
        utilisation=run.utilisation,
        memory_bytes_per_device=sum(at_peak.values()),
        memory_bytes=at_peak,
        memory_bytes_other_checkpointing=sum(
            uses.at_peak(other.gradient_checkpointing, parallel).values()
        ),
        largest_per_device_batch=largest,
        fits=fits,
        communication_bytes_per_update=sent,
        seconds_per_update=seconds,
        limit=max(seconds, key=lambda name: seconds[name]) if fits else "memory",
        hours=hours,
        device_hours=hours * parallel.num_devices,
        would_fit=[] if fits else uses.what_would_fit(),
    )


def seconds_of_update(
    run: Run, flops: int, *, memory: StepMemory, num_bytes_sent: float
) -> dict[str, float]:
    """Returns how long each resource is busy with an update; they work at the same time.

    Compute is at the stated utilisation; what operations read and write is at the memory's full
    speed, each operation by itself, as PyTorch runs them without compiling; sending is at the
    interconnect's full speed. A resource of unknown speed is left out.
    """
    device, step = run.device, run.step
    an_image = FORWARDS_PER_STEP * flops
    if step.gradient_checkpointing:
        an_image += recomputed_flops(run.config, task=step.task)
    images = run.batch_size / run.parallel.num_devices
    seconds = {"compute": images * an_image / (run.utilisation * device.flops(step.dtype))}
    if device.memory_bandwidth is not None:
        moved = memory.bytes_moved(run.per_device_batch_size, num_batches=run.num_batches)
        seconds["memory_bandwidth"] = moved / device.memory_bandwidth
    if device.interconnect is not None and run.parallel.num_devices > 1:
        seconds["communication"] = num_bytes_sent / device.interconnect
    return seconds


@dataclass(frozen=True)
class Uses:
    """The memory of a run's step, and of the same with another kind of checkpointing or sharing.

    Args:
        run: that is planned.
        memories: of the step, by whether it checkpoints.
        parameters: of the model.
    """

    run: Run
    memories: dict[bool, StepMemory]
    parameters: Parameters

    def fixed(self, checkpointing: bool, parallel: Parallel):
        """Returns the step's bytes without an image, see `StepMemory.fixed_on`."""
        memory = self.memories[checkpointing]
        return memory.fixed_on(parallel, self.parameters, average=self.run.average)

    def at_peak(self, checkpointing: bool, parallel: Parallel) -> dict[str, int]:
        """Returns the bytes of each kind when most are in use."""
        fixed = self.fixed(checkpointing, parallel)
        return self.memories[checkpointing].at_peak(self.run.per_device_batch_size, fixed)

    def largest_batch(self, checkpointing: bool, parallel: Parallel) -> int:
        """Returns how many images fit on a device."""
        fixed = self.fixed(checkpointing, parallel)
        return self.memories[checkpointing].largest_batch(self.run.device.memory, fixed)

    def what_would_fit(self) -> list[str]:
        """Returns, in the words of the flags, what makes a run fit that does not."""
        run, checkpoints = self.run, self.run.step.gradient_checkpointing
        smaller = self.largest_batch(checkpoints, run.parallel)
        ways = [f"--per_device_train_batch_size {smaller} or less"] if smaller else []
        alternatives = {"--gradient_checkpointing": (True, run.parallel)}
        if run.parallel.num_devices > 1 and not run.parallel.fsdp:
            sharded = replace(run.parallel, fsdp=True)
            alternatives["--fsdp"] = (checkpoints, sharded)
            alternatives["--fsdp --gradient_checkpointing"] = (True, sharded)
        for words, (checkpointing, parallel) in alternatives.items():
            if (checkpointing, parallel) == (checkpoints, run.parallel):
                continue  # as it is planned
            largest = self.largest_batch(checkpointing, parallel)
            if largest >= run.per_device_batch_size:
                ways.append(words)
            elif largest > smaller:
                ways.append(f"{words} with --per_device_train_batch_size {largest} or less")
        return ways


def count_parameters(config: VisionTransformerConfig, *, task: str) -> Parameters:
    """Counts the parameters of a model, in all and in a layer."""
    with torch.device("meta"):
        model: Any = MODELS[task](config)
    layers = model.base_model.layers
    return Parameters(
        total=sum(parameter.numel() for parameter in model.parameters()),
        layer=sum(parameter.numel() for parameter in layers[0].parameters()),
        num_layers=len(layers),
    )


def recomputed_flops(config: VisionTransformerConfig, *, task: str) -> int:
    """Counts the operations of the layers' forward pass, which checkpointing makes again."""
    settings = config.to_dict()
    one, two = (
        forward_flops(
            type(config)(**{**settings, "num_hidden_layers": depth}),
            task=task,  # pyright: ignore[reportArgumentType]
            in_training=True,
        )
        for depth in (1, 2)
    )
    return config.num_hidden_layers * (two - one)
