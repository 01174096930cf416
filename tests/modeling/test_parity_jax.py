# SPDX-License-Identifier: Apache-2.0
"""Forward parity with the authors' JAX code, on weights of theirs that nothing is zero in.

A few cases lie in `tests/fixtures/vit_jax`; the rest run where the folder that `VIT_JAX_FIXTURES`
names, or `../shared/fixtures/vit_jax`, is there.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification

pytestmark = pytest.mark.parity

OWN = Path(__file__).parents[1] / "fixtures" / "vit_jax"
ALL = Path(
    os.environ.get("VIT_JAX_FIXTURES", Path(__file__).parents[3] / "shared/fixtures/vit_jax")
)
FOLDER = ALL if ALL.is_dir() else OWN
CASES = sorted(path.name.removesuffix(".io.npz") for path in FOLDER.glob("*.io.npz"))
POOLINGS = {"token": "cls", "gap": "gap", "token_unpooled": "none", "unpooled": "none"}


def weights_file(description: dict) -> str:
    """Returns the name of the weights of a case, or of those that it starts from."""
    return description.get("weights") or description["pretrained"]


def read_case(name: str):
    """Returns the description, the reference outputs and the weights of a case."""
    description = json.loads((FOLDER / f"{name}.json").read_text())
    weights = np.load(FOLDER / weights_file(description))
    weights = {key.removeprefix("opt/target/"): weights[key] for key in weights.files}
    return description, np.load(FOLDER / f"{name}.io.npz"), weights


def config_of(description: dict, **settings) -> VisionTransformerConfig:
    """Returns our configuration of a case of theirs."""
    theirs = description["model_config"]
    stem = theirs.get("resnet")
    values = {
        "image_size": description["image_size"],
        "patch_size": theirs["patches"]["size"],
        "hidden_size": theirs["hidden_size"],
        "num_hidden_layers": theirs["transformer"]["num_layers"],
        "num_attention_heads": theirs["transformer"]["num_heads"],
        "intermediate_size": theirs["transformer"]["mlp_dim"],
        "hidden_act": "gelu_pytorch_tanh",
        "pooling": POOLINGS[theirs["classifier"]],
        "class_token": theirs["classifier"].startswith("token"),
        "representation_size": theirs["representation_size"],
        "stem_blocks": stem["num_layers"] if stem else None,
        "stem_width": int(64 * stem["width_factor"]) if stem else 64,
        "num_labels": theirs["num_classes"],
    }
    return VisionTransformerConfig(**{**values, **settings})


def our_weights(weights: dict, config: VisionTransformerConfig) -> dict[str, torch.Tensor]:
    """Returns the state dict of our classifier with the weights of theirs."""
    width = config.hidden_size
    ours = {}

    def put(name, key, *, transpose=True):
        array = weights[key]
        array = array.T if transpose and array.ndim == 2 else array
        ours[name] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))

    def put_norm(name, key):
        put(f"{name}.weight", f"{key}/scale")
        put(f"{name}.bias", f"{key}/bias")
        ours[f"{name}.weight"], ours[f"{name}.bias"] = (
            ours[f"{name}.{part}"].flatten() for part in ("weight", "bias")
        )

    def put_dense(name, key):
        put(f"{name}.weight", f"{key}/kernel")
        put(f"{name}.bias", f"{key}/bias")

    def put_conv(name, key):
        kernel = weights[f"{key}/kernel"].transpose(3, 2, 0, 1)
        ours[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))

    patches = "vit.embeddings.patch_embeddings"
    put_conv(f"{patches}.projection", "embedding")
    put(f"{patches}.projection.bias", "embedding/bias")
    if config.stem_blocks is not None:
        put_conv(f"{patches}.stem.conv", "conv_root")
        put_norm(f"{patches}.stem.norm", "gn_root")
        for stage, num_blocks in enumerate(config.stem_blocks):
            for block in range(num_blocks):
                unit = f"block{stage + 1}/unit{block + 1}"
                ours_block = f"{patches}.stem.stages.{stage}.{block}"
                for index in (1, 2, 3):
                    put_conv(f"{ours_block}.conv{index}", f"{unit}/conv{index}")
                    put_norm(f"{ours_block}.norm{index}", f"{unit}/gn{index}")
                if f"{unit}/conv_proj/kernel" in weights:
                    put_conv(f"{ours_block}.shortcut_conv", f"{unit}/conv_proj")
                    put_norm(f"{ours_block}.shortcut_norm", f"{unit}/gn_proj")
    if config.class_token:
        put("vit.embeddings.cls_token", "cls")
    put("vit.positions.0.table", "Transformer/posembed_input/pos_embedding")
    for index in range(config.num_hidden_layers):
        theirs, layer = f"Transformer/encoderblock_{index}", f"vit.layers.{index}"
        released = f"{theirs}/LayerNorm_2/scale" in weights
        attention, norm, mlp = (
            (1, 2, 3) if released else (0, 1, 0)
        )  # linen counts each kind of module on its own
        put_norm(f"{layer}.layernorm_before", f"{theirs}/LayerNorm_0")
        put_norm(f"{layer}.layernorm_after", f"{theirs}/LayerNorm_{norm}")
        for part in ("query", "key", "value", "out"):
            key = f"{theirs}/MultiHeadDotProductAttention_{attention}/{part}"
            kernel, ours_name = weights[f"{key}/kernel"], f"{layer}.attention.{part[0]}_proj"
            ours[f"{ours_name}.weight"] = torch.from_numpy(kernel.reshape(width, width).T.copy())
            ours[f"{ours_name}.bias"] = torch.from_numpy(weights[f"{key}/bias"].flatten())
        for index_dense, name in ((0, "fc1"), (1, "fc2")):
            put_dense(f"{layer}.mlp.{name}", f"{theirs}/MlpBlock_{mlp}/Dense_{index_dense}")
    put_norm("vit.layernorm", "Transformer/encoder_norm")
    if config.representation_size is not None:
        put_dense("vit.pooler.representation", "pre_logits")
    put_dense("classifier", "head")
    return ours


def as_pixels(images: np.ndarray) -> torch.Tensor:
    """Returns `(B, C, H, W)` in [-1, 1] of uint8 images `(B, H, W, C)`."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def build(name: str):
    """Returns our model of a case, at the size of its weights, its outputs and its description."""
    description, outputs, weights = read_case(name)
    settings = {}
    if "pos_embedding_old" in outputs.files:  # the case resizes them and puts in a new head
        source = json.loads((FOLDER / weights_file(description)).with_suffix(".json").read_text())
        settings["image_size"] = source["image_size"]
        weights["head/kernel"], weights["head/bias"] = outputs["head_kernel"], outputs["head_bias"]
    config = config_of(description, **settings)
    model = VisionTransformerForImageClassification(config)
    model.load_state_dict(our_weights(weights, config))
    return model.eval(), outputs, description


