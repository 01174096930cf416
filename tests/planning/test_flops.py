# SPDX-License-Identifier: Apache-2.0
"""What runs cost is what the paper says they cost."""

import pytest

from vit_hf import VisionTransformerConfig
from vit_hf.planning import FORWARDS_PER_STEP, forward_flops, images_seen, training_flops
from vit_hf.recipes import get

# Dosovitskiy et al. 2020, table 6: exaFLOPs of pre-training on JFT-300M
TABLE_6 = {
    "vit-b32-jft300m": 55,
    "vit-b16-jft300m": 224,
    "vit-l32-jft300m": 196,
    "vit-l16-jft300m-7ep": 783,
    "vit-l16-jft300m-14ep": 1567,
    "vit-h14-jft300m": 4262,
    "r50-vit-b32-jft300m": 106,
    "r50-vit-b16-jft300m": 274,
    "r50-vit-l32-jft300m": 246,
    "r50-vit-l16-jft300m-7ep": 859,
}
TINY = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@pytest.mark.parametrize("name", TABLE_6)
def test_table_6(name):
    recipe = get(name)
    config = VisionTransformerConfig(**recipe.model, num_labels=recipe.dataset.num_classes)
    num_images = images_seen(recipe.arguments, dataset_size=recipe.dataset.num_images)
    exaflops = training_flops(config, num_images=num_images) / 1e18
    assert exaflops == pytest.approx(TABLE_6[name], rel=0.03)


def test_by_hand():
    """Two operations for each multiply-add of a model small enough to count."""
    tokens, width, mlp = 17, 32, 64
    patches = 16 * (3 * 8 * 8) * width
    layer = tokens * (4 * width * width + 2 * width * mlp) + 2 * tokens * tokens * width
    config = VisionTransformerConfig(**TINY, num_labels=10)
    assert forward_flops(config, task="features") == 2 * (patches + 2 * layer)
    assert forward_flops(config) == 2 * (patches + 2 * layer + 10 * width)
    every_patch = 16 * width * 512
    masked = forward_flops(config, task="masked-patch-prediction")
    assert masked == 2 * (patches + 2 * layer + every_patch)


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "map"},
        {"position_embedding": "relative"},
        {"representation_size": 32},
        {"num_register_tokens": 4},
        {"image_size": (32, 64)},
        {"stem_blocks": [1, 1], "patch_size": 1, "stem_width": 32},
    ],
)
def test_every_variant_is_counted_as_it_is_built(settings):
    plain = forward_flops(VisionTransformerConfig(**TINY))
    assert forward_flops(VisionTransformerConfig(**{**TINY, **settings})) > plain


def test_training():
    config = VisionTransformerConfig(**TINY)
    assert FORWARDS_PER_STEP == 3
    assert training_flops(config, num_images=7) == 21 * forward_flops(config)
    masked = training_flops(config, num_images=1, task="masked-patch-prediction")
    assert masked == 3 * forward_flops(config, task="masked-patch-prediction")


def test_images_seen():
    epochs = {"num_train_epochs": 1.5, "total_train_batch_size": 4}
    assert images_seen(epochs, dataset_size=100) == 150
    assert images_seen({**epochs, "max_steps": -1}, dataset_size=100) == 150
    assert images_seen({**epochs, "max_steps": 10}, dataset_size=100) == 40


def test_a_task_that_there_is_not():
    with pytest.raises(ValueError, match="got task='finetune', allowed: image-classification"):
        forward_flops(VisionTransformerConfig(**TINY), task="finetune")


def test_training_counts_the_patches_that_are_left():
    tokens, width, mlp = 1 + 8, 32, 64
    patches = 16 * (3 * 8 * 8) * width  # the projection is of all of them
    layer = tokens * (4 * width * width + 2 * width * mlp) + 2 * tokens * tokens * width
    whole, half = (
        VisionTransformerConfig(**TINY, num_labels=10, patch_dropout_rate=rate) for rate in (0, 0.5)
    )
    assert forward_flops(half) == forward_flops(whole)
    assert forward_flops(half, in_training=True) == 2 * (patches + 2 * layer + 10 * width)
    assert training_flops(half, num_images=7) == 21 * forward_flops(half, in_training=True)
    dropped = VisionTransformerConfig(
        **TINY, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, drop_path_rate=0.1
    )
    assert forward_flops(dropped, in_training=True) == forward_flops(dropped)
