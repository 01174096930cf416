# SPDX-License-Identifier: Apache-2.0
"""What nobody reads behind the last layer is not computed, and nothing else changes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vit_hf import VisionTransformerForImageClassification as Classifier
from vit_hf import VisionTransformerModel

DEPTH, NUM_TOKENS = 3, 17
WIDTH, MLP = 32, 64  # as in conftest
VARIANTS = {
    "plain": {},
    "registers": {"num_register_tokens": 2},
    "tanh": {"representation_size": 16, "final_norm": "pooled"},
    "scaled": {"layer_scale_init_value": 0.5, "qk_norm": True, "pre_encoder_norm": True},
    "patch-dropout": {"patch_dropout_rate": 0.5},
    "every-layer": {"position_embedding_placement": "every_layer"},
    "relative": {"position_embedding": "relative", "position_embedding_placement": "every_layer"},
    "gap": {"pooling": "gap"},
}


def outcome(model, pixels, **kwargs):
    """Returns the logits and the gradients of every parameter of a seeded training step."""
    torch.manual_seed(0)
    model.zero_grad()
    outputs = model(pixels, labels=torch.tensor([0, 1]), **kwargs)
    outputs.loss.backward()
    return outputs.logits, {name: each.grad for name, each in model.named_parameters()}


def mlp_flops(model, **kwargs):
    """Counts the operations of the MLP of each layer in one forward pass of one image."""
    model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32), **kwargs)
    flops, name = counter.get_flop_counts(), type(model).__name__
    vit = f"{name}.vit" if isinstance(model, Classifier) else name
    return [sum(flops[f"{vit}.layers.{layer}.mlp"].values()) for layer in range(DEPTH)]


def of_tokens(num_tokens):
    return 2 * 2 * num_tokens * WIDTH * MLP


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_gradients_are_those_of_all_tokens(build, images, variant, backend):
    settings = {"num_hidden_layers": DEPTH, **VARIANTS[variant]}
    model = build(Classifier, attn_implementation=backend, **settings).train()
    logits, gradients = outcome(model, images())
    expected, all_gradients = outcome(model, images(), output_hidden_states=True)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in all_gradients.items():
        assert gradient is not None and gradients[name] is not None, name
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kwargs", [{"use_reentrant": False}, {"layers_per_segment": 2}])
def test_with_gradient_checkpointing_too(build, images, kwargs):
    model = build(Classifier, num_hidden_layers=DEPTH).train()
    logits, gradients = outcome(model, images())
    model.gradient_checkpointing_enable(kwargs)
    again, checkpointed = outcome(model, images())
    assert torch.equal(logits, again)
    assert all(torch.equal(gradients[name], checkpointed[name]) for name in gradients)


def test_a_class_token_alone_goes_through_the_last_mlp(build):
    model = build(Classifier, num_hidden_layers=DEPTH)
    assert mlp_flops(model) == [of_tokens(NUM_TOKENS), of_tokens(NUM_TOKENS), of_tokens(1)]
    encoder = model.vit
    assert mlp_flops(encoder, pooled_only=True)[-1] == of_tokens(1)
    assert mlp_flops(encoder) == [of_tokens(NUM_TOKENS)] * DEPTH


@pytest.mark.parametrize(
    "settings, num_tokens",
    [
        ({"pooling": "gap", "class_token": False}, 16),
        ({"pooling": "map", "class_token": False}, 16),
        ({"pooling": "none"}, 16),
        ({"position_embedding": "relative"}, 17),
    ],
)
def test_all_tokens_where_all_are_read(build, settings, num_tokens):
    model = build(Classifier, num_hidden_layers=DEPTH, **settings)
    assert mlp_flops(model) == [of_tokens(num_tokens)] * DEPTH


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_all_tokens_where_someone_asks_for_them(build, images, name):
    model = build(Classifier, num_hidden_layers=DEPTH, attn_implementation="eager")
    assert mlp_flops(model, **{name: True})[-1] == of_tokens(NUM_TOKENS)
    setattr(model.config, name, True)
    assert mlp_flops(model)[-1] == of_tokens(NUM_TOKENS)
    outputs = model(images())
    assert outputs[name.removeprefix("output_")][-1].shape[-2] == NUM_TOKENS


@pytest.mark.parametrize(
    "place", ["layers.2", "layers.2.mlp.fc2", "layers.2.attention", "layernorm"]
)
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
def test_all_tokens_where_a_hook_looks(build, images, place, kind):
    model = build(Classifier, num_hidden_layers=DEPTH)
    seen = []
    register = getattr(model.vit.get_submodule(place), f"register_{kind}_hook")
    hook = register(lambda module, *tensors: seen.append(tensors[-1]))
    model(images()).logits.sum().backward()
    (tensor,) = [tensor[0] if isinstance(tensor, tuple) else tensor for tensor in seen]
    assert tensor.shape[:2] == (2, NUM_TOKENS)
    hook.remove()
    assert mlp_flops(model)[-1] == of_tokens(1)


def test_the_encoder_leaves_its_tokens_out_on_request(build, images):
    model = build(VisionTransformerModel)
    outputs, pooled = model(images()), model(images(), pooled_only=True)
    assert outputs.last_hidden_state.shape == (2, NUM_TOKENS, WIDTH)
    assert pooled.last_hidden_state is None
    torch.testing.assert_close(pooled.pooler_output, outputs.pooler_output, atol=1e-5, rtol=0)


def test_an_encoder_that_does_not_pool_says_so(tiny_config, images):
    model = VisionTransformerModel(tiny_config(), add_pooling_layer=False)
    with pytest.raises(ValueError, match="add_pooling_layer=True"):
        model(images(), pooled_only=True)


def test_packed_and_compiled_models_do_the_same(build, images):
    model = build(Classifier, num_hidden_layers=DEPTH)
    with torch.no_grad():
        expected = model(images(), output_hidden_states=True).logits
        compiled = torch.compile(model, backend="eager", fullgraph=True)(images()).logits
        model.pack_weights()
        packed = model(images()).logits
    for logits in (compiled, packed):
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
