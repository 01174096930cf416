# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from vit_hf.data import ImageTransform, collate_images, normalize


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "LA", "1"])
def test_training_sees_what_the_image_processor_makes(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    processor = ViTImageProcessorPil(size={"height": 24, "width": 40}, do_convert_rgb=True)
    served = processor(image, return_tensors="pt").pixel_values[0]
    trained = normalize(torch.from_numpy(ImageTransform((24, 40)).pixels(image)))
    torch.testing.assert_close(trained, served, atol=1e-6, rtol=0)


def test_normalize_is_the_authors():
    pixels = torch.arange(256, dtype=torch.uint8)
    torch.testing.assert_close(normalize(pixels), (pixels.double() - 127.5).div(127.5).float())


def test_an_image_is_turned_upright():
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    turned = Image.open(save_to_memory(image, exif))
    pixels = ImageTransform((4, 2)).pixels(turned)
    assert pixels[0, 0, 1] > 200 and pixels[0, 0, 0] < 50  # the red pixel is at the top right


def save_to_memory(image, exif):
    from io import BytesIO

    memory = BytesIO()
    image.save(memory, format="PNG", exif=exif)
    memory.seek(0)
    return memory


def test_crops_and_flips_are_random_and_seeded():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    crop, flip = ImageTransform((32, 32), crop_area=0.3), ImageTransform((32, 32), flip=True)
    torch.manual_seed(0)
    first = [crop.pixels(image) for _ in range(4)]
    assert len({pixels.tobytes() for pixels in first}) == 4
    torch.manual_seed(0)
    assert all(
        (a == b).all() for a, b in zip(first, [crop.pixels(image) for _ in range(4)], strict=True)
    )
    flipped = {flip.pixels(image).tobytes() for _ in range(20)}
    plain = np.asarray(image).transpose(2, 0, 1)
    assert flipped == {plain.tobytes(), np.ascontiguousarray(plain[:, :, ::-1]).tobytes()}


def test_a_batch_travels_as_uint8():
    rows = ImageTransform((8, 8))({"image": [Image.new("L", (5, 5), 200)] * 3, "label": [2, 0, 1]})
    batch = collate_images([{name: rows[name][index] for name in rows} for index in range(3)])
    assert batch["pixel_values"].dtype == torch.uint8 and batch["pixel_values"].shape == (
        3,
        3,
        8,
        8,
    )
    assert batch["labels"].tolist() == [2, 0, 1]
