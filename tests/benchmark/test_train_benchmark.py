# SPDX-License-Identifier: Apache-2.0
"""`vit-hf benchmark train`: from files to weights, each step with its batch."""

import time

import pytest
import torch

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
        }
    ]


@pytest.mark.slow
def test_the_whole(tiny, run_here):
    results = run_here(TrainOptions(num_images=4, num_workers=1, dtype="bfloat16", **tiny))
    assert set(results["peers"]) == {"transformers", "transformers_default"}
    assert (
        results["ours"]["settings"]["bf16"]
        and results["ours"]["settings"]["torch_compile"] is False
    )
    assert results["peers"]["transformers_default"]["settings"]["bf16"] is False
    assert set(results["limits"]) == {"matrix_products", "decoding_alone"}
