# SPDX-License-Identifier: Apache-2.0
import pickle
import warnings
import zipfile
from io import BytesIO

import fsspec
import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from PIL.Image import Resampling
from transformers.image_utils import load_image

from vit_hf.data.decoding import UndecodableImage, decode_image, decode_region, reduce_jpeg
from vit_hf.data.resizing import picture_of, planes_of, whole_pixels


def photograph(width, height, *, mode="RGB"):
    """A picture with structure of every size, like a photograph, and little of the finest."""
    generator = np.random.default_rng(0)
    image = Image.new("RGB", (width, height), "grey")
    for cells, weight in ((4, 0.5), (16, 0.4), (64, 0.3)):
        noise = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        image = Image.blend(image, layer, weight)
    return image.convert(mode)


def saved(image, format="JPEG", **options):
    memory = BytesIO()
    image.save(memory, format=format, **options)
    return memory.getvalue()


def whole(size):
    return None


def difference(first, second):
    return np.abs(np.asarray(first).astype(int) - np.asarray(second))


DECODERS = {
    "image": decode_image,
    "exact region": lambda source: decode_region(
        source, choose_box=whole, image_hw=(20, 20), exact=True
    ),
    "region": lambda source: decode_region(source, choose_box=whole, image_hw=(20, 20)),
}
every_decoder = pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)


def test_every_kind_of_source_gives_the_same_picture(tmp_path):
    data = saved(photograph(60, 40))
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inside/a.jpg", data)
    fsspec.filesystem("memory").pipe_file("/a.jpg", data)
    expected = np.asarray(load_image(str(path)))
    for source in (
        data,
        bytearray(data),
        memoryview(data),
        path,
        str(path),
        {"bytes": data, "path": None},
        {"bytes": data, "path": "not/there.jpg"},
        {"bytes": None, "path": str(path)},
        {"path": path},
        "memory://a.jpg",
        {"bytes": None, "path": f"zip://inside/a.jpg::{tmp_path / 'a.zip'}"},
        Image.open(path),
        expected,
    ):
        np.testing.assert_array_equal(decode_image(source), expected)


