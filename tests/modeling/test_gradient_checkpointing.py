# SPDX-License-Identifier: Apache-2.0
"""Gradient checkpointing: by layers as transformers has it, and by segments of layers."""

import pytest
import torch

from vit_hf import VisionTransformerForImageClassification as Classifier

DEPTH = 9


@pytest.fixture
def model(build):
    """A deep one, in which everything that is drawn is drawn."""
    return build(
        Classifier,
        num_hidden_layers=DEPTH,
        hidden_dropout_prob=0.1,
        drop_path_rate=0.2,
        patch_dropout_rate=0.5,
    ).train()


def gradients(model, pixels, *, seed=0):
    """Returns the gradients of a seeded step, and how many layer inputs are kept at most."""
    torch.manual_seed(seed)
    model.zero_grad()
    tokens, kept, most = (2, 9, 32), 0, 0  # (B, T, D) behind patch dropout

    class Kept:
        """A tensor that the backward pass holds, for as long as it does."""

        def __init__(self, tensor):
            nonlocal kept, most
            self.tensor, self.counts = tensor, tuple(tensor.shape) == tokens
            kept += self.counts
            most = max(most, kept)

        def __del__(self):
            nonlocal kept
            kept -= self.counts

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda held: held.tensor):
        model(pixels, labels=torch.tensor([0, 1])).loss.backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return found, most


def test_segments_change_nothing_and_keep_less(model, images):
    expected, everything = gradients(model, images())
    model.gradient_checkpointing_enable({"use_reentrant": False})
    by_layer, of_layers = gradients(model, images())
    model.gradient_checkpointing_enable({"layers_per_segment": 3})
    by_segment, of_segments = gradients(model, images())
    for before, one, other in zip(expected, by_layer, by_segment, strict=True):
        assert torch.equal(before, one) and torch.equal(before, other)
    assert of_segments < of_layers < everything
    model.gradient_checkpointing_disable()
    assert gradients(model, images())[1] == everything


@pytest.mark.parametrize("layers_per_segment", [1, 2, DEPTH, 100])
def test_any_size_of_segments(model, images, layers_per_segment):
    expected, _ = gradients(model, images())
    model.gradient_checkpointing_enable({"layers_per_segment": layers_per_segment})
    found, _ = gradients(model, images())
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_hidden_states_and_maps_are_those_of_every_layer(model, images):
    model.gradient_checkpointing_enable({"layers_per_segment": 4})
    model.set_attn_implementation("eager")
    outputs = model(images(), output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == DEPTH + 1 and len(outputs.attentions) == DEPTH


def test_what_makes_no_sense_is_refused(model):
    with pytest.raises(ValueError, match=r"got layers_per_segment=0, allowed: 1 and more.*here 3"):
        model.gradient_checkpointing_enable({"layers_per_segment": 0})
    with pytest.raises(ValueError, match="allowed: use_reentrant=False"):
        model.gradient_checkpointing_enable({"layers_per_segment": 3, "use_reentrant": True})
