# SPDX-License-Identifier: Apache-2.0
"""Position embeddings: five kinds, three placements, one table for each grid."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from vit_hf import VisionTransformerForImageClassification, VisionTransformerModel
from vit_hf.modeling.positions import (
    INTERPOLATIONS,
    Relative1D,
    SinCos2D,
    relative_bias,
    resize_table,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
SHARED = Path(__file__).parents[3] / "shared/fixtures"
KINDS = ["learned_1d", "learned_2d", "relative", "sincos_2d", "none"]
PLACEMENTS = ["stem", "every_layer", "every_layer_shared"]
PAIRS = [
    (kind, placement)
    for kind in KINDS
    for placement in PLACEMENTS
    if kind != "none" or placement == "stem"
]
LEARNED = [(kind, placement) for kind, placement in PAIRS if kind not in ("sincos_2d", "none")]
pairs = pytest.mark.parametrize(("kind", "placement"), PAIRS)
learned = pytest.mark.parametrize(("kind", "placement"), LEARNED)


def settings_of(kind: str, placement: str) -> dict:
    """Returns the settings that give this kind and placement."""
    return {"position_embedding": kind, "position_embedding_placement": placement}


@pairs
@torch.no_grad()
def test_order_of_patches_matters_only_with_positions(build, images, kind, placement):
    model = build(VisionTransformerModel, **settings_of(kind, placement), pooling="gap")
    picture = images(batch=1)
    patches = picture.unfold(2, 8, 8).unfold(3, 8, 8)  # (1, 3, 4, 4, 8, 8)
    shuffled = patches.flatten(2, 3)[:, :, torch.randperm(16)].unflatten(2, (4, 4))
    shuffled = shuffled.permute(0, 1, 2, 4, 3, 5).reshape(picture.shape)
    difference = (model(picture).pooler_output - model(shuffled).pooler_output).abs().max()
    assert (difference < 1e-5) == (kind == "none")


@pairs
def test_number_of_tables(build, kind, placement):
    model = build(VisionTransformerModel, **settings_of(kind, placement))
    assert len(model.positions) == (2 if placement == "every_layer" else 1)
    sizes = {name: tuple(table.shape) for name, table in model.positions[0].named_parameters()}
    assert (
        sizes
        == {
            "learned_1d": {"table": (1, 17, 32)},
            "learned_2d": {"column_table": (4, 16), "row_table": (4, 16)},
            "relative": {"keys": (31, 8)},
            "sincos_2d": {},
            "none": {},
        }[kind]
    )


@pytest.mark.parametrize("kind", KINDS[:-1])
@torch.no_grad()
def test_placements_differ(build, images, kind):
    reached = []
    for placement in PLACEMENTS:
        model = build(VisionTransformerModel, **settings_of(kind, placement), pooling="gap")
        state = model.state_dict()
        for index in range(len(model.positions)):
            for name, table in model.positions[index].named_parameters():
                generator = torch.Generator().manual_seed(1)
                state[f"positions.{index}.{name}"] = torch.randn(table.shape, generator=generator)
        for name, parameter in model.named_parameters():
            if "positions" not in name:
                generator = torch.Generator().manual_seed(2)
                state[name] = torch.randn(parameter.shape, generator=generator) * 0.2
        model.load_state_dict(state)
        reached.append(model(images()).pooler_output)
    stem, every_layer, shared = reached
    assert (stem - every_layer).abs().max() > 1e-4
    # One table copied to every layer is what sharing it means.
    torch.testing.assert_close(every_layer, shared, atol=1e-6, rtol=0)


@pairs
@torch.no_grad()
def test_native_grid_uses_the_table_as_stored(build, kind, placement):
    model = build(VisionTransformerModel, **settings_of(kind, placement))
    position, grid = model.positions[0], (4, 4)
    tokens = torch.zeros(1, 17, 32)
    if kind == "learned_1d":
        assert torch.equal(position(tokens, grid)[0], position.table)
        assert position.table_for(grid) is position.table
    if kind == "learned_2d":
        added = position(tokens, grid)[0][0, 1:].unflatten(0, grid)
        for row in range(4):
            for column in range(4):
                expected = torch.cat([position.column_table[column], position.row_table[row]])
                assert torch.equal(added[row, column], expected)
    if kind == "relative":
        assert position(tokens, grid)[1] is position.keys
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.set_image_size(32)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pairs
@pytest.mark.parametrize("size", [(48, 48), (16, 64), (24, 40), (8, 8)])
@torch.no_grad()
def test_interpolating_in_forward_is_set_image_size(build, images, kind, placement, size):
    model = build(VisionTransformerForImageClassification, **settings_of(kind, placement))
    pictures = images(height=size[0], width=size[1])
    before = model(pictures).logits
    model.set_image_size(size)
    assert model.config.grid == (size[0] // 8, size[1] // 8)
    torch.testing.assert_close(model(pictures).logits, before, atol=1e-6, rtol=0)


@learned
@torch.no_grad()
def test_same_count_other_shape_is_resampled(build, images, kind, placement):
    settings = settings_of(kind, placement)
    model = build(VisionTransformerModel, **settings, image_size=112, num_register_tokens=1)
    assert model.config.grid == (14, 14)
    before = {name: value.clone() for name, value in model.positions.named_parameters()}
    model.set_image_size((56, 224))
    assert model.config.grid == (7, 28)
    for name, value in model.positions.named_parameters():
        same_shape = before[name].shape == value.shape
        assert same_shape == (kind != "learned_2d")
        assert not same_shape or not torch.equal(before[name], value)
    assert model(images(height=56, width=224)).last_hidden_state.shape == (2, 2 + 196, 32)


@torch.no_grad()
def test_learned_1d_against_scipy_zoom(build):
    model = build(VisionTransformerModel, num_register_tokens=2)
    table = model.positions[0].table.clone()
    for grid in [(6, 6), (3, 3), (2, 8), (7, 5), (1, 1)]:
        ours = model.positions[0].table_for(grid)
        assert torch.equal(ours[:, :3], table[:, :3])  # class token and registers
        image = table[0, 3:].unflatten(0, (4, 4)).numpy()
        theirs = ndimage.zoom(image, (grid[0] / 4, grid[1] / 4, 1), order=1)
        np.testing.assert_allclose(ours[0, 3:].unflatten(0, grid), theirs, atol=1e-6)


def test_against_the_authors_interpolation():
    stored = np.load(FIXTURES / "vit_jax" / "interpolate_posembed.npz")
    text = (FIXTURES / "vit_jax" / "interpolate_posembed.json").read_text()
    rows = json.loads(text)["cases"]
    checked = 0
    for index, row in enumerate(rows):
        if row.get("scipy_zeroed_last_row_col"):
            continue
        old, new = (torch.from_numpy(stored[f"{way}_{index:02}"])[0] for way in ("in", "out"))
        num_prefix = len(old) - row["old_grid"] ** 2
        ours = resize_table(
            old[num_prefix:],
            (row["old_grid"],) * 2,
            (row["new_grid"],) * 2,
            interpolation="bilinear_corners",
        )
        torch.testing.assert_close(ours, new[num_prefix:], atol=5e-6, rtol=0)
        checked += 1
    assert checked == 7


@pytest.mark.parity
@pytest.mark.skipif(not (SHARED / "timm").is_dir(), reason="needs ../shared/fixtures")
def test_against_timms_interpolation():
    stored = np.load(SHARED / "timm" / "resample_abs_pos_embed.npz")
    rows = json.loads((SHARED / "timm" / "resample_abs_pos_embed.json").read_text())["cases"]
    checked = 0
    for index, row in enumerate(rows):
        if row["interpolation"] != "bicubic":
            continue
        how = "bicubic_antialias" if row["antialias"] else "bicubic"
        prefix = row["num_prefix_tokens"]
        old, new = (torch.from_numpy(stored[f"{way}_{index:02}"])[0] for way in ("in", "out"))
        ours = resize_table(
            old[prefix:], tuple(row["old_size"]), tuple(row["new_size"]), interpolation=how
        )
        torch.testing.assert_close(ours, new[prefix:], atol=1e-6, rtol=0)
        checked += 1
    assert checked == 8


@torch.no_grad()
def test_relative_bias_against_a_double_loop():
    torch.manual_seed(0)
    num_patches, num_prefix = 6, 2
    query = torch.randn(2, 3, num_prefix + num_patches, 4)
    keys = torch.randn(2 * num_patches - 1, 4)
    bias = relative_bias(query, keys)
    expected = torch.zeros(2, 3, 8, 8)
    for i in range(num_patches):
        for j in range(num_patches):
            key = keys[i - j + num_patches - 1]
            expected[:, :, num_prefix + i, num_prefix + j] = query[:, :, num_prefix + i] @ key
    torch.testing.assert_close(bias, expected)


@torch.no_grad()
def test_relative_logits_are_query_times_key_and_relative_key(build, images):
    model = build(VisionTransformerModel, **settings_of("relative", "stem"), pooling="gap")
    attention, position = model.layers[0].attention, model.positions[0]
    seen = {}
    attention.register_forward_pre_hook(lambda module, args: seen.update(tokens=args[0]))
    maps = model(images(batch=1), output_attentions=True).attentions[0][0]  # (A, N, N)
    query, key = (
        projection(seen["tokens"])[0].unflatten(-1, (4, 8)).transpose(0, 1)
        for projection in (attention.q_proj, attention.k_proj)
    )
    logits = torch.empty(4, 16, 16)
    for i in range(16):
        for j in range(16):
            meets = key[:, j] + position.keys[i - j + 15]
            logits[:, i, j] = (query[:, i] * meets).sum(-1) / 8**0.5
    torch.testing.assert_close(maps, logits.softmax(-1), atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("grid", [(1, 4), (4, 1), (1, 1)])
def test_relative_keys_of_one_row_are_those_of_no_displacement(tiny_config, interpolation, grid):
    config = tiny_config(position_embedding="relative", interpolation=interpolation)
    position, num_offsets = Relative1D(config), 31  # of 4x4 patches
    offsets = torch.arange(num_offsets)[:, None] - num_offsets // 2
    position.keys.copy_(offsets)
    step = 4 if grid == (4, 1) else 1  # along a column patches are four apart in raster order
    expected = torch.arange(2 * max(grid) - 1) - max(grid) + 1
    torch.testing.assert_close(position.keys_for(grid)[:, 0], step * expected.float())


@torch.no_grad()
def test_resized_relative_keys_keep_what_depends_on_the_displacement(tiny_config):
    # Keys that are linear in the columns to the right stay so on a grid with the same spacing.
    position = Relative1D(tiny_config(image_size=(24, 72), position_embedding="relative"))
    offset = torch.arange(-26, 27)
    down = (offset.abs() + 4).div(9, rounding_mode="floor").clamp(max=2) * offset.sign()
    position.keys.copy_((offset - 9 * down).float()[:, None].expand(-1, 8))
    position.resize((3, 9))
    assert torch.equal(position.keys[:, 0], (offset - 9 * down).float())
    position.resize((3, 17))
    middle = position.keys[3 * 17 - 1 - 8 : 3 * 17 - 1 + 9, 0]  # offsets -8 ... 8, in the same row
    torch.testing.assert_close(middle, torch.arange(-8, 9) / 2, atol=0.5, rtol=0)
    assert (middle.diff() > 0).all()


@torch.no_grad()
def test_sincos_2d_against_its_definition(tiny_config):
    position = SinCos2D(tiny_config(image_size=(24, 40), position_embedding="sincos_2d"))
    ours = position(torch.zeros(1, 1 + 15, 32), (3, 5))[0][0]
    assert not ours[0].any()  # the class token
    for row in range(3):
        for column in range(5):
            omega = 10_000.0 ** (-np.arange(8) / 7)
            parts = [f(side * omega) for side in (column, row) for f in (np.sin, np.cos)]
            np.testing.assert_allclose(ours[1 + row * 5 + column], np.concatenate(parts), atol=1e-6)


@torch.no_grad()
def test_prefix_tokens_without_entries_get_none(build):
    model = build(VisionTransformerModel, prefix_position_embedding=False, num_register_tokens=1)
    assert model.positions[0].table.shape == (1, 16, 32)
    added = model.positions[0](torch.zeros(1, 18, 32), (4, 4))[0]
    assert not added[:, :2].any() and torch.equal(added[:, 2:], model.positions[0].table)


@learned
def test_resizing_keeps_dtype_and_whether_it_is_trained(build, kind, placement):
    model = build(VisionTransformerModel, **settings_of(kind, placement)).to(torch.bfloat16)
    model.positions.requires_grad_(False)
    model.set_image_size((16, 48))
    for table in model.positions.parameters():
        assert table.dtype == torch.bfloat16 and not table.requires_grad and table.is_leaf
