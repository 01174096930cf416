# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vit_hf.data.randaugment import GREY, OPERATIONS, RandAugment

WIDTH, HEIGHT = 40, 30
BILINEAR = Image.Resampling.BILINEAR
# Operations whose strength does not depend on the magnitude.
FIXED = ("auto_contrast", "equalize", "invert")
MOVING = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
SIGNED = (*MOVING, "color", "contrast", "brightness", "sharpness")


def photograph():
    noise = np.random.default_rng(0).integers(20, 200, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def gradient():
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH]
    return Image.fromarray(np.stack([row * 8, column * 6, row * 4 + column * 3], -1).astype("u1"))


def apply(name, magnitude, sign=1.0):
    return np.asarray(OPERATIONS[name](photograph(), magnitude / 10, sign)).astype(int)


def test_the_operations_are_timms():
    assert set(OPERATIONS) == {*FIXED, *SIGNED, "posterize", "solarize", "solarize_add"}
    assert len(OPERATIONS) == 15


@pytest.mark.parametrize(
    ("name", "sign", "expected"),
    [
        ("auto_contrast", 1.0, ImageOps.autocontrast),
        ("equalize", 1.0, ImageOps.equalize),
        ("invert", 1.0, ImageOps.invert),
        ("posterize", 1.0, lambda image: ImageOps.posterize(image, 1)),  # 4 - int(3.6)
        ("solarize", 1.0, lambda image: ImageOps.solarize(image, 26)),  # 256 - int(230.4)
        ("solarize_add", 1.0, lambda image: image.point(lambda v: v + 99 if v < 128 else v)),
        ("color", 1.0, lambda image: ImageEnhance.Color(image).enhance(1.81)),
        ("color", -1.0, lambda image: ImageEnhance.Color(image).enhance(0.19)),
        ("contrast", 1.0, lambda image: ImageEnhance.Contrast(image).enhance(1.81)),
        ("brightness", -1.0, lambda image: ImageEnhance.Brightness(image).enhance(0.19)),
        ("sharpness", 1.0, lambda image: ImageEnhance.Sharpness(image).enhance(1.81)),
        ("rotate", -1.0, lambda image: image.rotate(-27, BILINEAR, fillcolor=GREY)),
    ],
)  # fmt: skip
def test_magnitude_9_is_what_timm_makes_of_it(name, sign, expected):
    np.testing.assert_array_equal(apply(name, 9, sign), np.asarray(expected(photograph())))


def test_translations_are_shares_of_the_size():
    original = np.asarray(photograph()).astype(int)
    right = apply("translate_x", 5, -1.0)  # 0.225 of 40 pixels is 9
    np.testing.assert_allclose(right[:, 9:], original[:, :-9], atol=1)
    assert (right[:, :9] == GREY).all()
    up = apply("translate_y", 20 / 3)  # 0.3 of 30 pixels is 9
    np.testing.assert_allclose(up[:-9], original[9:], atol=1)
    assert (up[-9:] == GREY).all()


def test_shears_move_rows_and_columns():
    marks = np.zeros((21, 41, 3), dtype=np.uint8)
    marks[:, 20] = 255
    sheared = np.asarray(OPERATIONS["shear_x"](Image.fromarray(marks), 1.0, 1.0))[:, :, 0]
    # 0.3 pixels a pixel: the line lies 6 pixels further left 20 rows below.
    np.testing.assert_allclose(np.ma.average(
        np.arange(41)[None].repeat(21, 0), axis=1, weights=np.where(sheared == GREY[0], 0, sheared)
    ), 20 - 0.3 * (np.arange(21) + 0.5), atol=0.01)  # fmt: skip
    marks = marks.transpose(1, 0, 2).copy()
    turned = np.asarray(OPERATIONS["shear_y"](Image.fromarray(marks), 1.0, 1.0))[:, :, 0]
    np.testing.assert_array_equal(turned, sheared.T)


