# SPDX-License-Identifier: Apache-2.0
"""Rollout, last-layer maps and attention distance, against plain loops over whole maps."""

import math

import pytest
import torch

from vit_hf import VisionTransformerForImageClassification as Classifier
from vit_hf import VisionTransformerForMaskedPatchPrediction as Predictor
from vit_hf import VisionTransformerModel
from vit_hf.inspection import (
    attention_distance,
    attention_rollout,
    attention_rows,
    draw_attention_distance,
    draw_attention_rollout,
    draw_pooled_attention,
    pooled_attention,
    uniform_distance,
)
from vit_hf.inspection.overlays import as_picture, lines_of

VARIANTS = [
    (VisionTransformerModel, {}),
    (Classifier, {"num_register_tokens": 2, "layer_scale_init_value": 0.5}),
    (Classifier, {"pooling": "gap", "num_register_tokens": 2, "final_norm": "pooled"}),
    (VisionTransformerModel, {"pooling": "map", "num_register_tokens": 1, "class_token": True}),
    (Classifier, {"pooling": "none"}),
    (Predictor, {}),
    (Classifier, {"position_embedding": "relative"}),
    (VisionTransformerModel, {"stem_blocks": [1], "stem_width": 32, "patch_size": 1}),
]
variants = pytest.mark.parametrize(("model_class", "settings"), VARIANTS, ids=str)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(attention_rows, "BLOCK_ROWS", 7)


@torch.no_grad()
def whole_maps(model, pixels):
    """Returns the maps of each layer, and of the attention pooling's probe where there is one."""
    seen = []
    pooling = getattr(model.base_model.pooler, "pooling", None)
    if model.config.pooling == "map":
        hook = pooling.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        maps = model(pixels, output_attentions=True).attentions
        hook.remove()
        patches = seen[0][:, model.config.num_prefix_tokens :]
        attention = torch.nn.MultiheadAttention(32, 2, batch_first=True)
        projections = (pooling.q_proj, pooling.k_proj, pooling.v_proj)
        attention.in_proj_weight.copy_(torch.cat([each.weight for each in projections]))
        attention.in_proj_bias.copy_(torch.cat([each.bias for each in projections]))
        probe = pooling.probe.expand(len(patches), -1, -1)
        _, weights = attention(probe, patches, patches, average_attn_weights=False)
        return maps, weights[:, :, 0]
    return model(pixels, output_attentions=True).attentions, None


@variants
@pytest.mark.parametrize("size", [(16, 24), (25, 17)])
def test_rollout_against_a_plain_loop(build, images, model_class, settings, size):
    model, pixels = build(model_class, **settings), images(size=size)
    rollout = attention_rollout(model, pixels)
    grid, prefix = model.config.grid_of(size), model.config.num_prefix_tokens
    assert rollout.shape == (2, *grid)
    maps, probe = whole_maps(model, pixels)
    for image in range(2):
        identity = torch.eye(maps[0].shape[-1])
        flow = identity
        for layer in maps:
            mixed = layer[image].mean(0) + identity
            flow = mixed / mixed.sum(-1, keepdim=True) @ flow
        if model.config.pooling == "cls" and model_class is not Predictor:
            expected = flow[0]
        elif model.config.pooling == "map":
            expected = probe[image].mean(0) @ flow[prefix:]
        else:
            expected = flow[prefix:].mean(0)
        expected = expected[prefix:] / expected[prefix:].sum()
        torch.testing.assert_close(rollout[image].flatten(), expected, atol=2e-6, rtol=1e-5)


@variants
def test_last_layer_maps_against_whole_maps(build, images, model_class, settings):
    model, pixels = build(model_class, **settings), images()
    prefix = model.config.num_prefix_tokens
    maps, probe = whole_maps(model, pixels)
    if model.config.pooling == "map":
        expected = probe
    elif model.config.pooling == "cls" and model_class is not Predictor:
        expected = maps[-1][:, :, 0, prefix:]
    else:
        expected = maps[-1][:, :, prefix:, prefix:].mean(2)
    got = pooled_attention(model, pixels)
    assert got.shape == (2, 2, *model.config.grid)
    torch.testing.assert_close(got.flatten(2), expected, atol=2e-6, rtol=1e-5)


