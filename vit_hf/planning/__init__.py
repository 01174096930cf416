# SPDX-License-Identifier: Apache-2.0
"""What a model and a run cost: operations, memory, communication, time."""

from .devices import DEVICES, Device, get_device
from .flops import FORWARDS_PER_STEP, MODELS, Task, forward_flops, images_seen, training_flops
from .memory import Parallel
from .plan import DEFAULT_UTILISATION, Plan, Run, make_plan
from .training_step import DTYPES, OPTIMIZERS, TrainingStep

__all__ = [
    "DEFAULT_UTILISATION",
    "DEVICES",
    "DTYPES",
    "FORWARDS_PER_STEP",
    "MODELS",
    "OPTIMIZERS",
    "Device",
    "Parallel",
    "Plan",
    "Run",
    "Task",
    "TrainingStep",
    "forward_flops",
    "get_device",
    "images_seen",
    "make_plan",
    "training_flops",
]
