# SPDX-License-Identifier: Apache-2.0
"""Image files to upright RGB pictures: the one decoder of training, evaluation and serving.

A picture is turned as its EXIF says; a broken EXIF block leaves it as it is stored. Colours follow
the policy of `colors`. Of a file with several frames the first counts. A picture larger than
Pillow's own limit (`PIL.Image.MAX_IMAGE_PIXELS`) is refused, and so is all that Pillow cannot read
to its end. Where transformers' `load_image` is right, the pixels equal its pixels.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.core import url_to_fs
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from .colors import from_array, to_rgb
from .orientation import UPRIGHT, Box, read_orientation
from .resizing import picture_of, planes_of, resize_exactly, resize_fast

JPEG_SCALES = (8, 4, 2)  # that the decoder can reduce a picture by while it decodes


class UndecodableImage(ValueError):
    """Something given as an image that is none, or that the policy refuses."""


def decode_image(source: Any) -> Image.Image:
    """Decodes an image whole and exactly.

    Args:
        source: what a row of `datasets.Image(decode=False)` holds (`bytes` and `path`), bytes, a
            path or URL, a Pillow image, or an array `(H, W)` or `(H, W, C)` of 1, 3 or 4 channels.

    Returns:
        The picture, upright and in RGB.

    Raises:
        UndecodableImage: for what cannot be decoded, and for files that are not there.
        OSError: where reading itself fails (disk, network), through no fault of the image.
    """
    stored = read_stored(source)
    with refusals(source):
        image = open_image(stored)
        image.load()
        picture = read_orientation(image).turn(to_rgb(image))
        return picture.copy() if picture is source else picture


def decode_region(
    source: Any,
    *,
    choose_box: Callable[[tuple[int, int]], Box | None],
    image_hw: tuple[int, int],
    exact: bool = False,
) -> np.ndarray:
    """Decodes a box of an image at the size wanted, no more of it than is needed.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the box then still has as many pixels as
    are wanted. The rest is antialiased bilinear resizing, see `resizing`.

    Args:
        source: as for `decode_image`.
        choose_box: from the upright size (width, height) to the box (left, top, right, bottom), or
            to `None` for the whole picture.
        image_hw: height and width wanted.
        exact: whether to decode the whole picture as `decode_image` does and resize it with
            Pillow. Otherwise turned pictures differ in the last bit, reduced JPEGs by a few levels,
            and others, which PyTorch resizes, by one level, by the rounding of the box's edges to
            whole pixels, and by the pixels just beyond them, which it does not see.

    Returns:
        The box, upright and in RGB, `(3, H, W)` uint8.

    Raises:
        UndecodableImage, OSError: as `decode_image`.
    """
    target = (image_hw[1], image_hw[0])
    if exact:
        picture = decode_image(source)
        return resize_exactly(picture, choose_box(picture.size), target=target)
    stored = read_stored(source)
    with refusals(source):
        image = open_image(stored)
        is_reducible = isinstance(image, JpegImageFile) and image is not source
        if not is_reducible:  # TIFF is turned upright by loading, PNG may have its EXIF last
            image.load()
        orientation = read_orientation(image)
    upright_size = orientation.swap(image.size)
    box = choose_box(upright_size) or (0, 0, *upright_size)
    box, target = orientation.stored_box(box, image.size), orientation.swap(target)
    stored_size = image.size
    with refusals(source):
        if is_reducible:
            box = reduce_jpeg(image, box, target=target)
            image.load()
        if image.mode != "L":  # grey can wait until there is less of it
            image = to_rgb(image)
    is_whole_jpeg = is_reducible and image.size == stored_size
    resize = resize_fast if is_whole_jpeg else resize_exactly
    planes = resize(image, box, target=target)  # (1 or 3, H, W)
    planes = planes if len(planes) == 3 else planes.repeat(3, axis=0)
    return planes if orientation is UPRIGHT else planes_of(orientation.turn(picture_of(planes)))


def reduce_jpeg(image: Image.Image, box: Box, *, target: tuple[int, int]) -> Box:
    """Has a JPEG that is not read yet decoded as small as leaves `target` pixels in the box.

    Returns:
        Where the box lies in the smaller picture.
    """
    width, height = image.size
    room = min((box[2] - box[0]) / target[0], (box[3] - box[1]) / target[1])
    scale = next((scale for scale in JPEG_SCALES if scale <= room), 1)
    drafted = image.draft(None, (width // scale, height // scale)) if scale > 1 else None
    if drafted is None:
        return box
    by = drafted[1][2] / width  # what Pillow made of it
    return box[0] * by, box[1] * by, box[2] * by, box[3] * by


def read_stored(source: Any) -> Any:
    """Returns the bytes of a row or a path; bytes, Pillow images and arrays as they are."""
    if isinstance(source, Mapping):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if not isinstance(source, str | Path):
        return source
    path = str(source)
    try:
        if "://" not in path:
            return Path(path).read_bytes()
        filesystem, name = url_to_fs(path)  # https://, hf://, zip://file::archive
        return filesystem.cat_file(name)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UndecodableImage(f"got the image {path}, which cannot be read: {error}") from error


def open_image(stored: Any) -> Image.Image:
    """Returns a Pillow image; of a file only the header is read."""
    if isinstance(stored, Image.Image):
        return stored
    if isinstance(stored, np.ndarray):
        return from_array(stored)
    if isinstance(stored, bytes | bytearray | memoryview):
        return Image.open(BytesIO(stored))
    raise ValueError("allowed: bytes, a path, a row with either, a Pillow image or an array")


@contextmanager
def refusals(source: Any) -> Iterator[None]:
    """Makes an `UndecodableImage` that names the image of whatever goes wrong inside.

    Pillow's warnings are kept quiet, but for that of a decompression bomb, which refuses it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except Exception as error:  # Pillow raises nearly anything for a file that is broken
        raise UndecodableImage(
            f"got {describe(source)}, which cannot be decoded as an image: {error}"
        ) from error


def describe(source: Any) -> str:
    """Names an image for an error message."""
    if isinstance(source, Mapping):
        return describe(source.get("path") or source.get("bytes"))
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes that begin with {bytes(source[:8])!r}"
    if isinstance(source, np.ndarray):
        return f"an array of shape {source.shape} and type {source.dtype}"
    if isinstance(source, Image.Image):
        return f"a Pillow image of mode {source.mode} and size {source.size}"
    return str(source) if isinstance(source, str | Path) else f"a {type(source).__name__}"
