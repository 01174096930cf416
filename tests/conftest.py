# SPDX-License-Identifier: Apache-2.0
"""Small real images that tests of several rooms use."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# What the shell says of the Hub is not meant for the tests, which bring a Hub of their own or none.
# It is read when `huggingface_hub` is imported, which is after this.
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "HF_TOKEN"):
    os.environ.pop(name, None)


def encode(index: int, *, size: tuple[int, int] = (20, 14), format: str = "PNG") -> bytes:
    """Returns the bytes of a noise image, another for each index."""
    height, width = size
    pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format=format)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def encoded_image():
    """The function `(index, *, size=(20, 14), format="PNG") -> bytes`."""
    return encode


@pytest.fixture(scope="session")
def image_rows():
    """The function `num_images -> rows` as `load_images` has them, each with its own label."""

    def rows(num_images: int) -> list[dict]:
        return [
            {"image": {"bytes": encode(index), "path": None}, "label": index}
            for index in range(num_images)
        ]

    return rows


@pytest.fixture(scope="session")
def color_folder():
    """The function `(folder, *, per_class, seed=0) -> folder` of the classes blue and red."""

    def make(folder: Path, *, per_class: int, seed: int = 0) -> Path:
        generator = np.random.default_rng(seed)
        for name, color in {"blue": (40, 40, 220), "red": (220, 40, 40)}.items():
            (folder / name).mkdir(parents=True)
            for index in range(per_class):
                pixels = np.clip(generator.normal(color, 25, (20, 26, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")
        return folder

    return make