def tolerances(description: dict) -> tuple[float, float]:
    """Returns what is allowed on logits and on tokens; convolutions sum more terms."""
    return (2e-5, 1e-4) if "resnet" in description["model_config"] else (1e-5, 5e-5)


def assert_close(ours: torch.Tensor, theirs: np.ndarray, *, atol: float):
    """Asserts the same shape, and values within `atol`."""
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=atol, rtol=0)


def test_cases_are_there():
    assert len(CASES) == (20 if FOLDER == ALL else 3)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_forward(name):
    model, outputs, description = build(name)
    on_logits, on_tokens = tolerances(description)
    result = model(as_pixels(outputs["images"]), output_hidden_states=True)
    assert_close(result.logits, outputs["logits"], atol=on_logits)
    encoded = model.vit(as_pixels(outputs["images"]))
    tokens = encoded.last_hidden_state
    if description["model_config"]["classifier"] == "unpooled":
        assert model.config.class_token is False
    assert_close(tokens, outputs["encoded"], atol=on_tokens)
    assert_close(encoded.pooler_output, outputs["pre_logits"], atol=on_logits)
    assert_close(result.hidden_states[0], outputs["tokens_in"], atol=on_tokens)
    assert len(result.hidden_states) == model.config.num_hidden_layers + 1
    for index in range(model.config.num_hidden_layers - 1):
        if f"block{index:02}" in outputs.files:
            block = outputs[f"block{index:02}"]
            assert_close(result.hidden_states[index + 1], block, atol=on_tokens)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("ft_")])
@torch.no_grad()
def test_forward_at_the_new_size_after_set_image_size(name):
    model, outputs, description = build(name)
    images = as_pixels(outputs["images"])
    before = model(images).logits
    model.set_image_size(tuple(images.shape[2:]))
    assert_close(model.vit.positions[0].table, outputs["pos_embedding_new"], atol=1e-6)
    after = model(images).logits
    assert_close(after, outputs["logits"], atol=tolerances(description)[0])
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("hybrid")])
@torch.no_grad()
def test_stem(name):
    model, outputs, _ = build(name)
    stem = model.vit.embeddings.patch_embeddings.stem
    image = as_pixels(outputs["images"])[:1]
    seen = []
    hooks = [stem.norm.register_forward_hook(lambda *args: seen.append(args[-1]))]
    hooks += [
        stage.register_forward_hook(lambda *args: seen.append(args[-1])) for stage in stem.stages
    ]
    stem(image)
    names = ["gn_root_img0"] + [f"resnet_block{i + 1}_img0" for i in range(len(stem.stages))]
    for features, key in zip(seen, names, strict=True):
        assert_close(features.permute(0, 2, 3, 1), outputs[key], atol=1e-4)
    for hook in hooks:
        hook.remove()