@variants
def test_distance_against_a_plain_loop(build, images, model_class, settings):
    size = (16, 24)
    model, pixels = build(model_class, **settings), images(size=size)
    got = attention_distance(model, (image for image in pixels))
    (rows, columns), (down, right) = model.config.grid, model.config.pixels_per_patch
    prefix = model.config.num_prefix_tokens
    maps, _ = whole_maps(model, pixels)
    expected = torch.zeros(3, 2)
    places = [(row * down, column * right) for row in range(rows) for column in range(columns)]
    for index, layer in enumerate(maps):
        for head in range(2):
            means = []
            for image in range(2):
                for query, place in enumerate(places):
                    weights = layer[image, head, prefix + query, prefix:]
                    distances = torch.tensor([math.dist(place, other) for other in places])
                    means.append((weights * distances).sum() / weights.sum())
            expected[index, head] = torch.stack(means).mean()
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_distance_is_in_pixels_and_of_uniform_attention_where_that_is_uniform(build, images):
    size, hybrid = (64, 96), {"stem_blocks": [1, 1], "stem_width": 32, "patch_size": (1, 2)}
    model = build(image_size=size, qkv_bias=False, **hybrid)
    assert model.config.pixels_per_patch == (8, 16)
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.q_proj.weight.zero_()
    expected = uniform_distance((8, 6), (8, 16))
    places = [(8 * row, 16 * column) for row in range(8) for column in range(6)]
    pairs = [math.dist(one, other) for one in places for other in places]
    assert expected == pytest.approx(sum(pairs) / len(pairs))
    distance = attention_distance(model, images(size=size))
    torch.testing.assert_close(distance, torch.full((3, 2), expected), atol=1e-4, rtol=0)


def test_no_images_have_no_distance(build):
    with pytest.raises(ValueError, match="got no images, allowed: at least one"):
        attention_distance(build(), [])


def test_rollout_finds_the_patch_that_is_looked_at(build, images):
    model = build(num_hidden_layers=1, position_embedding_placement="stem")
    attention, place = model.layers[0].attention, 1 + 6 * 2 + 5  # row 2, column 5
    with torch.no_grad():
        attention.q_proj.weight.zero_()
        attention.k_proj.weight.zero_()
        record = attention_rows.record_attention(model, images(count=1))
        target = record.layers[0].hidden_states[0, place]
        attention.k_proj.weight.copy_(target.expand(32, -1))
        attention.q_proj.bias.fill_(10)
    assert attention_rollout(model, images(count=1))[0].argmax() == 2 * 6 + 5


@pytest.mark.parametrize("count", [1, 3, 5])
def test_drawings(build, images, count):
    model, pixels = build(pooling="gap"), images(count=count, size=(18, 27))
    rollout = attention_rollout(model, pixels)
    titles = [f"image {index}" for index in range(count)]
    figure = draw_attention_rollout(pixels, rollout, titles=titles, patch_hw=(4, 4))
    tiles = [axis for axis in figure.axes if axis.images and axis.get_label() != "<colorbar>"]
    assert len(tiles) == 2 * count
    assert [axis.get_title() for axis in tiles if axis.get_title()] == titles
    assert sum(axis.get_label() == "<colorbar>" for axis in figure.axes) == 1
    overlay = tiles[min(4, count)].images[1]
    assert overlay.get_extent() == [-0.5, 23.5, 15.5, -0.5]  # not the remainder of 2 and 3 pixels
    shown = torch.as_tensor(overlay.get_array().data)
    torch.testing.assert_close(shown, rollout[0] * 24)
    figure.canvas.draw()

    maps = pooled_attention(model, pixels[:1])[0]
    figure = draw_pooled_attention(pixels[0], maps, model=model, title="a photo")
    assert "the mean of the patch tokens" in figure.get_suptitle()
    names = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert names == ["a photo", "mean of heads", "head 1", "head 2"]
    figure.canvas.draw()


def test_the_distances_are_drawn_as_they_are():
    distance = torch.arange(12.0).reshape(4, 3)
    figure = draw_attention_distance(distance, num_images=128, uniform=7.5)
    axis = figure.axes[0]
    dots = torch.as_tensor(axis.collections[0].get_offsets().data)
    assert dots[:, 0].tolist() == [layer for layer in (1, 2, 3, 4) for _ in range(3)]
    assert dots[:, 1].tolist() == distance.flatten().tolist()
    assert axis.lines[0].get_ydata().tolist() == distance.mean(1).tolist()
    assert "128 images" in figure.get_suptitle() and "pixels" in axis.get_ylabel()
    figure.canvas.draw()


def test_two_channels_are_no_picture():
    with pytest.raises(ValueError, match="got 2 channels, which are no picture; allowed: 1 or 3"):
        as_picture(torch.zeros(2, 4, 4))


def test_a_long_title_goes_on_in_another_line():
    assert lines_of("cat") == ["cat"] and lines_of("") == []
    assert lines_of("dog (is cat_beagle)") == ["dog (is", "cat_beagle)"]
    assert lines_of("a" * 40) == ["a" * 16, "a" * 16, "a" * 8]
    assert len(lines_of("very long " * 20)) == 3
