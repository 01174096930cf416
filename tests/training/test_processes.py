# SPDX-License-Identifier: Apache-2.0
"""Several processes do what one does: the loss curve, the weights, every image evaluated once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from vit_hf.cli import main

SCRIPTS = Path(__file__).parents[2] / "scripts"
TOLERANCE = 1e-5
FLAGS = [
    "--use_cpu",
    "--per_device_eval_batch_size",
    "8",  # 14 test images: two of the last batch of two processes are there twice
    "--max_steps",
    "6",
    "--save_steps",
    "3",
    "--logging_steps",
    "1",
    "--seed",
    "0",
]
FLAGS += ["--learning_rate", "0.01", "--optim", "sgd", "--optim_args", "momentum=0.9"]
FLAGS += ["--mixup_alpha", "0.5", "--ema_decay", "0.9", "--disable_tqdm", "True"]
FLAGS += ["--total_train_batch_size", "16", "--lr_scheduler_type", "constant"]


def launch(num_processes, words, *, verb="finetune"):
    """Runs a script on several processes, as accelerate and torchrun start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", num_processes]
    command += ["--master_port", port, SCRIPTS / f"{verb}.py", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses_of(folder):
    state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def measured(folder, name):
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    return next((m["value"], m["num_images"]) for m in metrics if m["name"] == name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, color_folder, tiny_checkpoint):
    """The words of a run, and the folder of the run of one process."""
    root = tmp_path_factory.mktemp("processes")
    images = color_folder(root / "images", per_class=33)  # 14 test images, which do not divide
    words = ["--dataset_name", str(images), "--model_name_or_path", str(tiny_checkpoint), *FLAGS]
    flags = ["--output_dir", str(root / "alone"), "--per_device_train_batch_size", "8"]
    assert main(["finetune", *words, *flags]) == 0
    return words, root / "alone"


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [2, 4])
def test_several_processes_are_one(alone, tmp_path, num_processes):
    words, expected = alone
    batch = ["--per_device_train_batch_size", str(16 // num_processes)]
    if num_processes != 2:  # mixup pairs the images of a device's batch
        expected = tmp_path / "alone"
        assert main(["finetune", *words, *batch, "--output_dir", str(expected)]) == 0
    shown = launch(num_processes, [*words, "--output_dir", tmp_path, *batch])
    assert "million parameters, " in shown and "images of " in shown
    assert f"16 images an update = {16 // num_processes} a device x {num_processes} dev" in shown
    assert losses_of(tmp_path) == pytest.approx(losses_of(expected), abs=TOLERANCE)
    found, reference = (load_file(f / "model.safetensors") for f in (tmp_path, expected))
    difference = max((found[name] - reference[name]).abs().max().item() for name in reference)
    print(f"{num_processes} processes: weights differ by at most {difference:.1e}")
    assert difference <= TOLERANCE
    assert measured(tmp_path, "accuracy") == measured(expected, "accuracy")
    assert measured(tmp_path, "accuracy")[1] == 14
    loss, reference_loss = (measured(folder, "loss")[0] for folder in (tmp_path, expected))
    assert loss == pytest.approx(reference_loss, abs=TOLERANCE)
    assert shown.count("checkpoint, card, results") == 1


@pytest.mark.slow
def test_resumed_on_another_number_of_processes(alone, tmp_path):
    words, expected = alone
    words = [*words, "--output_dir", str(tmp_path)]
    whole = ["--per_device_train_batch_size", "8"]
    assert main(["finetune", *words, *whole, "--max_steps", "3"]) == 0
    launch(2, [*words, *whole, "--resume_from_checkpoint", "last"])
    found, reference = (load_file(f / "model.safetensors") for f in (tmp_path, expected))
    difference = max((found[name] - reference[name]).abs().max().item() for name in reference)
    assert difference <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_masked_patch_prediction(tmp_path, color_folder, streaming):
    """The loss of the held-out images, of which 14 do not divide, is that of one process.

    A stream is the same for as many workers, however they are spread over processes.
    """
    images = color_folder(tmp_path / "images", per_class=33)
    tiny = ["hidden_size=16", "num_hidden_layers=2", "num_attention_heads=2", "patch_size=4"]
    words = ["--task", "masked-patch-prediction", "--image_size", "16", "--settings", *tiny]
    words += ["intermediate_size=32", "--dataset_name", str(images), *FLAGS]
    words += ["--mixup_alpha", "0", "--per_device_train_batch_size", "8"]
    words += ["--streaming"] * streaming
    folders = alone, together = tmp_path / "alone", tmp_path / "together"
    workers = "--dataloader_num_workers"
    assert main(["pretrain", *words, workers, "2", "--output_dir", str(alone)]) == 0
    launch(2, [*words, workers, "1", "--output_dir", together], verb="pretrain")
    (loss, num_images), (reference, _) = (measured(folder, "loss") for folder in folders[::-1])
    assert num_images == 14 and loss == pytest.approx(reference, abs=TOLERANCE)
    assert losses_of(together) == pytest.approx(losses_of(alone), abs=TOLERANCE)
    found, expected = (load_file(folder / "model.safetensors") for folder in folders[::-1])
    assert max((found[k] - expected[k]).abs().max().item() for k in expected) <= TOLERANCE


# Twelve processes one after the other, each of which ends while gloo lets go of its tensors, which
# takes long here. Something keeps the process group, as shards (FSDP2) do.
HASTY = """
import atexit, os, sys, time
import torch
from torch import distributed
from vit_hf.training.trainer import leave_process_group

class Lasting(torch.Tensor):
    def __del__(self):
        time.sleep(0.05)

ends = []
for _ in range(12):
    if (child := os.fork()) == 0:
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        kept = distributed.group.WORLD
        atexit.register(leave_process_group)
        for _ in range(2):
            distributed.all_reduce(torch.ones(9).as_subclass(Lasting), async_op=True)
        sys.exit()
    ends.append(os.waitpid(child, 0)[1])
print(ends)
sys.exit(any(ends))
"""


@pytest.mark.slow
def test_no_process_is_aborted_at_its_end():
    run = subprocess.run(
        [sys.executable, "-c", HASTY],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
