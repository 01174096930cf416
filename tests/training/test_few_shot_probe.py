# SPDX-License-Identifier: Apache-2.0
"""The few-shot probe during training: what it logs, and that the training does not notice it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, set_seed

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
)
from vit_hf.evaluation import evaluate_few_shot, mean_accuracies
from vit_hf.training.few_shot_probe import FewShotProbe


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small lose more to waiting threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class NoisyRows(torch.utils.data.Dataset):
    """Images of three colours; every look at one draws from all the global generators."""

    def __init__(self, num_images, *, is_masked=False):
        self.num_images, self.is_masked = num_images, is_masked

    def __len__(self):
        return self.num_images

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(3, 8, 8)
        color = torch.tensor([0.0, 0.3, 0.6])[(index + torch.arange(3)) % 3]
        pixel_values = (noise / 6 + color[:, None, None]).clamp(-1, 1)
        sample = {"pixel_values": pixel_values, "labels": index % 3}
        if self.is_masked:
            del sample["labels"]
            sample["bool_masked_pos"] = torch.rand(4) < 0.5
        return sample


def trainer_of(output_dir, model_class=VisionTransformerForImageClassification, **settings):
    """A training of six updates that draws: shuffling, augmentation, dropout."""
    set_seed(0)
    is_masked = model_class is VisionTransformerForMaskedPatchPrediction
    config = VisionTransformerConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.3,
        num_labels=3,
    )
    arguments = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "learning_rate": 0.01,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "remove_unused_columns": False,
        "label_names": ["bool_masked_pos"] if is_masked else ["labels"],
        **settings,
    }
    return Trainer(
        model=model_class(config),
        args=TrainingArguments(**arguments),
        train_dataset=NoisyRows(40, is_masked=is_masked),
        eval_dataset=NoisyRows(8, is_masked=is_masked),
    )


def add_probe(trainer, **settings):
    train, test = (DataLoader(NoisyRows(size), batch_size=8) for size in (24, 30))
    probe = FewShotProbe(train, test, log=trainer.log, shots=(1, 5), seeds=(0, 1), **settings)
    trainer.add_callback(probe)
    return probe


def logged(trainer, name):
    return {row["step"]: row[name] for row in trainer.state.log_history if name in row}


@pytest.mark.parametrize("every_steps", [None, 2])
@pytest.mark.parametrize(
    "model_class",
    [VisionTransformerForImageClassification, VisionTransformerForMaskedPatchPrediction],
)
def test_a_training_with_the_probe_is_the_same(tmp_path, model_class, every_steps):
    without, probed = (trainer_of(tmp_path, model_class) for _ in range(2))
    set_seed(1)
    without.train()
    add_probe(probed, every_steps=every_steps)
    set_seed(1)
    probed.train()
    steps = {3, 6} if every_steps is None else {2, 4, 6}
    for name in ("few_shot_1_accuracy", "few_shot_5_accuracy"):
        accuracies = logged(probed, name)
        assert set(accuracies) == steps
        assert all(0 < accuracy <= 1 for accuracy in accuracies.values())
    for (name, a), b in zip(without.model.named_parameters(), probed.model.parameters()):
        assert torch.equal(a, b), name
    assert logged(without, "loss") == logged(probed, "loss") and len(logged(probed, "loss")) == 6
    assert logged(without, "eval_loss") == logged(probed, "eval_loss")
    assert torch.equal(*(torch.rand(3) for _ in range(2))) is False  # the generators do move


def test_every_generator_and_mode_is_left_as_it_was(tmp_path):
    trainer = trainer_of(tmp_path)
    probe = add_probe(trainer)
    trainer.model.train()
    trainer.model.vit.layers[0].eval()
    modes = [module.training for module in trainer.model.modules()]
    draws = []
    for is_probed in (False, True):
        set_seed(5)
        if is_probed:
            probe.probe(trainer.args, trainer.control, trainer.model)
        draws.append((torch.rand(()).item(), np.random.rand(), random.random()))
    assert draws[0] == draws[1]
    assert [module.training for module in trainer.model.modules()] == modes


def test_what_it_logs_is_the_evaluation_of_the_model(tmp_path):
    trainer = trainer_of(tmp_path)
    probe = add_probe(trainer, train_labels=[index % 3 for index in range(24)])
    metrics = trainer.evaluate()
    accuracies = evaluate_few_shot(
        trainer.model, probe.train, probe.test, shots=(1, 5), seeds=(0, 1)
    )
    assert set(mean_accuracies(accuracies)) == {"few_shot_1_accuracy", "few_shot_5_accuracy"}
    for name in mean_accuracies(accuracies):
        assert trainer.state.log_history[-1][name] == metrics[f"eval_{name}"] > 0.34


def test_the_best_model_is_chosen_by_it(tmp_path):
    trainer = trainer_of(
        tmp_path,
        save_strategy="steps",
        save_steps=3,
        metric_for_best_model="few_shot_5_accuracy",
        greater_is_better=True,
    )
    add_probe(trainer)
    trainer.train()
    assert trainer.state.best_metric == max(logged(trainer, "few_shot_5_accuracy").values())


def test_labels_are_read_once(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    probe = add_probe(trainer, every_steps=2)
    trainer.train()
    assert probe.train_labels.tolist() == [index % 3 for index in range(24)]
    reads = []
    read = NoisyRows.__getitem__
    monkeypatch.setattr(NoisyRows, "__getitem__", lambda s, i: reads.append(len(s)) or read(s, i))
    probe.probe(trainer.args, trainer.control, trainer.model)
    assert reads.count(24) < 48  # the chosen ones, and not the whole for its labels


def test_no_steps_are_refused(tmp_path):
    loader = DataLoader(NoisyRows(3))
    with pytest.raises(ValueError, match="every_steps=0"):
        FewShotProbe(loader, loader, log=print, every_steps=0)


SCRIPT = """
import json, os, sys
sys.path.insert(0, FOLDER)
import torch
from test_few_shot_probe import add_probe, logged, trainer_of
from vit_hf.training.trainer import leave_process_group
torch.set_num_threads(1)
results = {}
for is_probed in (False, True):
    trainer = trainer_of(OUTPUT, per_device_train_batch_size=2, ddp_backend="gloo")
    if is_probed:
        add_probe(trainer)
    trainer.train()
    results[str(is_probed)] = [value.double().sum().item() for value in trainer.model.parameters()]
results["accuracies"] = list(logged(trainer, "few_shot_5_accuracy").values())
with open(f"{OUTPUT}/{trainer.args.process_index}.json", "w") as file:
    json.dump(results, file)
leave_process_group()
"""


@pytest.mark.slow
def test_on_two_processes(tmp_path):
    script = tmp_path / "script.py"
    folder = str(Path(__file__).parent)
    script.write_text(f"FOLDER, OUTPUT = {folder!r}, {str(tmp_path)!r}\n{SCRIPT}")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    run = subprocess.run(
        [sys.executable, *launch],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert results[0] == results[1]
    assert results[0]["True"] == results[0]["False"]
    assert len(results[0]["accuracies"]) == 2
