# SPDX-License-Identifier: Apache-2.0
"""FlexiViT's pseudo-inverse resize of the patch projection (Beyer et al., 2022, section 3.4)."""

import numpy as np
import pytest
import torch

from vit_hf import VisionTransformerForMaskedPatchPrediction, VisionTransformerModel
from vit_hf.modeling.embeddings import resize_matrix

UPSIZED = [((8, 8), (16, 16)), ((8, 8), (12, 20)), ((4, 6), (9, 6))]


def resize_image(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes `(B, C, H, W)` bilinearly, as images are."""
    return torch.nn.functional.interpolate(
        image, size=size, mode="bilinear", align_corners=False, antialias=True
    )


def bilinear_rows(old: int, new: int) -> np.ndarray:
    """Returns the matrix `(new, old)` of an anti-aliased bilinear resize, from its definition."""
    scale, matrix = max(1.0, old / new), np.zeros((new, old))
    for target in range(new):
        center = (target + 0.5) * old / new - 0.5
        weights = np.maximum(0, 1 - np.abs(np.arange(old) - center) / scale)
        matrix[target] = weights / weights.sum()
    return matrix


@pytest.mark.parametrize(("old", "new"), UPSIZED)
@torch.no_grad()
def test_upsized_patches_of_resized_images_keep_their_embeddings(build, old, new):
    model = build(VisionTransformerModel, image_size=(4 * old[0], 3 * old[1]), patch_size=old)
    patch = torch.rand(5, 3, *old)
    before = model.embeddings.patch_embeddings(patch)
    model.set_image_size((4 * new[0], 3 * new[1]), patch_size=new)
    assert model.config.patch_hw == new and model.config.grid == (4, 3)
    after = model.embeddings.patch_embeddings(resize_image(patch, new))
    torch.testing.assert_close(after, before, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("old", "new"), [*UPSIZED, ((16, 16), (8, 8)), ((8, 12), (6, 5))])
@torch.no_grad()
def test_against_numpy(build, old, new):
    model = build(VisionTransformerModel, image_size=(2 * old[0], 2 * old[1]), patch_size=old)
    weight = model.embeddings.patch_embeddings.projection.weight.double().numpy()
    matrix = np.kron(bilinear_rows(old[0], new[0]), bilinear_rows(old[1], new[1]))  # (new, old)
    expected = np.einsum("dco,on->dcn", weight.reshape(32, 3, -1), np.linalg.pinv(matrix))
    model.set_image_size((2 * new[0], 2 * new[1]), patch_size=new)
    ours = model.embeddings.patch_embeddings.projection
    np.testing.assert_allclose(ours.weight, expected.reshape(32, 3, *new), atol=1e-5)
    assert ours.weight.dtype == torch.float32 and ours.kernel_size == new


@pytest.mark.parametrize("how", ["bilinear_corners", "bicubic", "bicubic_antialias"])
def test_the_kernel_is_that_of_the_interpolation(how):
    mode = {"mode": "bilinear" if how == "bilinear_corners" else "bicubic"}
    antialias = how != "bicubic"
    patch = torch.rand(1, 1, 6, 4, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(patch, (3, 5), antialias=antialias, **mode)
    ours = resize_matrix((6, 4), (3, 5), interpolation=how) @ patch.flatten()
    torch.testing.assert_close(ours, expected.flatten())


@torch.no_grad()
def test_the_bias_and_the_training_flag_stay(build):
    model = build(VisionTransformerModel)
    projection = model.embeddings.patch_embeddings.projection
    projection.weight.requires_grad_(False)
    model.set_image_size(32, patch_size=4)
    resized = model.embeddings.patch_embeddings.projection
    assert resized.bias is projection.bias and not resized.weight.requires_grad
    assert model.config.grid == (8, 8) and model.positions[0].table.shape == (1, 65, 32)


def test_a_patch_size_that_fits_nothing_changes_nothing(build, images):
    model = build(VisionTransformerForMaskedPatchPrediction, prediction_target="downsampled_color")
    before = model(images()).logits
    with pytest.raises(ValueError, match="patches of 2x2"):
        model.set_image_size(32, patch_size=2)
    with pytest.raises(ValueError, match="no patch"):
        model.set_image_size(32, patch_size=64)
    with pytest.raises(ValueError, match="patch_size=0"):
        model.set_image_size(32, patch_size=0)
    assert torch.equal(before, model(images()).logits)


def test_a_target_of_another_shape_gets_a_fresh_zero_head(build, images):
    model = build(VisionTransformerForMaskedPatchPrediction, prediction_target="raw_pixels")
    model.set_image_size(32, patch_size=4)
    logits = model(images()).logits
    assert logits.shape == (2, 64, 3, 4, 4) and not logits.any()


@torch.no_grad()
def test_hybrids_resize_cells(build, images):
    model = build(VisionTransformerModel, image_size=64, stem_blocks=[], patch_size=4)
    model.set_image_size(64, patch_size=(8, 4))
    assert model.config.grid == (2, 4)
    assert model(images(height=64)).last_hidden_state.shape == (2, 9, 32)
