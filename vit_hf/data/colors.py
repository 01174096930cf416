# SPDX-License-Identifier: Apache-2.0
"""The colour policy: pictures of any Pillow mode, and arrays, to RGB with 8 bits a channel.

| mode | becomes |
|---|---|
| L, LA, La, 1 | its grey three times; transparency is left aside, as serving does |
| P, PA, RGBA, RGBa, RGBX | its colours; transparency is left aside, as serving does |
| CMYK, YCbCr, LAB, HSV | converted by Pillow, as serving does |
| I;16, I;16L, I;16B, I;16N | 16 bits scaled to 8: `v / 257`, rounded |
| I | values in [0, 255] as they are, in [0, 65535] as 16 bits |
| F | values in [0, 1] times 255, rounded; in [0, 255] without their fraction, as Pillow does |

Values outside these ranges are refused. Arrays follow the same rules: bool as 1, uint8 as L, uint16
as I;16, other integers as I, floats as F. "Serving" is transformers' `load_image`, which its
pipelines use: `convert("RGB")`. It clips 16 bits and floats to 8, so that nearly all is white or
black; only there we differ from it.
"""

import numpy as np
from PIL import Image

DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns the picture in RGB (itself, where it is).

    Raises:
        ValueError: for values outside the policy.
    """
    if image.mode == "RGB":
        return image
    if image.mode in DEEP_MODES:
        image = Image.fromarray(to_8_bits(np.asarray(image)))
    elif image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    return image.convert("RGB")


def from_array(array: np.ndarray) -> Image.Image:
    """Returns an array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)` as a picture of 8 bits.

    Raises:
        ValueError: for another shape or type, and for values outside the policy.
    """
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not is_picture or 0 in array.shape:
        raise ValueError(
            f"its shape is {array.shape}, allowed: (height, width), with 1, 3 or 4 channels last"
        )
    return Image.fromarray(to_8_bits(array[:, :, 0] if array.shape[2:] == (1,) else array))


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scales values of any real type to uint8, by the policy above."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    is_float = values.dtype.kind == "f"
    if not is_float and values.dtype.kind not in "ui":
        raise ValueError(f"its type is {values.dtype}, allowed: bool, integers and floats")
    lowest, highest = values.min(), values.max()

    def within(limit: int) -> bool:
        return bool(lowest >= 0 and highest <= limit)  # a NaN is not

    if is_float and within(1):
        return np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    # uint16 of either byte order is 16 bits deep however dark the picture is.
    if within(255) and values.dtype.newbyteorder("=") != np.uint16:
        return values.astype(np.uint8)
    if within(65535) and not is_float:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 257 is odd: no ties
    allowed = "[0, 1] or [0, 255]" if is_float else "[0, 255] or [0, 65535]"
    raise ValueError(f"its values lie in [{lowest}, {highest}], allowed: {allowed}")
