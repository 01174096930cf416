# SPDX-License-Identifier: Apache-2.0
import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from vit_hf.data.decoding import decode_image, decode_region
from vit_hf.data.resizing import planes_of

ORIENTATION = 0x0112
WIDTH, HEIGHT = 80, 48
# Where the upright picture's corners are stored (column, row from 0 to 1), by EXIF 2.3's words:
# "the 0th row is the visual top and the 0th column the visual left" is 1, and so on.
STORED_CORNERS = {  # of the top left, of the top right
    1: ((0, 0), (1, 0)),
    2: ((1, 0), (0, 0)),
    3: ((1, 1), (0, 1)),
    4: ((0, 1), (1, 1)),
    5: ((0, 0), (0, 1)),
    6: ((0, 1), (0, 0)),
    7: ((1, 1), (1, 0)),
    8: ((1, 0), (1, 1)),
}


def smooth_picture():
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([row * 4, column * 3, (row + column) * 1.9], -1).astype(np.uint8)


def saved(format, *, exif=None, **options):
    memory = BytesIO()
    options |= {} if exif is None else {"exif": exif}
    Image.fromarray(smooth_picture()).save(memory, format=format, **options)
    return memory.getvalue()


def oriented(format, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    return saved(format, exif=exif, **options.get(format, {}))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations(format, orientation):
    data = oriented(format, orientation)
    decoded = decode_image(data)
    np.testing.assert_array_equal(decoded, ImageOps.exif_transpose(Image.open(BytesIO(data))))
    stored, upright = smooth_picture().astype(int), np.asarray(decoded).astype(int)
    for (x, y), corner in zip(STORED_CORNERS[orientation], (upright[0, 0], upright[0, -1]),
                              strict=True):  # fmt: skip
        assert np.abs(corner - stored[y * (HEIGHT - 1), x * (WIDTH - 1)]).max() <= 3


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_lies_in_the_upright_picture(format, orientation, exact):
    data = oriented(format, orientation)
    upright = decode_image(data)
    seen = []

    def choose_box(size):
        seen.append(size)
        return size[0] * 0.1, size[1] * 0.3, size[0] * 0.7, size[1] * 0.95

    for image_hw in ((9, 13), (40, 40)):
        region = decode_region(data, choose_box=choose_box, image_hw=image_hw, exact=exact)
        box = choose_box(upright.size)
        if format == "JPEG" and not exact and image_hw == (40, 40):  # larger than the box
            box = tuple(map(round, box))
        expected = planes_of(upright.resize(image_hw[::-1], Image.Resampling.BILINEAR, box=box))
        difference = np.abs(region.astype(int) - expected)
        assert region.shape == (3, *image_hw)
        assert difference.max() <= (0 if exact else 3)
    assert set(seen) == {upright.size}


def tiff_block(*entries, tail=b"", count=None):
    """An EXIF block of entries (tag, type, count, the four bytes of the value)."""
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    number = len(entries) if count is None else count
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", number) + body + bytes(4) + tail


SHORT_6 = (ORIENTATION, 3, 1, b"\x06\0\0\0")
BROKEN = {
    "junk": b"Exif\0\0junk that is no TIFF header",
    "header alone": b"Exif\0\0II*\0",
    "truncated": tiff_block(SHORT_6)[:-13],
    "directory outside": b"Exif\0\0II*\0\xff\xff\xff\x0f",
    "value outside": tiff_block((ORIENTATION, 3, 4, b"\xff\xff\xff\x7f")),
    "text": tiff_block((ORIENTATION, 2, 2, b"6\0\0\0")),
    "unknown type": tiff_block((ORIENTATION, 99, 1, b"\x06\0\0\0")),
    "rational by zero": tiff_block((ORIENTATION, 5, 1, b"\x1a\0\0\0"), tail=bytes(8)),
    "9": tiff_block((ORIENTATION, 3, 1, b"\x09\0\0\0")),
    "0": tiff_block((ORIENTATION, 3, 1, bytes(4))),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_block_leaves_the_picture_as_it_is_stored(format, name):
    with_block, without = saved(format, exif=BROKEN[name]), saved(format)
    np.testing.assert_array_equal(decode_image(with_block), decode_image(without))
    for exact in (True, False):
        region = decode_region(
            with_block, choose_box=lambda size: None, image_hw=(HEIGHT, WIDTH), exact=exact
        )
        np.testing.assert_array_equal(region, planes_of(decode_image(without)))


def test_pillow_itself_breaks_on_some():
    not_hexadecimal = PngInfo()
    not_hexadecimal.add_text("Raw profile type exif", "\nexif\n 10\nno digits")
    for data, error in (
        (saved("PNG", exif=BROKEN["junk"]), SyntaxError),
        (saved("PNG", exif=BROKEN["header alone"]), struct.error),
        (saved("PNG", pnginfo=not_hexadecimal), ValueError),
    ):
        with pytest.raises(error):
            ImageOps.exif_transpose(Image.open(BytesIO(data)))
        np.testing.assert_array_equal(decode_image(data), smooth_picture())


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_another_tag_that_is_broken_does_not_hide_the_orientation(format):
    # A copyright in no encoding and a date that lies outside, as in ImageNet's files.
    block = tiff_block(
        SHORT_6, (0x8298, 2, 4, b"\xff\xfe\xfd\0"), (0x9003, 2, 999, b"\xff\xff\0\0")
    )
    assert decode_image(saved(format, exif=block)).size == (HEIGHT, WIDTH)


def test_a_png_may_keep_its_orientation_behind_the_pixels():
    data = oriented("PNG", 6)
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    tail = data.index(b"IEND") - 4
    late = data[:start] + data[end:tail] + data[start:end] + data[tail:]
    assert late.index(b"IDAT") < late.index(b"eXIf")
    region = decode_region(late, choose_box=lambda size: None, image_hw=(WIDTH, HEIGHT))
    np.testing.assert_array_equal(decode_image(late), decode_image(data))
    np.testing.assert_array_equal(region, planes_of(decode_image(data)))
