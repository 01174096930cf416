# SPDX-License-Identifier: Apache-2.0
"""The memory of a training step on one device, for any batch.

Every block of memory is a constant and a multiple of the batch, so one trace of a step tells what
is in use at each moment of it for all batches; the peak is the largest of these lines.
"""

from dataclasses import dataclass

import numpy as np

from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from .tracing import KINDS
from .training_step import DTYPES, TrainingStep, trace_step

TRACED_BATCH = 2**32  # more than any block of the weights has bytes, and no tensor overflows
FLOAT32_BYTES = 4
PREFETCHED_LAYERS = 2  # FSDP gathers the next layer while it computes one


@dataclass(frozen=True)
class Parallel:
    """How devices train together: each with a copy of the model (DDP), or with a shard (FSDP)."""

    num_devices: int = 1
    fsdp: bool = False

    def __post_init__(self):
        if self.num_devices < 1:
            raise ValueError(f"got {self.num_devices} devices, allowed: 1 or more")
        if self.fsdp and self.num_devices == 1:
            raise ValueError(
                "got FSDP with 1 device, which has nobody to share with; allowed: 2 devices or more"
            )


@dataclass(frozen=True)
class Parameters:
    """How many parameters a model has: in all, and in one layer of its encoder."""

    total: int
    layer: int
    num_layers: int

    @property
    def outside(self) -> int:
        """Parameters outside the encoder's layers."""
        return self.total - self.num_layers * self.layer


class StepMemory:
    """The bytes in use at each moment of a step, as lines over the batch.

    Attributes:
        kinds: what the bytes are for, `KINDS` and `"communication"`.
        fixed: bytes at each moment and of each kind without an image, `(moments, kinds)`.
        per_image: bytes more with each image, `(moments, kinds)`.
    """

    kinds = (*KINDS, "communication")

    def __init__(self, config: VisionTransformerConfig, step: TrainingStep):
        trace, num_moved_by_passes = trace_step(config, step, batch_size=TRACED_BATCH)
        fixed, per_image = trace.timelines(TRACED_BATCH)
        self.step = step
        self.fixed, self.per_image = with_communication(fixed), with_communication(per_image)
        by_passes = [divmod(size, TRACED_BATCH) for size in trace.moved[:num_moved_by_passes]]
        self.moved_per_image = sum(of_image for of_image, _ in by_passes)
        self.moved_by_passes = sum(constant for _, constant in by_passes)
        self.moved_by_update = sum(trace.moved[num_moved_by_passes:])

    def bytes_moved(self, batch_size: int, *, num_batches: int) -> int:
        """Returns what an update of several batches reads and writes."""
        by_passes = self.moved_by_passes + batch_size * self.moved_per_image
        return num_batches * by_passes + self.moved_by_update

    def fixed_on(self, parallel: Parallel, parameters: Parameters, *, average: bool) -> np.ndarray:
        """Returns `fixed` on one of several devices.

        Args:
            parallel: how they train together.
            parameters: of the model.
            average: whether an average of the weights is kept beside the optimizer's state.
        """
        fixed = dict(zip(self.kinds, self.fixed.T.astype(float), strict=True))
        weights = FLOAT32_BYTES * parameters.total
        fixed["optimizer"] += weights * average
        if parallel.fsdp:
            for name in ("weights", "gradients", "optimizer"):
                fixed[name] /= parallel.num_devices
            fixed["weight_copies"] *= 0  # what is gathered has the type already
            fixed["communication"] += self.gathered_bytes(parameters)
        elif parallel.num_devices > 1:  # DDP's buckets, from its first step on
            fixed["communication"] += weights
        return np.stack(list(fixed.values()), axis=1)

    def gathered_bytes(self, parameters: Parameters) -> int:
        """Returns what of the whole model lies on a device that has a shard.

        Layers that are gathered, the gradients of one, and the weights outside the layers. While
        gradients accumulate they stay whole, as accelerate scatters those of the last batch only.
        """
        layers = (PREFETCHED_LAYERS + 1) * parameters.layer
        whole = parameters.total if self.step.accumulates else 0
        return DTYPES[self.step.dtype].itemsize * (layers + parameters.outside + whole)

    def at_peak(self, batch_size: int, fixed: np.ndarray) -> dict[str, int]:
        """Returns the bytes of each kind when most are in use; `fixed` is of `fixed_on`."""
        use = fixed + batch_size * self.per_image
        peak = use[use.sum(axis=1).argmax()]
        return {name: round(size) for name, size in zip(self.kinds, peak.tolist(), strict=True)}

    def largest_batch(self, capacity: float, fixed: np.ndarray) -> int:
        """Returns how many images fit into `capacity` bytes, 0 where not one does."""
        constant, slope = fixed.sum(axis=1), self.per_image.sum(axis=1)
        if constant.max() > capacity:
            return 0
        grows = slope > 0
        return int(((capacity - constant[grows]) / slope[grows]).min())


def with_communication(use: np.ndarray) -> np.ndarray:
    """Adds to `(moments, kinds)` a last kind of which there is nothing yet."""
    return np.pad(use, ((0, 0), (0, 1)))
