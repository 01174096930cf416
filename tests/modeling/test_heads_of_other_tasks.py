# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of one task opens for another: its head is left behind, a missing one is told."""

import pytest
import torch
import transformers

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)

SETTINGS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SETTINGS |= {"intermediate_size": 32, "image_size": 16, "patch_size": 8, "num_labels": 3}
CLASSES = (
    VisionTransformerModel,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
)
OWN = {  # what each has that no other has
    VisionTransformerModel: set(),
    VisionTransformerForImageClassification: {"classifier.weight", "classifier.bias"},
    VisionTransformerForMaskedPatchPrediction: {
        "vit.embeddings.mask_token",
        "prediction_head.weight",
        "prediction_head.bias",
    },
}


@pytest.mark.parametrize("saved", CLASSES)
@pytest.mark.parametrize("opened", CLASSES)
def test_every_task_opens_as_every_other(tmp_path, saved, opened):
    saved(VisionTransformerConfig(**SETTINGS)).save_pretrained(tmp_path)
    _, account = opened.from_pretrained(tmp_path, output_loading_info=True)
    assert not account["unexpected_keys"] and not account["mismatched_keys"]
    assert set(account["missing_keys"]) == (set() if saved is opened else OWN[opened])


def test_what_belongs_nowhere_is_still_told(tmp_path):
    model = VisionTransformerForImageClassification(VisionTransformerConfig(**SETTINGS))
    weights = {**model.state_dict(), "vit.layers.0.mlp.fc9.weight": torch.ones(2)}
    model.save_pretrained(tmp_path, state_dict=weights)
    transformers.logging.set_verbosity_error()
    try:
        _, account = type(model).from_pretrained(tmp_path, output_loading_info=True)
    finally:
        transformers.logging.set_verbosity_warning()
    assert set(account["unexpected_keys"]) == {"vit.layers.0.mlp.fc9.weight"}
