# SPDX-License-Identifier: Apache-2.0
"""Masked patch prediction (B.1.2): what is corrupted, what is predicted, where the loss is."""

import math

import numpy as np
import pytest
import torch

from vit_hf import VisionTransformerForMaskedPatchPrediction as Predictor
from vit_hf import VisionTransformerModel
from vit_hf.modeling.embeddings import corrupt_patches

TARGETS = ["mean_color", "downsampled_color", "raw_pixels"]
# Grids, patches, channels and stems that the targets have to work with.
GEOMETRIES = {
    "square": {},
    "wide": {"image_size": (16, 48)},
    "patches_not_square": {"image_size": (32, 36), "patch_size": (8, 6)},
    "fourteen": {"image_size": 42, "patch_size": 14},
    "one_channel": {"num_channels": 1},
    "root_stem": {"stem_blocks": [], "patch_size": 2},
    "resnet_stem": {"stem_blocks": [1, 1], "stem_width": 32, "patch_size": 1},
    "remainder": {"image_size": (37, 33)},
}
targets = pytest.mark.parametrize("target", TARGETS)
geometries = pytest.mark.parametrize("geometry", GEOMETRIES)


@pytest.fixture
def masked(images):
    """Makes images for a model, and a mask of about half of their patches."""

    def make(model, batch=2):
        config = model.config
        height, width = config.image_hw
        pixels = images(batch, height, width, channels=config.num_channels)
        generator = torch.Generator().manual_seed(3)
        mask = torch.rand(batch, config.num_patches, generator=generator) < 0.5
        mask[:, 0], mask[:, 1] = True, False
        return pixels, mask

    return make


