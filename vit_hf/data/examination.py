# SPDX-License-Identifier: Apache-2.0
"""One image examined: is it read, how large, of what kind, and what tells its copies.

Every image is decoded as in training.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset
from PIL import ExifTags, Image, UnidentifiedImageError
from torch.utils.data import DataLoader
from transformers.utils import logging

from .columns import Columns, Rows, select_columns
from .decoding import UndecodableImage, decode_image, open_image, read_stored, refusals
from .duplicates import digest, signature
from .labels import is_missing

BATCH_SIZE = 32  # images that a process examines at once
BROKEN = "broken"


class Examined(NamedTuple):
    """What there is to know of one image.

    Attributes:
        name: its path, or else its row.
        label: its class's name, where it has one.
        error: why it cannot be read; the next are then empty.
        size: width and height, upright.
        mode: Pillow's, as stored.
        format: Pillow's name of the file's format.
        orientation: the EXIF tag (1 is upright, `None` is none), or `BROKEN`.
        digest, signature: see `duplicates`.
        split: where it lies.
        row: its number there.
    """

    name: str
    label: str | None
    error: str | None = None
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    format: str | None = None
    orientation: int | str | None = None
    digest: bytes = b""
    signature: np.ndarray | None = None
    split: str = ""
    row: int = 0


def examine_split(
    split: str, images: Rows, columns: Columns, *, num_workers: int
) -> Iterator[Examined]:
    """Yields what there is to know of each image of a split."""
    num_images = len(images) if isinstance(images, Dataset) else None
    images = select_columns(images, columns)
    label = (images.features or {}).get("label")
    batches = DataLoader(
        images,  # pyright: ignore[reportArgumentType]
        batch_size=BATCH_SIZE,
        num_workers=num_workers,
        collate_fn=partial(
            examine_rows, class_names=label.names if isinstance(label, ClassLabel) else None
        ),
    )
    row = 0
    with logging.tqdm(total=num_images, desc=split, unit=" images", mininterval=1) as progress:
        try:
            for batch in batches:
                for image in batch:
                    name = image.name or f"row {row}"
                    yield image._replace(name=name, split=split, row=row)
                    row += 1
                progress.update(len(batch))
        except Exception as error:  # a shard that breaks off raises nearly anything
            raise ValueError(
                f"the split {split!r} cannot be read beyond image {row} or a few more: {error}; "
                "mend the file that holds it, or get it anew"
            ) from error


def examine_rows(
    rows: Sequence[Mapping[str, Any]], *, class_names: Sequence[str] | None
) -> list[Examined]:
    """Examines some rows of `image` and, perhaps, `label`."""
    examined = []
    for row in rows:
        label = row.get("label")
        if label is None or is_missing(label):
            said = None
        else:
            said = str(label) if class_names is None else class_names[label]
        examined.append(examine_image(row["image"])._replace(label=said))
    return examined


def examine_image(stored: Mapping[str, Any]) -> Examined:
    """Examines one image."""
    unknown = Examined(name=(stored or {}).get("path") or "", label=None)
    try:
        with refusals(stored):
            image = open_image(read_stored(stored))
            mode = image.mode
        picture = decode_image(image)
    except UndecodableImage as error:
        is_alien = isinstance(error.__cause__, UnidentifiedImageError)
        reason = "no image of a known format" if is_alien else error.__cause__ or error
        return unknown._replace(error=str(reason))
    return unknown._replace(
        size=picture.size,
        mode=mode,
        format=image.format,
        orientation=examine_exif(image),
        digest=digest(picture),
        signature=signature(picture),
    )


def examine_exif(image: Image.Image) -> int | str | None:
    """Returns the orientation that the EXIF block of a decoded image says, or that it is broken."""
    block = image.info.get("exif")
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        try:
            if block:  # read anew, as what Pillow said when it opened the file is gone
                Image.Exif().load(block)
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        except Exception:  # Pillow raises nearly anything, from deep within
            return BROKEN
    return BROKEN if complaints else orientation
