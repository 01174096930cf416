# SPDX-License-Identifier: Apache-2.0
"""Rows to a batch for the classifier: uint8 pixels, which are normalised on the device."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch


def collate_images(rows: Sequence[Mapping]) -> dict[str, torch.Tensor]:
    """Stacks rows of `ImageTransform`: `pixel_values` `(B, 3, H, W)` uint8, `labels` `(B,)`."""
    return {
        "pixel_values": torch.from_numpy(np.stack([row["pixel_values"] for row in rows])),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }
