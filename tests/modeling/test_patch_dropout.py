# SPDX-License-Identifier: Apache-2.0
"""Patch dropout: some of the patches, with their own positions, and nothing outside training."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vit_hf import VisionTransformerForImageClassification as Classifier
from vit_hf import VisionTransformerForMaskedPatchPrediction as Predictor
from vit_hf.modeling.patch_dropout import PatchDropout


def kept(config, tokens, *, seed=0):
    """Returns the tokens that a module in training leaves."""
    torch.manual_seed(seed)
    return PatchDropout(config).train()(tokens)


@pytest.mark.parametrize(
    "rate, num_kept", [(0.25, 12), (0.5, 8), (0.53, 8), (0.72, 4), (0.999, 1), (0, 16)]
)
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


def test_patches_keep_their_positions(build, images):
    model = build(Classifier, patch_dropout_rate=0.5).vit.train()
    pixels = images()
    seen = []
    model.pre_layernorm.register_forward_hook(lambda module, args, output: seen.append(output))
    model(pixels)
    model.eval()
    model(pixels)
    some, every = seen
    assert some.shape[1] == 9 and every.shape[1] == 17
    for image in range(2):
        differences = (some[image, :, None] - every[image]).abs().amax(-1)  # (9, 17)
        assert (differences.amin(1) == 0).all()


@pytest.mark.parametrize("pooling", ["cls", "gap", "map"])
def test_outside_training_nothing_changes(build, images, pooling):
    with_it, without = (
        build(Classifier, pooling=pooling, patch_dropout_rate=rate) for rate in (0.5, 0)
    )
    assert torch.equal(with_it(images()).logits, without(images()).logits)
    with_it.train()(images()).logits.sum().backward()
    assert all(each.grad is not None for each in with_it.parameters())


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
            flops["VisionTransformerForImageClassification.vit.layers.1.mlp"].values()
        )
    assert counted[0.5] / counted[0] == 129 / 257


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


def test_masked_patch_prediction_refuses_it(tiny_config, build, tmp_path):
    with pytest.raises(ValueError, match=r"patch_dropout_rate=0\.5 for masked patch prediction"):
        Predictor(tiny_config(patch_dropout_rate=0.5))
    build(Predictor).save_pretrained(tmp_path)
    classifier = Classifier.from_pretrained(tmp_path, patch_dropout_rate=0.5, num_labels=3)
    assert classifier.vit.patch_dropout.rate == 0.5
    classifier.save_pretrained(tmp_path / "classifier")
    assert Predictor.from_pretrained(tmp_path / "classifier", patch_dropout_rate=0)
