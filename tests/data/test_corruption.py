# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from vit_hf import VisionTransformerConfig
from vit_hf.data import BatchAugmentation, MaskedPatchCollator
from vit_hf.data.corruption import draw_corruption

PAPER = {"ratio": 0.5, "mix": (0.8, 0.1, 0.1)}


def test_the_shares_are_the_papers():
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(200)
    for _ in range(20):
        corrupted, replacement = draw_corruption(200, **PAPER, generator=generator)
        assert corrupted.sum() == 100
        assert (replacement == -1).sum() == 80
        swapped = (replacement >= 0) & (replacement != place)
        assert swapped.sum() == 10
        assert not ((replacement != place) & ~corrupted).any()  # nothing else is touched


def test_every_other_patch_may_stand_in():
    generator = torch.Generator().manual_seed(0)
    drawn = set()
    for _ in range(300):
        _, replacement = draw_corruption(4, ratio=1, mix=(0, 1, 0), generator=generator)
        drawn |= set(enumerate(replacement.tolist()))
    assert drawn == {(own, other) for own in range(4) for other in range(4) if own != other}


@pytest.mark.parametrize("num_patches", [1, 2, 3, 9])
def test_small_grids_have_a_corrupted_patch(num_patches):
    corrupted, _ = draw_corruption(num_patches, **PAPER)
    assert corrupted.sum() >= 1


def samples(count, *, seeds=None):
    """Samples of evaluation, or of training where they have seeds."""
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 16, 32), dtype=np.uint8)
    found = [{"pixel_values": image, "undecodable": []} for image in images]
    if seeds is None:
        return found
    return [{**sample, "seed": seed} for sample, seed in zip(found, seeds, strict=True)]


def test_fixed_corruption_belongs_to_the_image():
    config = VisionTransformerConfig(image_size=16, patch_size=4)
    collate = MaskedPatchCollator(config)
    images = samples(4)
    batch, turned = collate(images), collate(images[::-1])
    assert batch["bool_masked_pos"].shape == (4, 32)  # the images' own 4x8 grid, not the native one
    for name in ("bool_masked_pos", "patch_replacement"):
        assert torch.equal(batch[name], turned[name].flip(0))
        assert len({tuple(row) for row in batch[name].tolist()}) == 4


def test_training_corruption_is_a_function_of_the_samples_seeds():
    collate = MaskedPatchCollator(VisionTransformerConfig(image_size=16, patch_size=4))
    first, other, again = (
        collate(samples(2, seeds=seeds))["patch_replacement"] for seeds in ([1, 2], [3, 2], [1, 2])
    )
    assert torch.equal(first, again) and torch.equal(first[1], other[1])
    assert not torch.equal(first[0], other[0])


def test_the_batch_is_augmented_like_any_other():
    config = VisionTransformerConfig(image_size=16, patch_size=4)
    collate = MaskedPatchCollator(config, augmentation=BatchAugmentation(flip=True))
    assert "flip" in collate(samples(3, seeds=[1, 2, 3]))["augmentation"]
    assert not collate(samples(3))["augmentation"]
