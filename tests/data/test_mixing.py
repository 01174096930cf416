# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch

from vit_hf.data.mixing import BatchAugmentation, augment
from vit_hf.data.transforms import normalize

EVERYTHING = BatchAugmentation(
    flip=True, mixup_alpha=0.8, cutmix_alpha=1.0, erasing_probability=0.25, label_smoothing=0.1
)
HW = (15, 22)  # odd and not square


def batch(size, seed=0, hw=HW):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size, 3, *hw), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(0, 5, (size,), generator=generator)


def test_nothing_on_only_normalises():
    pixels, labels = batch(3)
    decisions = BatchAugmentation().draw([1, 2, 3], HW)
    assert decisions == {}
    got, kept = augment(pixels, labels, decisions, num_labels=5)
    assert torch.equal(got, normalize(pixels)) and kept is labels


@pytest.mark.parametrize("size", [1, 2, 7])
def test_everything_on_works_for_any_size(size):
    pixels, labels = batch(size)
    before = pixels.clone()
    for start in range(20):
        decisions = EVERYTHING.draw(range(start, start + size), HW)
        assert {len(decision) for decision in decisions.values()} == {size}
        got, shares = augment(pixels, labels, decisions, num_labels=5)
        assert got.shape == pixels.shape and got.dtype == torch.float32 and got.isfinite().all()
        assert shares.shape == (size, 5)
        torch.testing.assert_close(shares.sum(1), torch.ones(size))
    assert torch.equal(pixels, before)


def test_decisions_are_a_function_of_the_seeds():
    first, again = EVERYTHING.draw([3, 4, 5], HW), EVERYTHING.draw([3, 4, 5], HW)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(
        not torch.equal(first[name], other)
        for name, other in EVERYTHING.draw([2**62, 9, 2**63 - 1], HW).items()
    )


def test_an_image_keeps_its_flip_and_erasing_in_any_batch():
    augmentation = BatchAugmentation(flip=True, erasing_probability=0.5)
    pixels, labels = batch(8)
    seeds = list(range(8))
    whole, _ = augment(pixels, labels, augmentation.draw(seeds, HW), num_labels=5)
    turned = augmentation.draw(seeds[::-1], HW)
    other, _ = augment(pixels.flip(0), labels.flip(0), turned, num_labels=5)
    assert torch.equal(whole, other.flip(0))
    parts = [
        augment(pixels[k : k + 1], labels[k : k + 1], augmentation.draw([k], HW), num_labels=5)[0]
        for k in range(8)
    ]
    assert torch.equal(whole, torch.cat(parts))


def test_half_of_the_images_are_mirrored():
    decisions = BatchAugmentation(flip=True).draw(range(1000), HW)
    assert 450 < decisions["flip"].sum() < 550
    pixels, labels = batch(1000, hw=(2, 3))
    got, kept = augment(pixels, labels, decisions, num_labels=5)
    for is_flipped, mine, image in zip(decisions["flip"], got, normalize(pixels), strict=True):
        assert torch.equal(mine, image.flip(-1) if is_flipped else image)
    assert torch.equal(kept, labels)


def test_mixup_is_the_papers():
    pixels, labels = batch(3)
    decisions = BatchAugmentation(mixup_alpha=0.8).draw([11, 12, 13], HW)
    share = decisions["pixel_share"][0].item()
    assert 0.02 < share < 0.98 and len(decisions["pixel_share"].unique()) == 1
    got, shares = augment(pixels, labels, decisions, num_labels=5)
    clean, one_hot = normalize(pixels), torch.eye(5)[labels]
    for own, other in ((0, 2), (1, 0), (2, 1)):  # each with the one before it
        expected = share * clean[own] + (1 - share) * clean[other]
        torch.testing.assert_close(got[own], expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(shares[own], share * one_hot[own] + (1 - share) * one_hot[other])


def test_the_share_of_mixup_is_beta():
    augmentation = BatchAugmentation(mixup_alpha=0.2)
    drawn = np.array([augmentation.draw([s], HW)["pixel_share"].item() for s in range(2000)])
    assert abs(drawn.mean() - 0.5) < 0.03
    assert abs(drawn.var() - 1 / (4 * (2 * 0.2 + 1))) < 0.01  # of a Beta distribution


def test_cutmix_pastes_a_box_and_counts_its_true_area():
    labels = torch.arange(3)
    pixels = labels.to(torch.uint8).view(3, 1, 1, 1).expand(3, 3, *HW)
    clipped = 0
    for seed in range(200):
        decisions = BatchAugmentation(cutmix_alpha=1.0).draw([seed, 0, 1], HW)
        got, shares = augment(pixels, labels, decisions, num_labels=3)
        clean = normalize(pixels)
        is_other = got == clean.roll(1, 0)
        assert torch.equal(got == clean, ~is_other)
        area = is_other[:, 0].float().mean((1, 2))
        top, left, bottom, right = decisions["mixing_box"][0].tolist()
        assert is_other[:, :, top:bottom, left:right].all()
        own, other = torch.eye(3), torch.eye(3).roll(1, 0)
        area = area[:, None]
        torch.testing.assert_close(shares, (1 - area) * own + area * other)
        clipped += top == 0 or left == 0 or bottom == HW[0] or right == HW[1]
    assert clipped > 20


def test_the_area_of_cutmix_is_the_one_drawn():
    augmentation = BatchAugmentation(cutmix_alpha=1.0)
    shares = [augmentation.draw([s], (200, 300))["label_share"].item() for s in range(2000)]
    # Uniform, were it not for boxes over the edge: in the mean a box has 1/2 of the area, and a
    # side s of it keeps s - s^2 / 4, so the mean area is E[(s - s^2 / 4)^2] with s^2 uniform.
    assert abs(1 - np.mean(shares) - (1 / 2 - 1 / 5 + 1 / 48)) < 0.015


def test_which_mixing_is_chosen():
    both = BatchAugmentation(mixup_alpha=1, cutmix_alpha=1, mixing_probability=0.6)
    is_box, is_mixed = [], []
    for seed in range(1000):
        decisions = both.draw([seed], (224, 224))
        is_box.append(bool(decisions["mixing_box"].any()))
        is_mixed.append(decisions["label_share"].item() < 1)
    assert abs(np.mean(is_mixed) - 0.6) < 0.05 and abs(np.mean(is_box) - 0.3) < 0.05
    mostly = BatchAugmentation(mixup_alpha=1, cutmix_alpha=1, cutmix_switch_probability=0.9)
    boxes = [mostly.draw([seed], (224, 224))["mixing_box"].any() for seed in range(500)]
    assert abs(np.mean(boxes) - 0.9) < 0.05


def test_label_smoothing_alone():
    pixels, labels = batch(4)
    decisions = BatchAugmentation(label_smoothing=0.1).draw(range(4), HW)
    got, shares = augment(pixels, labels, decisions, num_labels=5)
    assert torch.equal(got, normalize(pixels))
    torch.testing.assert_close(shares, torch.eye(5)[labels] * 0.9 + 0.02)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(torch.eye(4, 5), labels)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(torch.eye(4, 5), shares), loss)


