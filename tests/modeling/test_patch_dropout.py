# SPDX-License-Identifier: Apache-2.0
"""Patch dropout: some of the patches, with their own positions, and nothing outside training."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageClassification

from vit_hf import VisionTransformerForImageClassification as Classifier
from vit_hf import VisionTransformerForMaskedPatchPrediction as Predictor
from vit_hf.converters import load_checkpoint
from vit_hf.modeling.patch_dropout import PatchDropout


def kept(config, tokens, *, seed=0):
    """Returns the tokens that a module in training leaves."""
    torch.manual_seed(seed)
    return PatchDropout(config).train()(tokens)


@pytest.mark.parametrize(
    "rate, num_kept",
    [
        (0.25, 12), (0.5, 8), (0.53, 8), (0.72, 4), (0.999, 1), (0, 16),
        (0.53125, 8), (0.59375, 6),  # of 7.5 and 6.5
    ],
)  # fmt: skip
def test_keeps_so_many_patches_and_every_prefix_token(tiny_config, rate, num_kept):
    config = tiny_config(patch_dropout_rate=rate, num_register_tokens=2)
    tokens = torch.arange(3 * 19.0).reshape(3, 19, 1).expand(-1, -1, 32)  # each is its number
    left = kept(config, tokens)
    assert left.shape == (3, 3 + num_kept, 32)
    assert torch.equal(left[:, :3], tokens[:, :3])
    for image in range(3):
        numbers = left[image, 3:, 0].tolist()
        assert len(set(numbers)) == num_kept and set(numbers) <= set(tokens[image, 3:, 0].tolist())


def test_each_image_and_each_seed_has_its_own(tiny_config):
    config = tiny_config(patch_dropout_rate=0.5)
    tokens = torch.arange(17.0)[None, :, None].expand(2, -1, 32)
    first, again, other = (kept(config, tokens, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first.sort(1).values, other.sort(1).values)
    assert not torch.equal(first[0].sort(0).values, first[1].sort(0).values)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"position_embedding": "learned_2d"},
        {"position_embedding": "sincos_2d", "num_register_tokens": 2},
    ],
)
def test_patches_keep_their_positions(build, images, settings):
    model = build(Classifier, patch_dropout_rate=0.5, **settings).vit.train()
    num_prefix = model.config.num_prefix_tokens
    # Of one colour, so that patches differ by their positions alone.
    pixels = torch.full_like(images(), 0.5)
    seen = []
    model.pre_layernorm.register_forward_hook(lambda module, args, output: seen.append(output))
    model(pixels)
    model.eval()
    model(pixels)
    some, every = seen
    assert some.shape[1] == num_prefix + 8 and every.shape[1] == num_prefix + 16
    assert torch.equal(some[:, :num_prefix], every[:, :num_prefix])
    for image in range(2):
        is_same = (some[image, :, None] == every[image]).all(-1)  # (P + 8, P + 16)
        assert (is_same.sum(1) == 1).all() and (is_same.sum(0) <= 1).all()


@pytest.mark.parametrize("pooling", ["cls", "gap", "map"])
def test_gradients_reach_what_was_kept_alone(build, images, pooling):
    model = build(Classifier, pooling=pooling, class_token=True, patch_dropout_rate=0.75).train()
    pixels = images(1).requires_grad_()
    model(pixels).logits.square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())
    has_gradient = model.vit.positions[0].table.grad[0].any(1)  # (17,)
    assert has_gradient[0]  # the class token's position
    of_patches = pixels.grad.unfold(2, 8, 8).unfold(3, 8, 8).abs().sum((0, 1, 4, 5)).flatten()
    assert torch.equal(of_patches > 0, has_gradient[1:]) and has_gradient[1:].sum() == 4


@pytest.mark.parametrize("pooling", ["cls", "gap", "map"])
def test_outside_training_nothing_changes(build, images, pooling):
    with_it, without = (
        build(Classifier, pooling=pooling, patch_dropout_rate=rate) for rate in (0.5, 0)
    )
    state = torch.get_rng_state()
    assert torch.equal(with_it(images()).logits, without(images()).logits)
    assert torch.equal(torch.get_rng_state(), state)
    with_it.train()(images())
    assert torch.equal(with_it.eval()(images()).logits, without(images()).logits)


@pytest.mark.parametrize("pooling", ["cls", "gap", "map"])
def test_outputs_are_of_the_patches_that_are_left(build, images, pooling):
    model = build(Classifier, pooling=pooling, class_token=True, patch_dropout_rate=0.5).train()
    outputs = model.vit(images(), output_hidden_states=True, output_attentions=True)
    assert outputs.last_hidden_state.shape == (2, 9, 32) and outputs.pooler_output.shape == (2, 32)
    assert [tuple(states.shape) for states in outputs.hidden_states] == 3 * [(2, 9, 32)]
    assert [tuple(maps.shape) for maps in outputs.attentions] == 2 * [(2, 4, 9, 9)]


def gradients(model, **inputs) -> list[torch.Tensor]:
    """Returns the gradients of a seeded step."""
    torch.manual_seed(0)
    model.zero_grad()
    model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    return [parameter.grad for parameter in model.parameters()]


def test_gradient_checkpointing_changes_nothing(build, images):
    model = build(Classifier, patch_dropout_rate=0.5, hidden_dropout_prob=0.1).train()
    expected = gradients(model, pixel_values=images())
    model.gradient_checkpointing_enable()
    for before, after in zip(expected, gradients(model, pixel_values=images()), strict=True):
        torch.testing.assert_close(before, after)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(build, images, dtype):
    model = build(Classifier, patch_dropout_rate=0.5).train()
    exact = gradients(model, pixel_values=images())
    with torch.autocast("cpu", dtype):
        cast = gradients(model, pixel_values=images())
    half = gradients(model.to(dtype), pixel_values=images().to(dtype))
    assert all(gradient.dtype == dtype for gradient in half)
    norm = torch.cat([gradient.flatten() for gradient in exact]).norm()
    for found in (cast, half):  # of the same patches
        pairs = zip(found, exact, strict=True)
        difference = torch.cat([(one.float() - other).flatten() for one, other in pairs])
        assert difference.norm() < 0.05 * norm


def test_so_much_less_is_computed(tiny_config):
    counted = {}
    for rate in (0, 0.5):
        with torch.device("meta"):
            model = Classifier(tiny_config(patch_dropout_rate=rate, image_size=128)).train()
            pixels = torch.empty(1, 3, 128, 128)
        with FlopCounterMode(display=False) as counter:
            model(pixels)
        flops = counter.get_flop_counts()
        # The projection sees every patch; the layers those that are left, and the class token.
        assert sum(flops["VisionTransformerForImageClassification.vit.embeddings"].values()) == (
            2 * 256 * 192 * 32
        )
        counted[rate] = sum(
            flops["VisionTransformerForImageClassification.vit.layers.0.mlp"].values()
        )
    assert counted[0.5] / counted[0] == 129 / 257


@pytest.mark.slow
def test_compiles_whole_and_once(build, images):
    torch._dynamo.reset()
    model = build(Classifier, patch_dropout_rate=0.5).train()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend=backend)
    for seed in range(3):
        torch.manual_seed(seed)
        expected = model(images(seed=seed)).logits
        torch.manual_seed(seed)
        torch.testing.assert_close(compiled(images(seed=seed)).logits, expected)
    assert len(graphs) == 1
    for size in (48, 64, 40):  # then once for all sizes
        torch.manual_seed(0)
        expected = model(images(height=size)).logits
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(images(height=size)).logits, expected)
    assert len(graphs) == 2


def test_masked_patch_prediction_refuses_it(tiny_config, build, tmp_path):
    with pytest.raises(ValueError, match=r"patch_dropout_rate=0\.5 for masked patch prediction"):
        Predictor(tiny_config(patch_dropout_rate=0.5))
    build(Predictor).save_pretrained(tmp_path)
    classifier = Classifier.from_pretrained(tmp_path, patch_dropout_rate=0.5, num_labels=3)
    assert classifier.vit.patch_dropout.rate == 0.5
    classifier.save_pretrained(tmp_path / "classifier")
    assert Classifier.from_pretrained(tmp_path / "classifier").vit.patch_dropout.rate == 0.5
    with pytest.raises(ValueError, match=r"Set patch_dropout_rate=0"):
        Predictor.from_pretrained(tmp_path / "classifier")
    assert Predictor.from_pretrained(tmp_path / "classifier", patch_dropout_rate=0)
    for make in (AutoModelForImageClassification.from_pretrained, load_classifier):
        assert make(tmp_path, patch_dropout_rate=0.25).vit.patch_dropout.rate == 0.25


def load_classifier(path, **settings):
    return load_checkpoint(path, task="image-classification", num_labels=2, **settings)