def test_rows_of_datasets(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(saved(photograph(60, 40), "PNG"))
    for stored in (str(path), {"bytes": path.read_bytes(), "path": None}, photograph(60, 40)):
        rows = Dataset.from_dict({"image": [stored]}, features=Features({"image": ImageFeature()}))
        undecoded = rows.cast_column("image", ImageFeature(decode=False))
        assert isinstance(undecoded[0]["image"], dict)
        np.testing.assert_array_equal(decode_image(undecoded[0]["image"]), photograph(60, 40))
        np.testing.assert_array_equal(decode_image(rows[0]["image"]), photograph(60, 40))


@every_decoder
def test_the_callers_image_stays_as_it_is(decode):
    for image in (Image.open(BytesIO(saved(photograph(600, 400)))), photograph(600, 400)):
        decoded = decode(image)
        assert decoded is not image and image.size == (600, 400)
        before = np.array(image)
        if isinstance(decoded, Image.Image):
            decoded.putpixel((0, 0), (1, 2, 3))
        elif decoded.flags.writeable:
            decoded[:] = 1
        np.testing.assert_array_equal(image, before)


def undecodable(tmp_path):
    jpeg, png = saved(photograph(60, 40)), saved(photograph(60, 40), "PNG")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "fine.png").write_bytes(png)
    return {
        "jpeg cut": (jpeg[:-100], f"got {len(jpeg) - 100} bytes that begin with .*truncated"),
        "jpeg header": (jpeg[:300], "got 300 bytes"),
        "png cut": (png[: len(png) // 2], "truncated"),
        "gif cut": (saved(photograph(60, 40), "GIF")[:-500], "cannot be decoded"),
        "no bytes": ({"bytes": b"", "path": None}, "got 0 bytes"),
        "no bytes beside a path": ({"bytes": b"", "path": tmp_path / "fine.png"}, "got .*fine.png"),
        "text": (tmp_path / "text.jpg", "got .*text.jpg, which cannot be decoded"),
        "row": ({"bytes": jpeg[:300], "path": "cats/1.jpg"}, "got cats/1.jpg, which"),
        "not there": (str(tmp_path / "none.jpg"), "got the image .*none.jpg, which cannot be read"),
        "not there, far": ("memory://none.jpg", "got the image memory://none.jpg"),
        "folder": (tmp_path, "cannot be read"),
        "nothing": (None, "got a NoneType.*allowed: bytes, a path"),
        "empty row": ({"bytes": None, "path": None}, "got a NoneType"),
        "number": (7, "got a int.*allowed: bytes, a path"),
        "lazy": (Image.open(BytesIO(jpeg[:-100])), r"mode RGB and size \(60, 40\).*truncated"),
    }


@every_decoder
def test_what_cannot_be_decoded_is_named(decode, tmp_path):
    for name, (source, message) in undecodable(tmp_path).items():
        with pytest.raises(UndecodableImage, match=message) as caught:
            decode(source)
        assert isinstance(caught.value, ValueError), name
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # from workers


@every_decoder
def test_a_failure_to_read_is_no_fault_of_the_image(decode):
    with pytest.raises(OSError) as caught:
        decode("a" * 5000 + ".jpg")  # a name too long for the file system
    assert not isinstance(caught.value, UndecodableImage)


def test_errors_of_choose_box_are_the_callers():
    def broken(size):
        raise KeyError("box")

    def outside(size):
        return 0, 0, size[0] + 9, size[1]

    for exact in (True, False):
        for choose_box, error in ((broken, KeyError), (outside, ValueError)):
            with pytest.raises(error) as caught:
                decode_region(
                    saved(photograph(60, 40)), choose_box=choose_box, image_hw=(9, 9), exact=exact
                )
            assert not isinstance(caught.value, UndecodableImage)


@every_decoder
@pytest.mark.parametrize("limit", [60 * 40 - 1, 60 * 40 // 2 - 1])  # Pillow warns, Pillow raises
def test_decompression_bombs_are_refused(decode, limit, monkeypatch):
    data = saved(photograph(60, 40), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 40)
    decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        with pytest.raises(UndecodableImage, match=r"2400 pixels.* exceeds limit"):
            decode(data)
    assert not leaked


@every_decoder
@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP", "MPO"])
def test_the_first_of_several_frames(decode, format):
    first, second = photograph(60, 40), Image.new("RGB", (60, 40), "red")
    data = saved(first, format, save_all=True, append_images=[second], quality=95)
    assert Image.open(BytesIO(data)).n_frames == 2
    # Some formats change the colours a little.
    assert difference(decode(data), decode(first)).mean() < 12
    assert difference(decode(data), decode(second)).mean() > 60


def test_an_exact_region_is_what_serving_resizes(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(photograph(600, 400)))
    box = (10.5, 20.25, 500.125, 399)
    for chosen in (None, box):
        region = decode_region(
            path, choose_box=lambda size, box=chosen: box, image_hw=(64, 96), exact=True
        )
        expected = load_image(str(path)).resize((96, 64), Resampling.BILINEAR, box=chosen)
        np.testing.assert_array_equal(region, planes_of(expected))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_region_of_another_format_is_exact(mode):
    data = saved(photograph(300, 200, mode=mode), "PNG")
    for box in (None, (10.5, 20.25, 200.125, 180)):
        fast, exact = (
            decode_region(
                data, choose_box=lambda size, box=box: box, image_hw=(150, 150), exact=exact
            )
            for exact in (False, True)
        )
        np.testing.assert_array_equal(fast, exact)


@pytest.mark.parametrize("image_hw", [(150, 150), (101, 170), (500, 301)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_where_nothing_can_be_saved_a_region_is_that_of_whole_pixels(mode, image_hw):
    data = saved(photograph(300, 200, mode=mode))
    for box, rounded in (
        (None, (0, 0, 300, 200)),
        ((10.4, 20.6, 200.5, 180.49), (10, 21, 200, 180)),
        ((7, 9, 8, 200), (7, 9, 8, 200)),
    ):
        region = decode_region(data, choose_box=lambda size, box=box: box, image_hw=image_hw)
        expected = decode_image(data).crop(rounded).resize(image_hw[::-1], Resampling.BILINEAR)
        assert region.shape == (3, *image_hw)
        assert difference(region, planes_of(expected)).max() <= 1


@pytest.mark.parametrize(
    "box, size, rounded",
    [
        ((0, 0, 30, 20), (30, 20), (0, 0, 30, 20)),
        ((0.4, 0.6, 29.6, 19.4), (30, 20), (0, 1, 30, 19)),
        ((29.6, 0.1, 29.9, 0.2), (30, 20), (29, 0, 30, 1)),  # at least one pixel, inside
        ((0, 0, 1, 1), (1, 1), (0, 0, 1, 1)),
    ],
)
def test_a_rounded_box_has_a_pixel(box, size, rounded):
    assert whole_pixels(box, size) == rounded


def test_pixels_become_a_picture_and_pixels_again():
    for mode in ("RGB", "L"):
        picture = photograph(31, 17, mode=mode)
        assert picture_of(planes_of(picture)).mode == mode
        np.testing.assert_array_equal(picture_of(planes_of(picture)), picture)


@pytest.mark.parametrize(
    ("box", "target", "size"),
    [
        ((0, 0, 1600, 1200), (200, 150), (200, 150)),  # 1/8 fits exactly
        ((0, 0, 1600, 1200), (201, 150), (400, 300)),
        ((0, 0, 1600, 1200), (224, 224), (400, 300)),
        ((0, 0, 1600, 1200), (224, 301), (800, 600)),
        ((100, 100, 1300, 547.5), (224, 224), (1600, 1200)),
        ((100, 100, 1300, 548), (224, 224), (800, 600)),
        ((0, 0, 1600, 1200), (1600, 1200), (1600, 1200)),
        ((0, 0, 1600, 1200), (2000, 100), (1600, 1200)),
        ((0, 0, 1600, 1200), (1, 1), (200, 150)),  # the decoder goes no further
    ],
)
def test_a_jpeg_is_reduced_as_far_as_the_box_allows(box, target, size):
    image = Image.open(BytesIO(saved(Image.new("RGB", (1600, 1200)))))
    reduced = reduce_jpeg(image, box, target=target)
    image.load()
    assert image.size == size
    assert reduced == tuple(edge * size[0] / 1600 for edge in box)


@pytest.mark.parametrize("size", [(1600, 1200), (1597, 1203)])  # the second ends within blocks
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_reduced_region_is_nearly_exact(size, mode):
    data = saved(photograph(*size, mode=mode), quality=95)
    for box in (None, (101.5, 203.25, 1300.125, 1200), (0, 0, 500, 500)):
        fast, exact = (
            decode_region(
                data, choose_box=lambda size, box=box: box, image_hw=(112, 112), exact=exact
            )
            for exact in (False, True)
        )
        assert fast.shape == exact.shape == (3, 112, 112)
        assert 0 < difference(fast, exact).mean() < 1 and difference(fast, exact).max() < 12


@pytest.mark.parametrize("progressive", [False, True])
def test_a_reduced_jpeg_is_undecodable_where_the_whole_one_is(progressive):
    data = saved(photograph(600, 400), progressive=progressive)
    verdicts = []
    for cut in (1, 2, 3, 50, len(data) // 2):
        found = []
        for decode in DECODERS.values():
            try:
                decode(data[:-cut])
                found.append(True)
            except UndecodableImage:
                found.append(False)
        assert len(set(found)) == 1, cut
        verdicts += found
    assert False in verdicts
