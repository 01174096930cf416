# SPDX-License-Identifier: Apache-2.0
import warnings
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from vit_hf.data.decoding import UndecodableImage, decode_image

COLORS = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
SHALLOW = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
SHALLOW += ["I", "F"]  # with values of 8 bits
DEEP = ["I;16", "I;16L", "I;16B", "I;16N"]
RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def picture(mode):
    if mode in ("La", "RGBa"):  # with an alpha that is not full
        alpha = Image.fromarray(COLORS[:, :, 0])
        image = Image.fromarray(COLORS).convert({"La": "LA", "RGBa": "RGBA"}[mode])
        image.putalpha(alpha)
        return image.convert(mode)
    return Image.fromarray(COLORS).convert(mode)


def deep_image(values, mode):
    kind = ">u2" if mode == "I;16B" else "<u2"
    return Image.frombytes(mode, values.shape[::-1], values.astype(kind).tobytes())


def saved(image, format, **options):
    memory = BytesIO()
    image.save(memory, format=format, **options)
    return memory.getvalue()


@pytest.mark.parametrize("mode", SHALLOW)
def test_what_serving_sees_is_what_we_see(mode):
    image = picture(mode)
    decoded = decode_image(image)
    assert image.mode == mode and decoded.mode == "RGB"
    np.testing.assert_array_equal(decoded, load_image(image))
    assert len(np.unique(decoded)) > 1


@pytest.mark.parametrize(
    ("mode", "format"),
    [("1", "PNG"), ("L", "JPEG"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGBA", "PNG"),
     ("RGBA", "WEBP"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("LAB", "TIFF")],
)  # fmt: skip
def test_what_serving_sees_in_a_file_is_what_we_see(mode, format, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(saved(picture(mode), format))
    assert Image.open(path).mode in (mode, "RGB")
    np.testing.assert_array_equal(decode_image(path), load_image(str(path)))


@pytest.mark.parametrize("transparency", [0, bytes(range(256))])
def test_transparent_palettes_keep_their_colors_and_are_quiet(transparency):
    data = saved(picture("P"), "PNG", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode_image(data)
    np.testing.assert_array_equal(decoded, picture("P").convert("RGB"))


def test_premultiplied_grey():
    expected = np.asarray(picture("La").convert("LA"))[:, :, 0]
    with pytest.raises(ValueError, match="not supported"):
        load_image(picture("La"))  # which is why there is a rule of our own
    np.testing.assert_array_equal(np.asarray(decode_image(picture("La")))[:, :, 1], expected)


@pytest.mark.parametrize("mode", DEEP)
def test_16_bits_are_scaled(mode):
    decoded = np.asarray(decode_image(deep_image(RAMP, mode)))
    expected = np.rint(RAMP / 257)
    assert expected.max() == 255
    for channel in range(3):
        np.testing.assert_array_equal(decoded[:, :, channel], expected)


@pytest.mark.parametrize("mode", DEEP)
def test_16_bits_stay_16_bits_in_the_dark(mode):
    dark = deep_image(RAMP[:1, :], mode)  # 0 ... 255 of 65535
    assert np.asarray(decode_image(dark)).max() == 1


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_files_of_16_bits(format):
    decoded = np.asarray(decode_image(saved(Image.fromarray(RAMP), format)))
    np.testing.assert_array_equal(decoded[:, :, 0], np.rint(RAMP / 257))


def test_integers_go_by_their_range():
    eight, sixteen = RAMP[:1].astype(np.int32), RAMP.astype(np.int32)
    for array in (eight, eight.astype(np.int64), Image.fromarray(eight)):
        np.testing.assert_array_equal(np.asarray(decode_image(array))[0, :, 0], np.arange(256))
    for array in (sixteen, sixteen.astype(np.uint32), Image.fromarray(sixteen)):
        np.testing.assert_array_equal(
            np.asarray(decode_image(array))[:, :, 0], np.asarray(decode_image(RAMP))[:, :, 0]
        )


def test_floats_are_scaled_once():
    levels = np.arange(256, dtype=np.float32).reshape(16, 16)
    for scaled in (levels, levels / 255):
        for array in (scaled, scaled.astype(np.float64), Image.fromarray(scaled)):
            np.testing.assert_array_equal(np.asarray(decode_image(array))[:, :, 2], levels)
    three = np.stack([levels / 255] * 3, axis=-1).astype(np.float16)
    assert np.abs(np.asarray(decode_image(three)) - levels[:, :, None]).max() <= 1
    between = np.array([[0, 0.001, 0.003, 0.9985, 1]])  # times 255: 0.255, 0.765, 254.6
    np.testing.assert_array_equal(np.asarray(decode_image(between))[0, :, 0], [0, 0, 1, 255, 255])
    fractions = Image.fromarray(levels * 0.99)
    np.testing.assert_array_equal(decode_image(fractions), load_image(fractions))
    np.testing.assert_array_equal(
        decode_image(saved(Image.fromarray(levels / 255), "TIFF")), decode_image(levels)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[-1.0, 1.0]]), r"\[-1.0, 1.0\], allowed: \[0, 1\] or \[0, 255\]"),
        (np.array([[0.0, 256.0]]), r"\[0.0, 256.0\], allowed"),
        (np.array([[0.0, np.nan]]), r"nan.*allowed"),
        (np.array([[0.0, np.inf]]), r"inf\], allowed"),
        (np.array([[-1, 9]]), r"\[-1, 9\], allowed: \[0, 255\] or \[0, 65535\]"),
        (np.array([[0, 65536]]), r"\[0, 65536\], allowed"),
        (np.array([[1j]]), "complex128, allowed: bool"),
        (np.array([["a"]]), "allowed: bool"),
    ],
)
def test_values_outside_the_policy_are_refused(values, message):
    with pytest.raises(UndecodableImage, match=message):
        decode_image(values)
    if values.dtype.kind in "fi" and abs(values[0]).max() < 1e9:
        image = Image.fromarray(values.astype({"f": "f4", "i": "i4"}[values.dtype.kind]))
        with pytest.raises(UndecodableImage, match=f"mode {image.mode} and size"):
            decode_image(image)


def test_arrays_of_every_shape():
    grey, alpha = COLORS[:, :, :1], COLORS[:, :, 1:2]
    np.testing.assert_array_equal(decode_image(COLORS), COLORS)
    np.testing.assert_array_equal(decode_image(np.concatenate([COLORS, alpha], 2)), COLORS)
    for array in (grey, grey[:, :, 0]):
        np.testing.assert_array_equal(decode_image(array), grey.repeat(3, 2))
    np.testing.assert_array_equal(decode_image(grey[:, :, 0] > 99), (grey > 99).repeat(3, 2) * 255)
    np.testing.assert_array_equal(decode_image(COLORS[:, ::-1]), COLORS[:, ::-1])
    for shape in ((9,), (9, 13, 2), (3, 9, 13), (1, 9, 13, 3), (0, 13), ()):
        with pytest.raises(UndecodableImage, match=r"allowed: .height, width"):
            decode_image(np.zeros(shape, dtype=np.uint8))
