# SPDX-License-Identifier: Apache-2.0
import torch
from transformers import TrainingArguments

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.training import VisionTransformerTrainer

CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 1,
    "stem_blocks": [1],
    "stem_width": 32,
    "pooling": "map",
    "num_register_tokens": 1,
    "layer_scale_init_value": 0.1,
    "representation_size": 16,
}


def trainer_of(model, tmp_path):
    return VisionTransformerTrainer(
        model=model, args=TrainingArguments(output_dir=str(tmp_path), report_to="none")
    )


def test_kernels_alone_decay(tmp_path):
    model = VisionTransformerForImageClassification(VisionTransformerConfig(**CONFIG))
    decayed = set(trainer_of(model, tmp_path).get_decay_parameter_names(model))
    parameters = dict(model.named_parameters())
    assert decayed <= set(parameters)
    assert {
        name for name in parameters if name.endswith(".weight") and parameters[name].dim() > 1
    } == decayed
    spared = ("table", "register_tokens", "probe", "scale", "norm", "bias")
    assert not [name for name in decayed if any(word in name for word in spared)]
    assert all(any(word in name for word in spared) for name in set(parameters) - decayed)


def test_uint8_pixels_are_normalised_and_floats_left(tmp_path):
    model = VisionTransformerForImageClassification(VisionTransformerConfig(**CONFIG))
    trainer = trainer_of(model, tmp_path)
    pixels = torch.tensor([0, 127, 255], dtype=torch.uint8)
    got = trainer._prepare_inputs({"pixel_values": pixels})["pixel_values"]
    torch.testing.assert_close(got, torch.tensor([-1, -0.5 / 127.5, 1]))
    ready = torch.tensor([0.25])
    assert torch.equal(trainer._prepare_inputs({"pixel_values": ready})["pixel_values"], ready)
