# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from vit_hf import VisionTransformerConfig, VisionTransformerModel
from vit_hf.inspection import (
    attention_rollout,
    draw_attention_rollout,
    draw_masked_prediction,
    draw_position_similarity,
    position_similarity,
)

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": (16, 24),
    "patch_size": 4,
}


@pytest.mark.parametrize("kind", ["learned_1d", "learned_2d", "sincos_2d"])
def test_similarity_is_the_cosine_of_the_tables_rows(kind):
    model = VisionTransformerModel(VisionTransformerConfig(**SMALL, position_embedding=kind))
    similarity = position_similarity(model)
    assert similarity.shape == (4, 6, 4, 6)
    flat = similarity.reshape(24, 24)
    torch.testing.assert_close(flat.diagonal(), torch.ones(24))
    torch.testing.assert_close(flat, flat.T)
    if kind == "learned_1d":
        table = model.positions[0].table[0, 1:].detach()
        expected = torch.nn.functional.cosine_similarity(table[3], table[17], dim=0)
        torch.testing.assert_close(similarity[0, 3, 2, 5], expected)


@pytest.mark.parametrize("kind", ["relative", "none"])
def test_positions_that_are_no_vectors_are_refused(kind):
    model = VisionTransformerModel(VisionTransformerConfig(**SMALL, position_embedding=kind))
    with pytest.raises(ValueError, match="allowed: learned_1d, learned_2d, sincos_2d"):
        position_similarity(model)


@pytest.mark.parametrize("settings", [{}, {"pooling": "gap", "num_register_tokens": 2}])
@torch.no_grad()
def test_rollout_against_a_plain_loop(settings):
    config = VisionTransformerConfig(**SMALL, **settings)
    model = VisionTransformerModel(config).eval()
    attentions = model(torch.rand(2, 3, 16, 24) * 2 - 1, output_attentions=True).attentions
    rollout = attention_rollout(attentions, config=config, grid=(4, 6))
    prefix = config.num_prefix_tokens
    for image in range(2):
        flow = torch.eye(prefix + 24)
        for maps in attentions:
            mixed = (
                maps[image].mean(0) + torch.eye(prefix + 24)
            ) / 2  # rows of an attention map sum to 1
            flow = mixed @ flow
        expected = flow[0] if config.pooling == "cls" else flow[prefix:].mean(0)
        expected = expected[prefix:] / expected[prefix:].sum()
        torch.testing.assert_close(rollout[image].flatten(), expected)


def test_rollout_finds_the_patch_that_is_looked_at():
    config = VisionTransformerConfig(**SMALL)
    maps = torch.zeros(1, 4, 25, 25)
    maps[..., 1 + 6 * 2 + 5] = 1  # every token looks at the patch in row 2, column 5
    rollout = attention_rollout((maps,), config=config, grid=(4, 6))
    assert rollout[0].argmax() == 2 * 6 + 5


def test_figures_are_drawn_for_grids_that_are_not_square():
    model = VisionTransformerModel(VisionTransformerConfig(**SMALL))
    images = torch.rand(3, 3, 16, 24) * 2 - 1
    figures = [
        draw_position_similarity(model),
        draw_attention_rollout(images, torch.rand(3, 4, 6), titles=["a", "b", "c"]),
        draw_masked_prediction(
            images, images, bool_masked_pos=torch.rand(3, 24) < 0.5, grid=(4, 6)
        ),
    ]
    for figure, num_axes in zip(figures, (4 * 6, 2 * 3, 3 * 3), strict=True):
        assert len([axis for axis in figure.axes if axis.get_label() != "<colorbar>"]) == num_axes
        figure.canvas.draw()