@pytest.mark.parametrize("name", OPERATIONS)
def test_more_magnitude_changes_more(name):
    # The farther a gradient is moved the more it changes; a photograph is uneven.
    picture = gradient() if name in MOVING else photograph()
    for sign in (1.0, -1.0):
        changed = [OPERATIONS[name](picture, magnitude / 10, sign) for magnitude in (1, 5, 9)]
        changes = [np.abs(np.subtract(other, picture, dtype=int)).mean() for other in changed]
        if name in FIXED:
            assert changes[0] == changes[1] == changes[2] > 5
        else:
            assert changes[0] < changes[1] < changes[2], changes


@pytest.mark.parametrize("name", SIGNED)
def test_chance_decides_the_direction(name):
    assert (apply(name, 9, 1.0) != apply(name, 9, -1.0)).any()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude", [0, 10, 15, 20, 30])
def test_every_magnitude_gives_a_picture(name, magnitude):
    for sign in (1.0, -1.0):
        picture = OPERATIONS[name](photograph(), magnitude / 10, sign)
        assert picture.mode == "RGB" and picture.size == (WIDTH, HEIGHT)
    unchanged = set(OPERATIONS) - {*FIXED, "posterize"}
    if magnitude == 0 and name in unchanged:
        np.testing.assert_array_equal(picture, photograph())


@pytest.fixture
def calls(monkeypatch):
    """The operations applied and their strengths; the pictures stay as they are."""
    made = []

    def recorder(name):
        return lambda picture, strength, sign: made.append((name, strength, sign)) or picture

    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, recorder(name))
    return made


def run(randaugment, times):
    generator = np.random.default_rng(0)
    for _ in range(times):
        randaugment(photograph(), generator)


def test_operations_are_drawn_alike(calls):
    run(RandAugment(num_operations=3, magnitude=9), 1000)
    names, strengths, signs = zip(*calls, strict=True)
    assert len(calls) == 3000
    counts = np.unique(names, return_counts=True)[1]
    assert len(counts) == 15 and counts.min() > 150 and counts.max() < 250
    magnitudes = np.array(strengths) * 10
    assert abs(magnitudes.mean() - 9) < 0.05 and abs(magnitudes.std() - 0.5) < 0.05
    assert magnitudes.max() == 10  # where the deviation is cut
    assert abs(np.mean(signs)) < 0.06 and set(signs) == {1.0, -1.0}


def test_without_deviation_the_magnitude_is_exact(calls):
    run(RandAugment(magnitude=15, magnitude_deviation=0), 20)
    assert {strength for _, strength, _ in calls} == {1.5} and len(calls) == 40


def test_large_magnitudes_deviate_downwards_only_so_far(calls):
    run(RandAugment(magnitude=20, magnitude_deviation=1), 500)
    strengths = [strength for _, strength, _ in calls]
    assert max(strengths) == 2.0 and 1.5 < min(strengths) < 2.0
    calls.clear()
    run(RandAugment(magnitude=0, magnitude_deviation=1), 500)
    assert min(strength for _, strength, _ in calls) == 0


def test_operations_may_be_left_out(calls):
    run(RandAugment(num_operations=2, operation_probability=0.5), 1000)
    assert abs(len(calls) - 1000) < 80


def test_a_picture_is_a_function_of_the_generator():
    randaugment = RandAugment()
    first, again = (
        [np.asarray(randaugment(photograph(), np.random.default_rng(s))) for s in range(8)]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    assert len({picture.tobytes() for picture in first}) == 8


def test_bad_settings_are_refused():
    for name, value in (
        ("num_operations", 0),
        ("magnitude", -1),
        ("magnitude", 31),
        ("magnitude_deviation", math.nan),
        ("operation_probability", 0),
        ("operation_probability", 1.5),
    ):
        with pytest.raises(ValueError, match=rf"got {name}={value}, allowed"):
            RandAugment(**{name: value})
