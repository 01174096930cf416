# SPDX-License-Identifier: Apache-2.0
"""One box of pixels for each image of a batch, and the mask that it makes.

Shapes: `B` batch, `H` height, `W` width. A box is (top, left, bottom, right) in whole pixels, the
last two exclusive; four zeros are no box.
"""

from collections.abc import Sequence

import torch

PixelBox = tuple[int, int, int, int]
NO_BOX: PixelBox = (0, 0, 0, 0)


def inside(boxes: torch.Tensor, image_hw: Sequence[int]) -> torch.Tensor:
    """Returns which pixels lie in their image's box: `(B, 4)` to `(B, 1, H, W)` bool."""
    top, left, bottom, right = boxes[:, :, None].unbind(1)  # (B, 1) each
    row = torch.arange(image_hw[0], device=boxes.device)  # (H,)
    column = torch.arange(image_hw[1], device=boxes.device)  # (W,)
    in_rows = (top <= row) & (row < bottom)  # (B, H)
    in_columns = (left <= column) & (column < right)  # (B, W)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