def test_flip_comes_before_erasing_and_erasing_before_mixing():
    pixels, labels = batch(4)
    steps = BatchAugmentation(flip=True, mixup_alpha=1, erasing_probability=1).draw(range(5, 9), HW)
    assert steps["flip"].any() and 0.1 < steps["pixel_share"][0] < 0.9
    flipped = torch.where(steps["flip"][:, None, None, None], pixels.flip(-1), pixels)
    erasing = {name: steps[name] for name in ("erasing_box", "erasing_key")}
    erased, _ = augment(flipped, labels, erasing, num_labels=5)
    share = steps["pixel_share"][0]
    expected = share * erased + (1 - share) * erased.roll(1, 0)
    got, _ = augment(pixels, labels, steps, num_labels=5)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_batch_of_one_stays_itself():
    pixels, labels = batch(1)
    for seed in range(10):
        decisions = BatchAugmentation(mixup_alpha=1, cutmix_alpha=1).draw([seed], HW)
        got, shares = augment(pixels, labels, decisions, num_labels=5)
        torch.testing.assert_close(got, normalize(pixels), atol=1e-6, rtol=0)
        torch.testing.assert_close(shares, torch.eye(5)[labels])


def test_images_of_one_pixel():
    decisions = EVERYTHING.draw([1, 2], (1, 1))
    pixels, labels = batch(2, hw=(1, 1))
    got, _ = augment(pixels, labels, decisions, num_labels=5)
    assert got.shape == (2, 3, 1, 1) and got.isfinite().all()


def test_the_device_is_never_waited_for():
    # A tensor on the meta device has no values: whatever asks for one raises.
    pixels, labels = batch(4)
    decisions = {name: tensor.to("meta") for name, tensor in EVERYTHING.draw(range(4), HW).items()}
    assert len(decisions) == 7
    got, shares = augment(pixels.to("meta"), labels.to("meta"), decisions, num_labels=5)
    assert got.shape == pixels.shape and shares.shape == (4, 5)


def test_bad_settings_are_refused():
    for name, value in (
        ("mixup_alpha", -0.1),
        ("cutmix_alpha", math.nan),
        ("mixup_alpha", math.inf),
        ("mixing_probability", 1.1),
        ("cutmix_switch_probability", -1),
        ("erasing_probability", 25),
        ("label_smoothing", 1.0),
    ):
        with pytest.raises(ValueError, match=rf"got {name}={value}.*allowed"):
            BatchAugmentation(**{name: value})


def test_bad_batches_are_refused():
    pixels, labels = batch(2)
    with pytest.raises(ValueError, match=r"torch.float32, allowed: torch.uint8"):
        augment(pixels.float(), labels, {}, num_labels=5)
    decisions = BatchAugmentation(label_smoothing=0.1).draw([1, 2], HW)
    with pytest.raises(ValueError, match="got no labels"):
        augment(pixels, None, decisions, num_labels=5)
    with pytest.raises(ValueError, match=r"got labels of shape \(2, 5\)"):
        augment(pixels, torch.eye(5)[labels], decisions, num_labels=5)
    flips = BatchAugmentation(flip=True, erasing_probability=1).draw([1, 2], HW)
    assert augment(pixels, None, flips, num_labels=5)[1] is None
