# SPDX-License-Identifier: Apache-2.0
"""Figures that need no image: position similarity and the filters' principal components."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from vit_hf.inspection import (
    draw_filter_components,
    draw_position_similarity,
    filter_components,
    position_similarity,
)


@pytest.mark.parametrize("placement", ["stem", "every_layer", "every_layer_shared"])
@pytest.mark.parametrize("kind", ["learned_1d", "learned_2d", "sincos_2d"])
def test_similarity_is_the_cosine_of_the_patches_vectors(build, kind, placement):
    model = build(
        position_embedding=kind, position_embedding_placement=placement, num_register_tokens=1
    )
    similarity = position_similarity(model)
    assert similarity.shape == (4, 6, 4, 6)
    flat = similarity.reshape(24, 24)
    torch.testing.assert_close(flat.diagonal(), torch.ones(24))
    torch.testing.assert_close(flat, flat.T)
    position = model.positions[0]
    if kind == "learned_1d":
        one, other = position.table[0, 2 + 3], position.table[0, 2 + 17]
    elif kind == "learned_2d":
        one = torch.cat([position.column_table[3], position.row_table[0]])
        other = torch.cat([position.column_table[5], position.row_table[2]])
    else:
        nothing = torch.zeros(1, 26, 32)
        one, other = (position(nothing, (4, 6))[0][0, 2 + place] for place in (3, 17))
    expected = torch.nn.functional.cosine_similarity(one, other, dim=0)
    torch.testing.assert_close(similarity[0, 3, 2, 5], expected.detach())


@pytest.mark.parametrize("kind", ["relative", "none"])
def test_positions_that_are_no_vectors_are_refused(build, kind):
    with pytest.raises(ValueError, match="allowed: learned_1d, learned_2d, sincos_2d"):
        position_similarity(build(position_embedding=kind))


@pytest.mark.parametrize(
    ("grid", "shown"),
    [((1, 1), (1, 1)), ((4, 6), (4, 6)), ((24, 24), (24, 24)), ((5, 50), (2, 17))],
)
def test_the_drawing_has_a_tile_for_each_patch(build, grid, shown):
    size = (4 * grid[0], 4 * grid[1])
    model = build(position_embedding="sincos_2d", image_size=size)
    similarity = position_similarity(model).numpy()
    figure = draw_position_similarity(model)
    figure.canvas.draw()
    axis = figure.axes[0]
    drawn = np.ma.filled(axis.images[0].get_array(), np.nan)
    filled = ~np.isnan(drawn)
    step = -(-max(grid) // 24)
    # The gaps are empty, and the tiles lie between them in the order of the patches.
    assert filled.sum() == shown[0] * shown[1] * grid[0] * grid[1]
    assert np.array_equal(drawn[: grid[0], : grid[1]], similarity[0, 0])
    last = similarity[::step, ::step][-1, -1]
    assert np.array_equal(drawn[-grid[0] :, -grid[1] :], last)
    ticks = [int(tick.get_text()) for tick in axis.get_xticklabels()]
    assert ticks[0] == 1 and len(ticks) <= 8 and max(ticks) <= grid[1]
    assert (f"every {step} x {step} patches" in figure.get_suptitle()) == (step > 1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_channels": 1, "patch_size": (2, 4)}, {"stem_blocks": [], "stem_width": 32}],
    ids=str,
)
def test_components_are_those_of_principal_component_analysis(build, settings):
    model = build(**{"hidden_size": 64, "patch_size": 4, "image_size": 32, **settings})
    embeddings = model.embeddings.patch_embeddings
    is_hybrid = "stem_blocks" in settings
    filters = embeddings.stem.conv.standardized_weight() if is_hybrid else None
    filters = embeddings.projection.weight if filters is None else filters
    components, shares = filter_components(model, num_components=5)
    assert components.shape == (5, *filters.shape[1:])
    expected = PCA(5, svd_solver="full").fit(filters.detach().flatten(1).double().numpy())
    np.testing.assert_allclose(shares, expected.explained_variance_ratio_, rtol=1e-4)
    cosines = (components.flatten(1).numpy() * expected.components_).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-4)
    flat = components.flatten(1)
    assert (flat.gather(1, flat.abs().argmax(1, keepdim=True)) > 0).all()  # one sign, not any


def test_components_are_drawn(build):
    model = build(hidden_size=64)
    figure = draw_filter_components(model)
    axis = figure.axes[0]
    assert len(axis.images) == 28
    components, _ = filter_components(model)
    for component, image in zip(components, axis.images, strict=True):
        scaled = component / component.abs().max() / 2 + 0.5
        np.testing.assert_allclose(image.get_array(), scaled.permute(1, 2, 0), atol=1e-6)
    lefts = [image.get_extent()[0] for image in axis.images]
    tops = [image.get_extent()[3] for image in axis.images]
    assert len(set(lefts)) == 7 and len(set(tops)) == 4 and lefts[1] > 1 and tops[7] > 1
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["1", "8", "15", "22"]
    assert "patch projection" in figure.get_suptitle()
    assert "4 x 4 pixels; 28 components explain" in axis.get_xlabel()
    figure.canvas.draw()
    few = draw_filter_components(build(num_channels=1, patch_size=2))
    assert len(few.axes[0].images) == 4
    hybrid = draw_filter_components(build(stem_blocks=[1], stem_width=32, patch_size=1))
    assert "root convolution of the hybrid's stem" in hybrid.get_suptitle()
    assert "7 x 7 pixels" in hybrid.axes[0].get_xlabel()
    with pytest.raises(ValueError, match="got 4 channels, which are no picture"):
        draw_filter_components(build(num_channels=4))
