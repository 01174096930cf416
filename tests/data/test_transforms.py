# SPDX-License-Identifier: Apache-2.0
from functools import partial
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil
from transformers.image_utils import load_image

from vit_hf import VisionTransformerConfig
from vit_hf.converters.image_processors import authors_processor
from vit_hf.data.decoding import UndecodableImage
from vit_hf.data.randaugment import RandAugment
from vit_hf.data.transforms import ImageTransform, draw_crop, normalize


def noise(height, width, seed=0):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image, format="PNG", **options):
    memory = BytesIO()
    image.save(memory, format=format, **options)
    return memory.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "LA", "1"])
def test_training_sees_what_the_image_processor_makes(mode):
    image = noise(37, 53).convert(mode)
    processor = ViTImageProcessorPil(size={"height": 24, "width": 40}, do_convert_rgb=True)
    served = processor(image, return_tensors="pt").pixel_values[0]
    trained = normalize(torch.from_numpy(ImageTransform((24, 40))(image)))
    torch.testing.assert_close(trained, served, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(300, 200), (53, 37), (40, 24)])
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_evaluation_is_bit_for_bit_what_the_saved_processor_resizes(orientation, size, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image.jpg"
    path.write_bytes(saved(noise(*size[::-1]), "JPEG", exif=exif))
    processor = authors_processor(VisionTransformerConfig(image_size=(24, 40)))
    resized = processor(load_image(str(path)), do_rescale=False, do_normalize=False)
    expected = np.asarray(resized["pixel_values"][0])
    pixels = ImageTransform((24, 40), exact_decoding=True)(path)
    assert pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(pixels, expected)
    served = processor(load_image(str(path)), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(normalize(torch.from_numpy(pixels)), served, atol=1e-6, rtol=0)


def test_exact_decoding_has_an_effect():
    data = saved(noise(400, 400).resize((800, 600)), "JPEG")
    fast, exact = (ImageTransform((50, 50), exact_decoding=exact)(data) for exact in (False, True))
    assert 0 < np.abs(fast.astype(int) - exact).mean() < 3


def test_normalize_is_the_authors():
    pixels = torch.arange(256, dtype=torch.uint8)
    torch.testing.assert_close(normalize(pixels), (pixels.double() - 127.5).div(127.5).float())


def test_an_image_is_turned_upright():
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    pixels = ImageTransform((4, 2))(saved(image, exif=exif))
    assert pixels[0, 0, 1] > 200 and pixels[0, 0, 0] < 50  # the red pixel is at the top right


def test_a_sample_is_a_function_of_its_seed():
    source = saved(noise(60, 80))
    transform = ImageTransform((32, 32), crop_area=0.3, randaugment=RandAugment())
    torch.manual_seed(0)
    np.random.seed(0)
    first = [transform(source, seed=seed) for seed in (*range(8), 2**63 - 1)]
    torch.manual_seed(1)
    np.random.seed(1)
    again = [transform(source, seed=seed) for seed in (2**63 - 1, *reversed(range(8)))][::-1]
    np.testing.assert_array_equal(first, again)
    assert len({pixels.tobytes() for pixels in first}) == 9
    assert all(pixels.shape == (3, 32, 32) for pixels in first)


def test_exact_and_fast_decoding_draw_the_same_crop():
    data = saved(noise(12, 12).resize((800, 600)), "JPEG")
    for seed in range(5):
        fast, exact = (
            ImageTransform((50, 50), crop_area=0.3, exact_decoding=exact)(data, seed=seed)
            for exact in (False, True)
        )
        assert np.abs(fast.astype(int) - exact).mean() < 1


def test_a_crop_shows_what_it_claims():
    row, column = np.mgrid[0:120, 0:160].astype(np.uint8)
    gradient = Image.fromarray(np.stack([row, column, row], -1))  # a pixel tells its place
    for seed in range(50):
        generator = np.random.default_rng([seed, *b"transform"])
        box = draw_crop((160, 120), least_area=0.2, generator=generator)
        left, top, right, bottom = box
        pixels = ImageTransform((40, 40), crop_area=0.2)(gradient, seed=seed).astype(float)
        height, width = (bottom - top) / 40, (right - left) / 40  # of the source, a pixel
        assert abs(pixels[0].mean() - ((top + bottom) / 2 - 0.5)) < 1.5
        assert abs(pixels[1].mean() - ((left + right) / 2 - 0.5)) < 1.5
        assert abs(pixels[0, -1].mean() - pixels[0, 0].mean() - 39 * height) < 4
        assert abs(pixels[1, :, -1].mean() - pixels[1, :, 0].mean() - 39 * width) < 4


def drawn(size, count=3000, **options):
    generator = np.random.default_rng(0)
    return [draw_crop(size, generator=generator, **options) for _ in range(count)]


def test_crops_are_inceptions():
    boxes = np.array(drawn((1000, 1000), least_area=0.05))
    left, top, right, bottom = boxes.T
    assert boxes.min() >= 0 and boxes.max() <= 1000
    area, ratio = (right - left) * (bottom - top) / 1e6, (right - left) / (bottom - top)
    assert 0.05 <= area.min() < 0.06 and 3 / 4 <= ratio.min() < 0.76 and 1.32 < ratio.max() <= 4 / 3
    # Uniform where every shape fits into the square, so up to 3/4 of its area.
    shares = np.histogram(area, bins=np.linspace(0.05, 0.75, 8))[0]
    assert shares.min() > 0.8 * shares.mean() and shares.max() < 1.2 * shares.mean()
    small = area < 0.3
    for start, length in ((left, right - left), (top, bottom - top)):
        place = (start / (1000 - length))[small]  # uniform in [0, 1]
        assert abs(place.mean() - 0.5) < 0.05 and abs(place.std() - 12**-0.5) < 0.03
    assert abs(ratio[small].mean() - (3 / 4 + 4 / 3) / 2) < 0.02


def test_where_no_crop_fits_the_whole_image_is_taken():
    assert set(drawn((1000, 10), count=20, least_area=0.5)) == {None}
    assert set(drawn((100, 100), count=20, least_area=1)) == {None}
    strip = noise(10, 1000)
    np.testing.assert_array_equal(
        ImageTransform((8, 8), crop_area=0.5)(strip, seed=0), ImageTransform((8, 8))(strip)
    )


def test_tiny_images():
    for size in ((1, 1), (1, 9), (2, 3)):
        transform = ImageTransform((8, 5), crop_area=0.05, randaugment=RandAugment(3))
        for seed in range(30):
            assert transform(noise(*size), seed=seed).shape == (3, 8, 5)


def test_randaugment_changes_pictures_after_the_crop():
    source = noise(60, 80)
    plain = ImageTransform((32, 32), crop_area=0.3)
    changed = ImageTransform((32, 32), crop_area=0.3, randaugment=RandAugment(2, magnitude=9))
    differing = [not (plain(source, seed=s) == changed(source, seed=s)).all() for s in range(20)]
    assert sum(differing) > 15
    squashed = ImageTransform((32, 32), randaugment=RandAugment(2, magnitude=9))
    assert not (squashed(source, seed=1) == ImageTransform((32, 32))(source)).all()


def test_chance_needs_a_seed():
    for options in ({"crop_area": 0.5}, {"randaugment": RandAugment()}):
        transform = ImageTransform((8, 8), **options)
        with pytest.raises(ValueError, match="got no seed"):
            transform(noise(8, 8))
        assert transform(noise(8, 8), seed=0).shape == (3, 8, 8)
    np.testing.assert_array_equal(
        ImageTransform((8, 8))(noise(9, 9), seed=7), ImageTransform((8, 8))(noise(9, 9))
    )


def test_bad_settings_are_refused():
    for crop_area in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="got crop_area"):
            ImageTransform((8, 8), crop_area=crop_area)
    for image_hw in ((8,), (0, 8), (8, 8, 3)):
        with pytest.raises(ValueError, match="got image_hw"):
            ImageTransform(image_hw)


def test_undecodable_images_are_said():
    transforms = (ImageTransform((8, 8), exact_decoding=True), ImageTransform((8, 8)))
    for transform in (*transforms, partial(ImageTransform((8, 8), crop_area=0.5), seed=1)):
        with pytest.raises(UndecodableImage, match=r"got cat.jpg"):
            transform({"bytes": b"no image", "path": "cat.jpg"})