def naive_cells(patch: np.ndarray, side: int) -> np.ndarray:
    """Returns the mean colours `(side * side, C)` of the cells of a patch `(C, P, Q)`."""
    _, height, width = patch.shape
    cells = []
    for row in range(side):
        for column in range(side):
            rows = slice(row * height // side, -(-(row + 1) * height // side))
            columns = slice(column * width // side, -(-(column + 1) * width // side))
            cells.append(patch[:, rows, columns].mean((1, 2)))
    return np.stack(cells)


def naive_code(color: np.ndarray) -> int:
    """Returns the 3-bit code of a colour `(C,)` in [-1, 1]."""
    code = 0
    for value in (color + 1) * 127.5:
        code = code * 8 + min(7, int(value * 8 / 255))
    return code


def patches_of(image: np.ndarray, config) -> list[np.ndarray]:
    """Returns the patches `(C, P, Q)` of an image `(C, H, W)`, row by row."""
    (rows, columns), (height, width) = config.grid, config.pixels_per_patch
    return [
        image[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(rows)
        for column in range(columns)
    ]


def naive_loss(logits: np.ndarray, pixels: np.ndarray, mask: np.ndarray, config) -> float:
    """Returns the loss, patch by patch."""
    per_image = []
    for image, image_logits, image_mask in zip(pixels, logits, mask, strict=True):
        losses = []
        for patch, prediction, masked in zip(
            patches_of(image, config), image_logits, image_mask, strict=True
        ):
            if not masked:
                continue
            if config.prediction_target == "raw_pixels":
                losses.append(((prediction - patch) ** 2).mean())
                continue
            side = 1 if config.prediction_target == "mean_color" else 4
            rows = prediction.reshape(side * side, -1).astype(np.float64)
            log_share = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
            codes = [naive_code(color) for color in naive_cells(patch, side)]
            losses.append(-np.mean([log_share[cell, code] for cell, code in enumerate(codes)]))
        per_image.append(np.mean(losses))
    return float(np.mean(per_image))


@targets
@geometries
def test_loss_against_numpy(build, masked, target, geometry):
    model = build(Predictor, prediction_target=target, **GEOMETRIES[geometry])
    pixels, mask = masked(model)
    outputs = model(pixels, bool_masked_pos=mask)
    arrays = (outputs.logits.detach().numpy(), pixels.numpy(), mask.numpy())
    assert outputs.loss.item() == pytest.approx(naive_loss(*arrays, model.config), abs=2e-5)


@pytest.mark.parametrize("target", TARGETS[:2])
@pytest.mark.parametrize(("channels", "num_colors"), [(3, 512), (1, 8)])
def test_first_loss_is_that_of_guessing(tiny_config, images, target, channels, num_colors):
    model = Predictor(tiny_config(prediction_target=target, num_channels=channels))
    loss = model(images(channels=channels), bool_masked_pos=torch.ones(2, 16)).loss
    assert loss.item() == pytest.approx(math.log(num_colors), abs=1e-5)


def test_three_bits_are_the_upper_bits_of_a_byte(build):
    # A pure gray image for each of the 256 values; the code of value v has v >> 5 in each channel.
    model = build(Predictor)
    values = torch.arange(256)
    pixels = (values.float() / 127.5 - 1)[:, None, None, None].expand(-1, 3, 32, 32)
    labels = model.target.labels(pixels, (4, 4)).squeeze(-1)
    assert torch.equal(labels, ((values >> 5) * (64 + 8 + 1))[:, None].expand(-1, 16))


def test_corruption():
    torch.manual_seed(0)
    patches, mask_token = torch.randn(2, 6, 4), torch.randn(1, 1, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0]])
    codes = torch.tensor([[-1, 4, 2, 0, -1, 1], [3, -1, 5, 3, 0, -1]])
    corrupted = corrupt_patches(patches, mask_token, mask, codes)
    for image in range(2):
        for place in range(6):
            expected = patches[image, place]
            if mask[image, place] and codes[image, place] < 0:
                expected = mask_token[0, 0]
            elif mask[image, place]:
                expected = patches[image, codes[image, place]]
            assert torch.equal(corrupted[image, place], expected), (image, place)
    alone = corrupt_patches(patches, mask_token, mask)
    assert torch.equal(alone, corrupt_patches(patches, mask_token, mask, torch.full((2, 6), -1)))
    assert torch.equal(alone[mask.bool()], mask_token[0].expand(6, 4))
    assert torch.equal(alone[~mask.bool()], patches[~mask.bool()])


@torch.no_grad()
def test_the_model_corrupts_what_the_codes_say(build, masked):
    model = build(Predictor)
    pixels, mask = masked(model)
    place = torch.arange(16).expand(2, -1)
    plain = model(pixels).logits
    torch.testing.assert_close(model(pixels, mask, place).logits, plain)  # all stay as they are
    assert not torch.allclose(model(pixels, mask).logits, plain)
    assert torch.equal(model(pixels, mask).logits, model(pixels, mask.long()).logits)
    swapped = model(pixels, mask, place.flip(1)).logits
    assert not torch.allclose(swapped, plain)
    assert not torch.allclose(swapped, model(pixels, mask).logits)


@targets
def test_loss_is_on_corrupted_patches_alone(build, masked, target):
    model = build(Predictor, prediction_target=target)
    pixels, mask = masked(model)
    kept = {}
    model.prediction_head.register_forward_hook(
        lambda module, args, output: kept.update(output=output) or output.retain_grad()
    )
    model(pixels, bool_masked_pos=mask).loss.backward()
    gradient = kept["output"].grad.abs().sum(-1)
    assert not gradient[~mask].any() and gradient[mask].all()


@targets
@torch.no_grad()
def test_a_patch_loss_depends_on_its_own_pixels_alone(build, images, target):
    model = build(Predictor, prediction_target=target)
    pixels = images(batch=1)
    logits = model(pixels).logits
    before = model.target.losses(logits, pixels, (4, 4))
    changed = pixels.clone()
    changed[:, :, 8:16, 16:24] = -changed[:, :, 8:16, 16:24]  # patch (1, 2)
    difference = (model.target.losses(logits, changed, (4, 4)) - before).abs()[0]
    assert difference[6] > 0 and difference.sum() == difference[6]


@targets
@geometries
def test_every_parameter_is_trained(build, masked, target, geometry):
    model = build(Predictor, prediction_target=target, **GEOMETRIES[geometry]).train()
    pixels, mask = masked(model)
    model(pixels, bool_masked_pos=mask).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@targets
@geometries
def test_perfect_predictions_give_the_picture_back(build, masked, target, geometry):
    model = build(Predictor, prediction_target=target, **GEOMETRIES[geometry])
    pixels, _ = masked(model)
    outputs = model(pixels)
    (rows, columns), (height, width) = model.config.grid, model.config.pixels_per_patch
    assert outputs.grid.tolist() == [[rows, columns]] * 2
    seen = pixels[:, :, : rows * height, : columns * width]
    if target == "raw_pixels":
        patches = [torch.from_numpy(np.stack(patches_of(image, model.config))) for image in seen]
        outputs.logits = torch.stack(patches)
        torch.testing.assert_close(outputs.to_picture(), seen)
        return
    labels = model.target.labels(pixels, (rows, columns))  # (B, N, cells)
    logits = torch.nn.functional.one_hot(labels, model.target.num_colors).float()
    outputs.logits = logits.view_as(outputs.logits)
    side = 1 if target == "mean_color" else 4
    picture = outputs.to_picture()
    assert picture.shape == (2, model.config.num_channels, rows * side, columns * side)
    for image, ours in zip(seen.numpy(), picture, strict=True):
        cells = np.stack([naive_cells(patch, side) for patch in patches_of(image, model.config)])
        cells = cells.reshape(rows, columns, side, side, -1).transpose(4, 0, 2, 1, 3)
        expected = cells.reshape(-1, rows * side, columns * side)
        assert np.abs(ours.numpy() - expected).max() <= 1 / 8 + 1e-6  # half a level of 3 bits
    assert outputs.to_picture(model.config.image_hw).shape[2:] == model.config.image_hw


def test_another_size_than_the_native(build, images):
    model = build(Predictor)
    outputs = model(images(height=24, width=40), bool_masked_pos=torch.ones(2, 15))
    assert outputs.loss.isfinite() and outputs.logits.shape == (2, 15, 512)
    assert outputs.to_picture((24, 40)).shape == (2, 3, 24, 40)


@targets
def test_registers_and_no_class_token(build, images, target):
    model = build(Predictor, prediction_target=target, pooling="gap", num_register_tokens=3)
    assert model(images(), bool_masked_pos=torch.ones(2, 16)).logits.shape[:2] == (2, 16)


@pytest.mark.parametrize("patch", [2, (8, 2)])
def test_small_patches_are_told_what_fits(tiny_config, patch):
    Predictor(tiny_config(patch_size=patch))
    with pytest.raises(ValueError, match="'mean_color', 'raw_pixels'"):
        Predictor(tiny_config(patch_size=patch, prediction_target="downsampled_color"))


def test_pixels_outside_the_range(build, images):
    model, mask = build(Predictor), torch.ones(2, 16)
    with pytest.raises(ValueError, match=r"\[-2\.\d+, 2\.\d+\].*image_mean=0.5"):
        model(images() * 2.5, bool_masked_pos=mask)
    model(images() * 2.5)  # no loss, no colours
    assert model(images(), bool_masked_pos=mask).loss.isfinite()


@pytest.mark.parametrize("shape", [(2, 15), (1, 16), (2, 4, 4)])
def test_masks_of_another_grid(build, images, shape):
    model, mask = build(Predictor), torch.ones(shape)
    with pytest.raises(ValueError, match=r"bool_masked_pos of shape .* allowed: \(2, 16\)"):
        model(images(), bool_masked_pos=mask)
    with pytest.raises(ValueError, match="patch_replacement of shape"):
        model(images(), bool_masked_pos=torch.ones(2, 16), patch_replacement=mask.long())


@pytest.mark.parametrize("place", [16, -5])
def test_places_that_are_none(build, images, place):
    codes = torch.full((2, 16), -1)
    codes[1, 3] = place
    with pytest.raises(ValueError, match=rf"patch_replacement {place}, allowed: -1.*0 \.\.\. 15"):
        build(Predictor)(images(), torch.ones(2, 16), codes)


def test_masks_that_could_have_no_effect(build, images):
    with pytest.raises(ValueError, match="without bool_masked_pos"):
        build(Predictor)(images(), patch_replacement=torch.zeros(2, 16).long())
    with pytest.raises(ValueError, match="use_mask_token"):
        build(VisionTransformerModel)(images(), bool_masked_pos=torch.ones(2, 16))


def test_an_image_without_corrupted_patches(build, images):
    model, mask = build(Predictor), torch.zeros(2, 16)
    assert model(images(), bool_masked_pos=mask).loss == 0
    mask[0, 3] = 1
    half = model(images(), bool_masked_pos=mask).loss
    alone = model(images()[:1], bool_masked_pos=mask[:1]).loss
    torch.testing.assert_close(half, alone / 2)


def test_overlapping_patches_of_a_hybrid_are_named(build, images):
    model = build(Predictor, stem_blocks=[1], stem_width=32, patch_size=1)  # stride 4
    with pytest.raises(ValueError, match="32x36"):
        model(images(height=32, width=34), bool_masked_pos=torch.ones(2, 72))
