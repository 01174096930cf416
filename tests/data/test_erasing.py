# SPDX-License-Identifier: Apache-2.0
import math

import torch

from vit_hf.data.boxes import inside
from vit_hf.data.mixing import BatchAugmentation, augment
from vit_hf.data.transforms import normalize


def test_a_mask_is_its_boxes():
    boxes = [(0, 0, 0, 0), (0, 0, 4, 6), (1, 2, 3, 3)]
    mask = inside(torch.tensor(boxes), (4, 6))
    assert mask.shape == (3, 1, 4, 6)
    for (top, left, bottom, right), drawn in zip(boxes, mask[:, 0], strict=True):
        expected = torch.zeros(4, 6, dtype=torch.bool)
        expected[top:bottom, left:right] = True
        assert torch.equal(drawn, expected)


def test_erasing_puts_normal_noise_into_boxes():
    augmentation = BatchAugmentation(erasing_probability=0.25)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (400, 3, 32, 48), dtype=torch.uint8, generator=generator)
    decisions = augmentation.draw(range(400), (32, 48))
    got, _ = augment(pixels, None, decisions, num_labels=5)
    clean = normalize(pixels)
    is_box = inside(decisions["erasing_box"], (32, 48)).expand_as(got)
    assert torch.equal(got[~is_box], clean[~is_box])
    assert 70 < is_box.any(-1).any(-1)[:, 0].sum() < 130
    shares = is_box[:, 0].float().mean((1, 2))
    shares = shares[shares > 0]
    assert shares.min() > 0.01 and shares.max() < 0.36 and 0.15 < shares.mean() < 0.2
    noise = got[is_box]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    for level, expected in ((1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)):
        assert abs((noise.abs() < level).float().mean() - expected) < 0.003
    assert len(noise.unique()) > 0.95 * len(noise)  # per pixel, channel and image


def test_noise_has_no_pattern():
    decisions = {
        "erasing_box": torch.tensor([[0, 0, 64, 64]] * 2),
        "erasing_key": torch.tensor([5, 6], dtype=torch.int32),
    }
    pixels = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    noise, _ = augment(pixels, None, decisions, num_labels=0)
    bound = 4 / math.sqrt(64 * 63)
    flat = noise.double()
    for shifted in (flat.roll(1, -1), flat.roll(1, -2), flat.roll(1, 1), flat.roll(8, -1)):
        assert (flat * shifted).mean((-1, -2)).abs().max() < bound
    assert (flat[0] * flat[1]).mean((-1, -2)).abs().max() < bound
