# SPDX-License-Identifier: Apache-2.0
"""Small models that nothing is left at its initial value in."""

import logging

import pytest
import torch
from transformers.utils import logging as transformers_logging

from vit_hf import VisionTransformerConfig

TINY = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small lose more to waiting threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_config():
    """Makes a configuration of 4x4 patches, width 32 and two layers, with any other settings."""
    return lambda **settings: VisionTransformerConfig(**{**TINY, **settings})


@pytest.fixture
def build(tiny_config):
    """Makes a seeded model in evaluation mode, with every parameter moved off its initial value."""

    def build_model(model_class, *, seed=0, **settings):
        torch.manual_seed(seed)
        model = model_class(tiny_config(**settings))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model.eval()

    return build_model


@pytest.fixture
def images():
    """Makes seeded images in [-1, 1]."""

    def make_images(batch=2, height=32, width=None, channels=3, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(batch, channels, height, width or height, generator=generator) * 2 - 1

    return make_images


@pytest.fixture
def log(caplog):
    """Collects what is logged through transformers' logger, at its warning level."""
    transformers_logging.enable_propagation()
    transformers_logging.set_verbosity_warning()
    logging.getLogger("transformers").setLevel(logging.WARNING)
    with caplog.at_level(logging.WARNING):
        yield caplog
    transformers_logging.disable_propagation()
