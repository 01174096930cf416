# SPDX-License-Identifier: Apache-2.0
"""The photographs of a benchmark: JPEG files in a folder of their own, in a random order that is
always the same.
"""

import math
import random
import shutil
from pathlib import Path

from PIL import Image, ImageOps

from ..data import decode_image

ENDINGS = (".jpg", ".jpeg")
QUALITY = 90  # of the JPEGs that are written here
MEGAPIXEL = 10**6
SEED = 0


def write_photos(
    source: str | None, folder: Path, *, num_images: int, megapixels: float | None
) -> list[Path]:
    """Writes the photographs of a benchmark.

    Args:
        source: a folder with JPEG files, which are copied byte for byte; `None` is the two photos
            that scikit-learn ships, each also mirrored.
        folder: where to.
        num_images: how many; where there are fewer, they are repeated.
        megapixels: that each is enlarged (or made smaller) to, and encoded anew; `None` leaves
            them.

    Returns:
        The files, in their order.

    Raises:
        ValueError: where the folder is not there or has no JPEG files.
    """
    found = own_photos(folder) if source is None else files_in(Path(source).expanduser())
    random.Random(SEED).shuffle(found)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number in range(num_images):
        path = folder / f"{number:05}.jpg"
        if number >= len(found):
            shutil.copyfile(written[number % len(found)], path)
        elif megapixels is None:
            shutil.copyfile(found[number], path)
        else:
            resized(decode_image(found[number]), megapixels).save(path, quality=QUALITY)
        written.append(path)
    return written


def own_photos(folder: Path) -> list[Path]:
    """Writes scikit-learn's photos beside `folder` and returns their files."""
    from sklearn.datasets import load_sample_images

    place = folder.with_name(f"{folder.name}_of_scikit_learn")
    place.mkdir(parents=True, exist_ok=True)
    files = []
    for number, array in enumerate(load_sample_images().images):
        photo = Image.fromarray(array)
        for name, picture in (("as_it_is", photo), ("mirrored", ImageOps.mirror(photo))):
            files.append(place / f"{number}_{name}.jpg")
            picture.save(files[-1], quality=QUALITY)
    return files


def files_in(folder: Path) -> list[Path]:
    """Returns the JPEG files of a folder and of those within it."""
    if not folder.is_dir():
        raise ValueError(f"got --images {folder}, which is no folder; give one with JPEG files")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if not files:
        raise ValueError(
            f"got --images {folder}, a folder without files that end in {' or '.join(ENDINGS)}; "
            "the input path is measured from JPEG bytes"
        )
    return files


def resized(picture: Image.Image, megapixels: float) -> Image.Image:
    """Returns a picture of that many megapixels, of the same shape."""
    factor = math.sqrt(megapixels * MEGAPIXEL / (picture.width * picture.height))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.BICUBIC)
