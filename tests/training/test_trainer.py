# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments, ViTImageProcessorPil

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.data import BatchAugmentation, ImageCollator
from vit_hf.planning import forward_flops
from vit_hf.training import VisionTransformerTrainer, VisionTransformerTrainingArguments
from vit_hf.training.averaging import AVERAGE

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
        model=model, args=VisionTransformerTrainingArguments(output_dir=str(tmp_path))
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


def test_pixels_get_the_mean_and_deviation_of_the_models_processor(tmp_path):
    """A checkpoint of another project may have been trained with ImageNet's."""
    model = VisionTransformerForImageClassification(VisionTransformerConfig(**CONFIG))
    trainer = trainer_of(model, tmp_path)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor = ViTImageProcessorPil(image_mean=mean, image_std=deviation, do_resize=False)
    trainer.processing_class = processor
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    got = trainer._prepare_inputs({"pixel_values": pixels})["pixel_values"]
    images = [image.permute(1, 2, 0).numpy() for image in pixels]
    expected = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_arguments_of_another_class_are_refused(tmp_path):
    model = VisionTransformerForImageClassification(VisionTransformerConfig(**CONFIG))
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none")
    with pytest.raises(ValueError, match="got args of the class TrainingArguments, allowed: Vis"):
        VisionTransformerTrainer(model=model, args=arguments)


def test_operations_are_those_of_the_model(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path, max_steps=3, gradient_accumulation_steps=2)
    trainer.train()
    per_image = trainer.throughput.model_flops_per_image
    assert trainer.state.total_flos == pytest.approx(3 * 2 * 4 * per_image)
    assert per_image == pytest.approx(3 * forward_flops(trainer.model.config), rel=0.1)


def test_logs_say_how_fast_it_goes(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path, max_steps=4)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in ("images_per_second", "input_wait_share", "mfu", "resident_memory_gib"):
        assert all(entry[name] > 0 for entry in logged), name
    assert all(entry["input_wait_share"] < 1 for entry in logged)


def test_patches_that_are_left_out_are_not_counted(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path, max_steps=1, config={"patch_dropout_rate": 0.5})
    trainer.train()
    every, kept = (
        3 * forward_flops(trainer.model.config, in_training=in_training)
        for in_training in (False, True)
    )
    assert trainer.throughput.model_flops_per_image == kept < every


def test_what_is_exported_and_evaluated_is_the_average(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path, max_steps=4, ema_decay=0.9)
    trainer.train()
    live = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    exported = trainer.exportable_model().state_dict()
    for name, parameter in trainer.model.named_parameters():
        average = trainer.optimizer.state[parameter][AVERAGE]
        assert torch.equal(exported[name], average), name
        assert torch.equal(parameter, live[name])  # the training goes on with its own
    assert any(not torch.equal(exported[name], live[name]) for name in live)
    with trainer.averaged_weights():
        seen = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert all(torch.equal(seen[name], exported[name]) for name in seen)


def test_training_on_a_cpu_keeps_freed_memory(make_trainer, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("vit_hf.training.trainer.keep_freed_memory", lambda: calls.append(True))
    run = make_trainer(tmp_path, max_steps=1)
    assert calls == []
    run.train()
    assert calls == [True]


def test_a_batch_that_is_too_large_is_made_smaller_where_that_is_asked_for(tmp_path, make_trainer):
    trainer = make_trainer(
        tmp_path, auto_find_batch_size=True, per_device_train_batch_size=8, max_steps=2
    )
    forward, sizes = trainer.model.forward, []

    def forward_of_few(pixel_values, **inputs):
        sizes.append(len(pixel_values))
        if len(pixel_values) > 6:
            raise RuntimeError("CUDA out of memory. Tried to allocate all there is.")
        return forward(pixel_values, **inputs)

    trainer.model.forward = forward_of_few
    trainer.train()
    assert sizes == [8, 7, 6, 6] and trainer.state.global_step == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_another_order_than_a_random_one_is_refused(tmp_path, make_trainer, streaming):
    flags = {"train_sampling_strategy": "sequential", "streaming": streaming}
    with pytest.raises(ValueError, match=r"got train_sampling_strategy='sequential', allowed"):
        make_trainer(tmp_path, **flags).train()


def test_any_other_dataset_is_dealt_as_transformers_does(tmp_path):
    def to_pixels(rows):
        images = [torch.full((3, 8, 8), number / 8) for number in rows["number"]]
        return {"pixel_values": images, "labels": rows["label"]}

    rows = Dataset.from_dict({"number": list(range(8)), "label": [0, 1] * 4})
    model = VisionTransformerForImageClassification(VisionTransformerConfig(**CONFIG))
    arguments = VisionTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, use_cpu=True
    )
    own = rows.with_transform(to_pixels)
    trainer = VisionTransformerTrainer(
        model=model, args=arguments, train_dataset=own, eval_dataset=own
    )
    trainer.train()
    assert trainer.state.global_step == 2 and trainer.evaluate()["eval_loss"] > 0
    trainer.train_dataset = rows
    with pytest.raises(ValueError, match="got samples of number, label, allowed: with pixel_value"):
        trainer.train()
    trainer.train_dataset, trainer.data_collator = own, ImageCollator(BatchAugmentation(flip=True))
    with pytest.raises(ValueError, match="got a BatchAugmentation for samples that are not those"):
        trainer.train()
