# SPDX-License-Identifier: Apache-2.0
"""Training in float8: which layers it takes, that nothing else changes, and where it is refused."""

import copy

import pytest
import torch

from vit_hf import VisionTransformerConfig
from vit_hf import VisionTransformerForImageClassification as Classifier
from vit_hf.training import VisionTransformerTrainingArguments, float8
from vit_hf.training.float8 import convert_to_float8

pytest.importorskip("torchao")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16}
HAS_FLOAT8 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)


def made(intermediate_size=64):
    torch.manual_seed(0)
    config = VisionTransformerConfig(
        **SIZES, intermediate_size=intermediate_size, patch_size=8, num_labels=3
    )
    model = Classifier(config).train()
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    return model


def loss_of(model):
    """The loss of a batch of 3 images, 15 tokens, under autocast."""
    torch.manual_seed(1)
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        return model(images, labels=torch.tensor([0, 1, 2])).loss


def test_the_dense_layers_of_the_encoder_alone_become_float8():
    model = made(intermediate_size=72)  # no multiple of 16
    keys = list(model.state_dict())
    convert_to_float8(model, emulate=True)
    converted = {
        name.removeprefix("vit.layers.")
        for name, module in model.named_modules()
        if type(module).__name__ == "Float8Linear"
    }
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert converted == {f"{layer}.attention.{name}" for layer in (0, 1) for name in names}
    assert list(model.state_dict()) == keys


def test_losses_and_gradients_are_those_of_bfloat16_but_for_rounding(tmp_path):
    model = made()
    rounded = copy.deepcopy(model)
    convert_to_float8(rounded, emulate=True)
    losses = [loss_of(one) for one in (model, rounded)]
    for loss in losses:
        loss.backward()
    assert float(losses[1]) == pytest.approx(float(losses[0]), rel=0.1)
    one, other = (
        torch.cat([parameter.grad.flatten() for parameter in each.parameters()])
        for each in (model, rounded)
    )
    assert 0 < float((one - other).norm() / one.norm()) < 0.4  # gradients have two bits
    rounded.save_pretrained(tmp_path)
    opened = Classifier.from_pretrained(tmp_path)
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, opened.state_dict()[name])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_is_refused_without_a_gpu(tmp_path):
    for make in (
        lambda: convert_to_float8(made()),
        lambda: VisionTransformerTrainingArguments(output_dir=str(tmp_path), float8=True),
    ):
        with pytest.raises(ValueError, match="got float8, and PyTorch finds no GPU here"):
            make()


def test_it_is_refused_on_an_older_gpu_and_without_torchao(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(ValueError, match=r"capability 8\.0, allowed: 8\.9 and newer"):
        float8.check_float8()
    monkeypatch.setattr(float8.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'vit_hf\[float8\]'"):
        float8.check_float8()


def test_the_launcher_asks_for_it_and_what_contradicts_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_hf.training.arguments.check_float8", lambda: None)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    arguments = VisionTransformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert arguments.float8 and arguments.bf16 and arguments.mixed_precision == "bf16"
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    assert not VisionTransformerTrainingArguments(output_dir=str(tmp_path)).float8
    with pytest.raises(ValueError, match="got float8 with bf16=False"):
        VisionTransformerTrainingArguments(output_dir=str(tmp_path), float8=True, bf16=False)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_FLOAT8, reason="no GPU that multiplies in float8")
def test_the_kernels_compute_what_the_emulation_says():
    model = made().cuda()
    emulated, real = copy.deepcopy(model), copy.deepcopy(model)
    convert_to_float8(emulated, emulate=True)
    convert_to_float8(real)
    images = torch.rand(3, 3, 16, 16, device="cuda") * 2 - 1
    with torch.autocast("cuda", torch.bfloat16):
        one, other = emulated(images).logits, real(images).logits
    torch.testing.assert_close(one, other, atol=0.05 * float(one.abs().max()), rtol=0)
