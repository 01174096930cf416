# SPDX-License-Identifier: Apache-2.0
"""The resize of the graph against Pillow's, on photographs made smaller and larger."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from vit_hf.converters.image_processors import RESAMPLING
from vit_hf.deployment.raw_images import Preprocessing
from vit_hf.deployment.resizing import KERNELS


def levels(picture, processor) -> tuple[np.ndarray, np.ndarray]:
    """Returns a picture as the processor and as the graph prepare it, in levels."""
    raw = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())[None]
    pixels = Preprocessing(processor)(raw)[0]
    expected = processor(picture, return_tensors="pt")["pixel_values"][0]
    return (expected * 255).numpy(), (pixels * 255).numpy()


def prepared(**settings) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(do_normalize=False, **settings)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("size", [(90, 130), (64, 64), (300, 100)])
def test_it_is_pillow_s_to_the_level(name, size, pictures):
    """Of landscapes and portraits, made smaller, larger, or both."""
    processor = prepared(size=dict(zip(("height", "width"), size)), resample=RESAMPLING[name])
    for picture in pictures:
        expected, got = levels(picture, processor)
        assert np.abs(expected - got).max() < 1.01
        # At simple ratios, as of 60 to 90, many sums lie halfway between two levels.
        assert (np.abs(expected - got) > 0.5).mean() < 0.07


@pytest.mark.parametrize("height", [120, 227, 240, 427])
def test_the_passes_have_pillow_s_order(height, pictures):
    """At the last width at which the rows come first, and the next; sharp edges show the order."""
    processor = prepared(size={"height": 160, "width": 224}, resample=RESAMPLING["bicubic"])
    widths = range(222, 226) if height < 160 else range((height - 160) // 2 + 222, 999)[:4]
    stripes = np.random.default_rng(0).integers(0, 2, (height, max(widths), 1)) * 255
    for width in widths:
        picture = Image.fromarray(stripes[:, :width].repeat(3, axis=2).astype(np.uint8))
        expected, got = levels(picture, processor)
        assert (np.abs(expected - got) > 0.5).mean() < 0.01, (height, width)


@pytest.mark.parametrize("crop", [(56, 56), (50, 71), (90, 41)])
@pytest.mark.parametrize("edge", [64, 63])
def test_shortest_edge_and_centre_crop(edge, crop, pictures):
    """Crops larger than the picture too: it then has black borders."""
    processor = prepared(
        size={"shortest_edge": edge},
        do_center_crop=True,
        crop_size={"height": crop[0], "width": crop[1]},
        resample=RESAMPLING["bilinear"],
    )
    for picture in pictures[::3]:
        expected, got = levels(picture, processor)
        assert expected.shape == got.shape == (3, *crop)
        assert np.abs(expected - got).max() < 1.01


def test_a_crop_without_a_resize(pictures):
    processor = prepared(
        do_resize=False, do_center_crop=True, crop_size={"height": 40, "width": 300}
    )
    expected, got = levels(pictures[1], processor)
    assert np.array_equal(expected.round(), got.round())


def test_mean_and_deviation(pictures):
    processor = ViTImageProcessorPil(
        size={"height": 64, "width": 64}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    expected, got = levels(pictures[6], processor)
    assert np.median(np.abs(expected - got)) < 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 32}},
        {"do_resize": False},
        {"size": {"longest_edge": 64, "shortest_edge": 32}},
        {"size": {"height": 32, "width": 32}, "resample": RESAMPLING["nearest"]},
    ],
)
def test_what_no_graph_can_do_is_refused(settings):
    with pytest.raises(ValueError, match=r"^got an image processor .* allowed in a graph: "):
        Preprocessing(prepared(**settings))
