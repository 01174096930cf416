# SPDX-License-Identifier: Apache-2.0
"""Masked patch prediction in pictures."""

import pytest
import torch

from vit_hf import (
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
)
from vit_hf.inspection import draw_masked_prediction, masked_prediction


@pytest.mark.parametrize("target", ["mean_color", "downsampled_color", "raw_pixels"])
def test_corrupted_patches_are_grey_then_predicted(build, images, target):
    model = build(VisionTransformerForMaskedPatchPrediction, prediction_target=target).train()
    pixels = images(count=3, size=(18, 27))  # of which 16x24 are seen
    generator = torch.Generator().manual_seed(0)
    masked = torch.rand(3, 24, generator=generator) < 0.5
    pictures = masked_prediction(model, pixels, masked)
    assert model.training
    seen = pixels[:, :, :16, :24]
    torch.testing.assert_close(pictures["image"], seen)
    with torch.no_grad():
        outputs = model.eval()(pixels, masked)
    own = outputs.to_picture()
    side = own.shape[2] // 4  # pixels that the target has a patch
    for image in range(3):
        for patch in range(24):
            row, column = divmod(patch, 6)
            where = (image, slice(None), *(slice(4 * p, 4 * p + 4) for p in (row, column)))
            grey, predicted = pictures["corrupted"][where], pictures["predicted"][where]
            if not masked[image, patch]:
                assert torch.equal(grey, seen[where]) and torch.equal(predicted, seen[where])
                continue
            assert (grey == 0).all()
            cell = (image, slice(None), *(slice(side * p, side * (p + 1)) for p in (row, column)))
            expected = own[cell].repeat_interleave(4 // side, 1).repeat_interleave(4 // side, 2)
            torch.testing.assert_close(predicted, expected)


@pytest.mark.parametrize(("count", "num_axes"), [(2, 6), (4, 12), (5, 24)])
def test_the_drawing_has_a_row_for_each(images, count, num_axes):
    pixels = images(count=count)
    figure = draw_masked_prediction({"image": pixels, "corrupted": pixels, "predicted": pixels})
    assert len(figure.axes) == num_axes
    assert sum(bool(axis.images) for axis in figure.axes) == 3 * count
    names = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert names[:3] == ["image", "corrupted", "predicted"]
    figure.canvas.draw()


def test_the_drawing_says_what_a_prediction_is(build, images):
    pixels = images(count=1)
    pictures = {"image": pixels, "corrupted": pixels, "predicted": pixels}
    for target, words in (
        ("mean_color", "mean colour"),
        ("downsampled_color", "4x4 colours"),
        ("raw_pixels", "pixels"),
    ):
        figure = draw_masked_prediction(pictures, prediction_target=target)
        assert figure.axes[2].get_ylabel() == f"predicted\n{words}"


def test_another_task_is_refused(build, images):
    model = build(VisionTransformerForImageClassification)
    with pytest.raises(ValueError, match="allowed: VisionTransformerForMaskedPatchPrediction"):
        masked_prediction(model, images(), torch.ones(2, 24))
