# SPDX-License-Identifier: Apache-2.0
"""An image as a checkpoint's own image processor prepares it, for evaluation as in serving."""

from typing import Any

import numpy as np

from .decoding import decode_image


class ProcessorTransform:
    """An image, in any form that `decode_image` takes, to what the processor makes of it.

    Args:
        processor: an image processor of transformers.

    Attributes:
        image_hw: height and width of what it makes, `None` each where they depend on the image.
    """

    def __init__(self, processor):
        self.processor = processor
        size = dict(processor.crop_size if processor.do_center_crop else processor.size)
        self.image_hw = size.get("height"), size.get("width")

    def __call__(self, source: Any, *, seed: int | None = None) -> np.ndarray:
        """Returns `(3, H, W)` float32; nothing is random, so the seed is not needed."""
        return self.processor(decode_image(source), return_tensors="np")["pixel_values"][0]
