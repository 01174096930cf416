# SPDX-License-Identifier: Apache-2.0
"""`vit-hf benchmark train`: from files to weights, each step with its batch."""

import time

import pytest
import torch
from transformers.utils.import_utils import is_torchvision_available

from vit_hf.benchmark import whole_training
from vit_hf.benchmark.contender import Task
from vit_hf.benchmark.options import TrainOptions
from vit_hf.benchmark.subjects import share_photos_and_weights


class SlowFiles(whole_training.ProcessedFiles):
    """Files that take a while."""

    def __getitem__(self, place):
        time.sleep(0.1)
        return super().__getitem__(place)


@pytest.fixture
def task(tiny, tmp_path):
    options = TrainOptions(peers=["transformers"], num_images=4, **tiny)
    task = Task(options=options, folder=tmp_path)
    assert share_photos_and_weights(task)[0] == {}
    return task


def test_loading_counts_in_every_step(task, monkeypatch):
    monkeypatch.setattr(whole_training, "ProcessedFiles", SlowFiles)
    contender = whole_training.TransformersTraining(task)
    contender.make_ready(contender.candidates()[0])
    assert contender.measure(2) >= 2 * 2 * 0.1


def test_what_may_be_missing_is_imported_where_it_is_used():
    """transformers warns, in every contender's process, where torchvision is not installed."""
    assert not hasattr(whole_training, "ViTImageProcessor")


def test_both_begin_with_the_same_and_update_the_weights(task):
    ours, theirs = whole_training.OurTraining(task), whole_training.TransformersTraining(task)
    for contender in (ours, theirs):
        contender.make_ready(contender.candidates()[0])
    difference = abs(ours.outcome() - theirs.outcome()).max()
    assert difference < 0.2 * abs(ours.outcome()).max()
    for contender in (ours, theirs):
        before = contender.model.classifier.weight.detach().clone()
        assert contender.measure(1) > 0
        assert not torch.equal(before, contender.model.classifier.weight)


def test_the_defaults_are_those_of_the_trainer(task):
    assert whole_training.DefaultTransformersTraining(task).candidates() == [
        {
            "bf16": False,
            "per_device_train_batch_size": 8,
            "dataloader_num_workers": 0,
            "optim": "adamw_torch_fused",
            "processor": "torchvision" if is_torchvision_available() else "pillow",
        }
    ]
    assert whole_training.DefaultTransformersTraining(task).refinements([(1.0, {})]) == []


def test_the_faster_image_processor_is_found(task, monkeypatch):
    contender = whole_training.TransformersTraining(task)
    slow, fast = contender.candidates()
    speeds = [(1.0, slow), (2.0, fast)]
    monkeypatch.setattr(whole_training, "is_torchvision_available", lambda: True)
    assert contender.refinements(speeds) == [{**fast, "processor": "torchvision"}]
    monkeypatch.setattr(whole_training, "is_torchvision_available", lambda: False)
    assert contender.refinements(speeds) == [] and fast["processor"] == "pillow"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["OurTraining", "TransformersTraining"])
def test_every_turn_of_a_compiled_model_is_compiled(name, task, monkeypatch):
    contender = getattr(whole_training, name)(task)
    contender.make_ready({**contender.candidates()[0], "compile": "layers"})
    contender.outcome()
    contender.measure(1)
    own = {id(module) for module in contender.model.vit.layers.modules()}
    calls, forward = [], torch.nn.LayerNorm.forward  # of Python, which compiled code does not call

    def counted(self, hidden_state):
        calls.extend([self] if id(self) in own else [])
        return forward(self, hidden_state)

    monkeypatch.setattr(torch.nn.LayerNorm, "forward", counted)
    with torch._dynamo.config.patch(error_on_recompile=True):
        contender.measure(1)
    assert not calls
    contender.outcome()
    assert calls


@pytest.mark.slow
def test_what_workers_have_ready_is_not_timed(task, monkeypatch):
    contender = whole_training.OurTraining(task)
    contender.make_ready({**contender.candidates()[0], "dataloader_num_workers": 3})
    clocks, made = [], whole_training.StepClock
    monkeypatch.setattr(
        whole_training,
        "StepClock",
        lambda *words, **settings: clocks.append(made(*words, **settings)) or clocks[-1],
    )
    assert contender.measure(2) > 0
    assert (clocks[0].first_step, clocks[0].last_step) == (2 + 2 * 3, 2 + 2 * 3 + 2)


@pytest.mark.slow
def test_the_whole(tiny, run_here):
    results = run_here(TrainOptions(num_images=4, num_workers=1, dtype="bfloat16", **tiny))
    assert set(results["peers"]) == {"transformers", "transformers_default"}
    settings = results["ours"]["settings"]
    assert settings["bf16"] and settings["compile"] is None
    assert results["peers"]["transformers_default"]["settings"]["bf16"] is False
    assert set(results["limits"]) == {"matrix_products", "decoding_alone"}
