# SPDX-License-Identifier: Apache-2.0
"""Ways to run: compiled, exported, checkpointed, in half precision, placed by device_map."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode
from transformers import BatchFeature

from vit_hf import VisionTransformerForImageClassification as Classifier
from vit_hf import VisionTransformerForMaskedPatchPrediction as Predictor
from vit_hf.modeling.positions import POSITIONS

# Every position embedding, placement, pooling and stem, and the other parts.
PARTS = {
    "paper": {},
    "learned_2d_gap": {"position_embedding": "learned_2d", "pooling": "gap"},
    "relative_map": {"position_embedding": "relative", "pooling": "map", "num_register_tokens": 1},
    "sincos_none": {"position_embedding": "sincos_2d", "pooling": "none", "final_norm": "pooled"},
    "no_position": {"position_embedding": "none", "representation_size": 16},
    "every_layer": {"position_embedding_placement": "every_layer", "qk_norm": True},
    "shared": {"position_embedding_placement": "every_layer_shared", "pre_encoder_norm": True},
    "root_stem": {"stem_blocks": [], "patch_size": 2, "layer_scale_init_value": 0.1},
    "resnet_stem": {"stem_blocks": [1, 1], "stem_width": 32, "patch_size": 1},
}
parts = pytest.mark.parametrize("part", PARTS)
quick_parts = pytest.mark.parametrize(
    "part",
    [
        name if name in ("paper", "relative_map") else pytest.param(name, marks=pytest.mark.slow)
        for name in PARTS
    ],
)


def gradients(model, **inputs) -> list[torch.Tensor]:
    """Returns the gradients of a loss on the outputs."""
    model.zero_grad()
    outputs = model(**inputs)
    loss = outputs.logits.float().square().mean() if outputs.loss is None else outputs.loss
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


@quick_parts
def test_compiles_whole_and_once(build, images, part):
    torch._dynamo.reset()
    model = build(Classifier, **PARTS[part])
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend=backend)
    for seed in range(3):
        pixels = images(seed=seed)
        torch.testing.assert_close(compiled(pixels).logits, model(pixels).logits)
    assert len(graphs) == 1


@pytest.mark.parametrize("target", ["mean_color", "raw_pixels"])
def test_the_masked_patch_predictor_compiles_whole_and_once(build, images, target):
    torch._dynamo.reset()
    model, graphs = build(Predictor, prediction_target=target).train(), []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for seed in range(3):
        mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(seed)) < 0.5
        codes = torch.full((2, 16), seed - 1)
        loss = compiled(images(seed=seed), bool_masked_pos=mask, patch_replacement=codes).loss
        loss.backward()
        assert loss.isfinite()
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_inductor_trains_without_a_recompile(build, images, loss):
    torch._dynamo.reset()
    rates = {"drop_path_rate": 0.1, "hidden_dropout_prob": 0.1, "patch_dropout_rate": 0.5}
    model = build(Classifier, classification_loss=loss, **rates)
    compiled = torch.compile(model.train(), fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(3):
            compiled(images(seed=seed), labels=torch.tensor([seed % 2, 1])).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@quick_parts
@torch.no_grad()
def test_exports(build, images, part):
    model = build(Classifier, **PARTS[part])
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(
        model, (images(3),), dynamic_shapes={"pixel_values": {0: batch}}, strict=False
    ).module()
    for size in (3, 1, 5):
        pixels = images(size, seed=size)
        ours = exported(pixels)
        torch.testing.assert_close(ours["logits"], model(pixels).logits, atol=1e-6, rtol=1e-5)


@parts
def test_gradient_checkpointing_changes_nothing(build, images, part):
    settings = {**PARTS[part], "hidden_dropout_prob": 0.1, "drop_path_rate": 0.1}
    model = build(Classifier, **settings).train()
    torch.manual_seed(0)
    expected = gradients(model, pixel_values=images())
    model.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in model.vit.layers)
    torch.manual_seed(0)
    for before, after in zip(expected, gradients(model, pixel_values=images()), strict=True):
        torch.testing.assert_close(before, after)


@parts
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite(build, images, part, dtype):
    model = build(Classifier, **PARTS[part]).train().to(dtype)
    outputs = model(images())
    assert outputs.logits.dtype == dtype
    labels = torch.zeros(outputs.logits.shape[:-1], dtype=torch.long)
    for gradient in gradients(model, pixel_values=images().to(dtype), labels=labels):
        assert gradient.isfinite().all() and gradient.dtype == dtype
    exact = build(Classifier, **PARTS[part])(images()).logits
    torch.testing.assert_close(outputs.logits.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("target", ["mean_color", "downsampled_color", "raw_pixels"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masked_patch_prediction_in_half_precision(build, images, target, dtype):
    model = build(Predictor, prediction_target=target).train().to(dtype)
    inputs = {"pixel_values": images().to(dtype), "bool_masked_pos": torch.ones(2, 16)}
    assert model(**inputs).loss.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in gradients(model, **inputs))


@pytest.mark.parametrize("part", ["paper", "relative_map", "resnet_stem"])
def test_autocast(build, images, part):
    model = build(Classifier, **PARTS[part]).train()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(model, pixel_values=images(), labels=torch.tensor([0, 1]))
    assert all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("pooling", ["cls", "gap"])
def test_what_layers_add_up_to_is_kept_in_full_under_autocast(build, images, kind, pooling):
    model, seen = build(Classifier, position_embedding=kind, pooling=pooling), []
    model.vit.layers[0].register_forward_pre_hook(lambda layer, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(images())
    assert seen == [torch.float32]


@parts
@torch.no_grad()
def test_device_map_and_offload(build, images, tmp_path, part):
    model = build(Classifier, **PARTS[part])
    expected = model(images()).logits
    model.save_pretrained(tmp_path)
    placed = Classifier.from_pretrained(tmp_path, device_map="auto")
    assert {parameter.device for parameter in placed.parameters()} == {placed.device}
    torch.testing.assert_close(placed(images().to(placed.device)).logits.cpu(), expected)
    model = build(Classifier, **PARTS[part])
    cpu_offload(model, execution_device=torch.device("cpu"))  # weights come as each module runs
    assert model.vit.layers[0].mlp.fc1.weight.is_meta
    torch.testing.assert_close(model(images()).logits, expected)


def test_a_forward_is_a_function(build, images):
    model = build(Classifier)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    logits = model(images()).logits
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(model(images(1)).logits, logits[:1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_remainder_is_not_seen_and_said_once(build, images, log):
    model = build(Classifier)
    pixels = images(height=37, width=42)
    logits = model(pixels).logits
    pixels[:, :, 32:], pixels[:, :, :, 40:] = 0.3, 0.3
    assert torch.equal(model(pixels).logits, logits)
    said = [record.getMessage() for record in log.records if "not seen" in record.getMessage()]
    assert len(said) == 1 and "5 pixel rows and 2 pixel columns" in said[0]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 1, 32, 32), "num_channels=3"),
        ((3, 32, 32), r"\(batch, 3, height, width\)"),
        ((2, 3, 7, 32), "7x32 pixels, smaller than one patch of 8x8.*32x32"),
    ],
)
def test_images_that_fit_nothing(build, shape, words):
    for model_class in (Classifier, Predictor):
        with pytest.raises(ValueError, match=words):
            build(model_class)(torch.zeros(shape))


@pytest.mark.parametrize("model_class", [Classifier, Predictor])
def test_what_is_no_tensor_is_named(build, images, model_class):
    inputs = BatchFeature({"pixel_values": images()})
    for given in (inputs, images().numpy(), list(images()), None):
        named = rf"the type {type(given).__name__}, allowed: a tensor.*model\(\*\*processor"
        with pytest.raises(TypeError, match=named):
            build(model_class)(given)
    build(model_class)(**inputs)


@pytest.mark.parametrize("model_class", [Classifier, Predictor])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_pixels_that_are_not_normalised_are_named(build, model_class, dtype):
    with pytest.raises(TypeError, match=rf"{dtype}, allowed: floats .*the image processor"):
        build(model_class)(torch.zeros(2, 3, 32, 32, dtype=dtype))


@pytest.mark.parametrize("size", [(2, 2), (5, 5), (8, 7)])
def test_images_smaller_than_a_patch_of_a_hybrid(build, tiny_config, size):
    stem = {"stem_blocks": [1, 1], "stem_width": 32, "patch_size": 1}  # 8x8 pixels a patch
    model = build(Classifier, **stem)
    with pytest.raises(ValueError, match=r"smaller than one patch of 8x8"):
        model(torch.zeros(2, 3, *size))
    assert model(torch.zeros(2, 3, 8, 9)).logits.shape == (2, 2)
    with pytest.raises(ValueError, match="no patch: a patch stands for 8x8 pixels"):
        tiny_config(**stem, image_size=size)


@pytest.mark.parametrize("model_class", [Classifier, Predictor])
def test_tuples_in_place_of_outputs(build, images, model_class):
    logits = build(model_class)(images()).logits
    assert torch.equal(build(model_class)(images(), return_dict=False)[0], logits)
    settled = build(model_class, return_dict=False)
    assert torch.equal(settled(images())[0], logits) and isinstance(settled(images()), tuple)
    assert torch.equal(settled(images(), return_dict=True).logits, logits)


def of_stacked_parameters(model, pixels):
    """Returns the logits of one model for each of two sets of parameters."""
    stacked = {name: torch.stack([each, each]) for name, each in model.named_parameters()}

    def logits(parameters):
        return torch.func.functional_call(model, parameters, (pixels,)).logits

    return torch.func.vmap(logits)(stacked)[1]


FIRST_CALLS = {
    "vmap": of_stacked_parameters,
    "make_fx": lambda model, pixels: make_fx(lambda images: model(images).logits)(pixels)(pixels),
    "torch.jit.trace": lambda model, pixels: torch.jit.trace(model, (pixels,), strict=False)(
        pixels
    )["logits"],
    "quantize_dynamic": lambda model, pixels: (
        torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})(pixels).logits
    ),
}


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", FIRST_CALLS)
def test_the_first_call_may_be_traced(build, images, name):
    model, pixels = build(Classifier).eval(), images()
    expected = copy.deepcopy(model)(pixels).logits
    assert not model._head_is_checked
    found = FIRST_CALLS[name](model, pixels)
    tolerance = 0.05 if name == "quantize_dynamic" else 1e-5
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-4)


@pytest.mark.parametrize("model_class", [Classifier, Predictor])
def test_gradients_of_single_images_are_had_at_once(build, images, model_class):
    """By the model's own loss, whose checks need numbers and are left to plain calls."""
    model, pixels = build(model_class), images(3)
    what = {Classifier: "labels", Predictor: "bool_masked_pos"}[model_class]
    target = {"labels": torch.tensor([1, 0, 1]), "bool_masked_pos": torch.eye(3, 16).bool()}[what]
    parameters = dict(model.named_parameters())

    def loss(parameters, pixels, target):
        inputs = {"pixel_values": pixels[None], what: target[None]}
        return torch.func.functional_call(model, parameters, kwargs=inputs, args=()).loss

    found = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, pixels, target)
    for index in range(3):
        image = {"pixel_values": pixels[index, None], what: target[index, None]}
        for gradient, name in zip(gradients(model, **image), parameters, strict=True):
            expected = torch.zeros_like(parameters[name]) if gradient is None else gradient
            torch.testing.assert_close(found[name][index], expected, atol=1e-5, rtol=1e-3)


def test_a_counter_of_operations_uses_up_no_check(build, images):
    predictor, masks = build(Predictor), torch.ones(2, 16)
    with FlopCounterMode(display=False):
        predictor(images() * 2, masks)
    with pytest.raises(ValueError, match=r"needs them in \[-1, 1\]"):
        predictor(images() * 2, masks)
