# SPDX-License-Identifier: Apache-2.0
"""Numbers on a device that is not waited for."""

from collections.abc import Sequence

import torch


def filled_in(numbers: Sequence[float], device: torch.device) -> torch.Tensor:
    """Returns numbers as `(N,)`, each filled in on the device: `torch.tensor` would bring them
    there, and wait until the device has done what it was given.
    """
    return torch.cat([torch.full((1,), number, device=device) for number in numbers])
