# SPDX-License-Identifier: Apache-2.0
"""A small checkpoint, and the photographs that graphs are compared on."""

import pytest
import torch
from transformers import ViTImageProcessorPil

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.deployment.real_images import photographs

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_labels": 5}
SMALL |= {"intermediate_size": 64, "patch_size": 8}
CLASSES = ["ant", "bee", "cat", "dog", "elk"]


def make_checkpoint(folder, *, processor: dict | None = None, **settings):
    """Writes an untrained checkpoint whose head tells images apart, and its processor."""
    torch.manual_seed(0)
    settings = {"id2label": dict(enumerate(CLASSES))} | settings
    config = VisionTransformerConfig(**{**SMALL, **settings})
    model = VisionTransformerForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(folder)
    height, width = config.image_hw
    how = {"size": {"height": height, "width": width}} | (processor or {})
    ViTImageProcessorPil(**how).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A grid that is not square, pooled by mean, with registers and named classes."""
    return make_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "small",
        image_size=(32, 48),
        pooling="gap",
        num_register_tokens=2,
    )


@pytest.fixture(scope="session")
def pictures():
    """Crops of photographs, in many sizes."""
    return photographs()
