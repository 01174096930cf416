# SPDX-License-Identifier: Apache-2.0
"""What devices that train together send each other, and how long that takes.

The ring algorithms send, of what is reduced or gathered, the share (n - 1) / n each way round
(Patarasuk and Yuan, 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").
"""

from .memory import FLOAT32_BYTES, Parallel
from .training_step import DTYPES

ROUNDS_OF_ALL_REDUCE = 2  # reduce-scatter, then all-gather
GATHERS_OF_A_BATCH = 2  # the weights, for the forward pass and again for the backward pass


def bytes_sent(num_parameters: int, parallel: Parallel, *, dtype: str, num_batches: int) -> float:
    """Returns the bytes that a device sends for one update, and receives as many.

    DDP reduces the gradients, in float32, once an update. FSDP gathers the weights twice for each
    batch, and scatters the gradients once, both in the type that is computed in.

    Args:
        num_parameters: of the model.
        parallel: how the devices train together.
        dtype: name of the type that is computed in.
        num_batches: that a device accumulates for an update.
    """
    share = (parallel.num_devices - 1) / parallel.num_devices
    if parallel.fsdp:
        rounds, size = GATHERS_OF_A_BATCH * num_batches + 1, DTYPES[dtype].itemsize
    else:
        rounds, size = ROUNDS_OF_ALL_REDUCE, FLOAT32_BYTES
    return rounds * share * num_parameters * size
