# SPDX-License-Identifier: Apache-2.0
"""Real images for the parity check: yours, or crops of the photographs that scikit-learn ships.

Noise would not do: a network's answer to it is all over the place, and says little of photographs.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from ..data import decode_image, load_images
from ..data.sources import SHARD_FORMATS

MOST_IMAGES = 1000  # that are looked at; of more, as many evenly spaced ones
# Boxes `(top, left, height, width)` as shares of a photograph, and what the longer side becomes:
# landscapes, portraits and squares, small ones and large ones.
CROPS = (
    ((0, 0, 1, 1), 640),
    ((0, 0, 1, 1), 96),
    ((0.1, 0.2, 0.8, 0.35), 400),
    ((0, 0.5, 0.6, 0.4), 300),
    ((0.4, 0, 0.6, 0.4), 60),
    ((0.2, 0.3, 0.5, 0.6), 900),
    ((0.5, 0.5, 0.5, 0.5), 224),
    ((0, 0, 0.45, 1), 500),
    ((0.3, 0.6, 0.7, 0.2), 350),
    ((0.25, 0.25, 0.5, 0.5), 33),
)


def real_images(sources: list[str] | None = None) -> list[Image.Image]:
    """Returns pictures, upright and in RGB.

    Args:
        sources: image files, folders of them or datasets as `vit_hf.data.load_images` opens them
            (their test split, where there is one); `None` is crops of two photographs.

    Raises:
        ValueError: for sources that are not there, or that hold fewer than two images.
    """
    if sources is None:
        return photographs()
    found = [row for source in sources for row in rows_of(source)]
    if len(found) < 2:
        raise ValueError(
            f"got {len(found)} image in {', '.join(sources)}; parity takes at least two, so that "
            "it sees whether the outputs tell images apart"
        )
    step = max(1, len(found) / MOST_IMAGES)
    kept = [found[int(place * step)] for place in range(min(MOST_IMAGES, len(found)))]
    return [decode_image(source) for source in kept]


def rows_of(source: str) -> list:
    """Returns the images of one source, undecoded."""
    path = Path(source).expanduser()
    if path.is_file() and path.suffix not in SHARD_FORMATS:
        return [path]
    splits: Any = load_images(source, require_labels=False)
    images = splits.get("test", splits["train"])
    places = np.linspace(0, len(images) - 1, min(MOST_IMAGES, len(images))).astype(int)
    return [row["image"] for row in images.select(places)]


def photographs() -> list[Image.Image]:
    """Returns crops, of many sizes and shapes, of scikit-learn's two photographs."""
    pictures = []
    for pixels in load_sample_images().images:
        photograph = Image.fromarray(pixels)
        width, height = photograph.size
        for (top, left, rows, columns), longest in CROPS:
            box = (left * width, top * height, (left + columns) * width, (top + rows) * height)
            scale = longest / max(box[2] - box[0], box[3] - box[1])
            size = (round((box[2] - box[0]) * scale), round((box[3] - box[1]) * scale))
            pictures.append(photograph.resize(size, Image.Resampling.BICUBIC, box=box))
    return pictures
