# SPDX-License-Identifier: Apache-2.0
"""Shards (FSDP2) train as one process does, and their checkpoints are those of one process."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.cli import main
from vit_hf.training import VisionTransformerTrainer, VisionTransformerTrainingArguments

SCRIPT = Path(__file__).parents[2] / "scripts" / "finetune.py"
CONFIG = SCRIPT.parent / "accelerate_configs" / "fsdp2.yaml"
ACCELERATE = ("accelerate.commands.accelerate_cli", "launch")
TORCHRUN = ("torch.distributed.run",)
TOLERANCE = 1e-5
# The script, and what of the weights and their averages this process holds when it is done.
SHARES = """
import runpy, sys
from torch.distributed.tensor import DTensor
from vit_hf.training import VisionTransformerTrainer

def share(tensors):
    local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    return sum(t.numel() for t in local) / sum(t.numel() for t in tensors)

def say_shares(trainer, export=VisionTransformerTrainer.exportable_model):
    weights = list(trainer.model_wrapped.parameters())
    averages = [state["average"] for state in trainer.optimizer.state.values()]
    print(f"holds {share(weights):.2f} {share(averages):.2f}.", flush=True)
    return export(trainer)

VisionTransformerTrainer.exportable_model = say_shares
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
FLAGS = [
    "--use_cpu",
    "--bf16",
    "false",
    "--max_steps",
    "4",
    "--save_steps",
    "2",
    "--logging_steps",
    "1",
    "--seed",
    "0",
    "--learning_rate",
    "0.01",
    "--optim",
    "sgd",
    "--optim_args",
    "momentum=0.9",
    "--lr_scheduler_type",
    "linear",
    "--ema_decay",
    "0.9",
    "--max_grad_norm",
    "0.5",
    "--disable_tqdm",
    "true",
    "--total_train_batch_size",
    "16",
    "--per_device_eval_batch_size",
    "8",
]


TINY = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def run(num_processes, words, *, launcher=ACCELERATE, script=(SCRIPT,)):
    """Runs the script: one process plain, several with shards, which the launcher asks for; returns
    what it printed.
    """
    words = [*words, "--per_device_train_batch_size", str(16 // max(2, num_processes))]
    if num_processes == 1:
        assert main(["finetune", *words]) == 0
        return ""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if launcher == TORCHRUN:
        command = [*launcher, "--nproc_per_node", num_processes, "--master_port", port]
    else:
        command = [*launcher, "--config_file", CONFIG, "--num_processes", num_processes]
        command += ["--main_process_port", port]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, [*command, *script]), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"},
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"x {num_processes} devices" in done.stdout
    return done.stdout


def assert_same(found: Path, expected: Path):
    """Compares what was exported, measured, and kept in the last checkpoint."""
    for name in ("model.safetensors", "checkpoint-4/model.safetensors"):
        tensors, reference = load_file(found / name), load_file(expected / name)
        assert tensors.keys() == reference.keys()
        for key in reference:
            torch.testing.assert_close(tensors[key], reference[key], rtol=0, atol=TOLERANCE)
    states = [torch.load(f / "checkpoint-4/optimizer.pt")["state"] for f in (found, expected)]
    assert all("momentum_buffer" in state for state in states[1].values())
    for name, exported in load_file(expected / "model.safetensors").items():
        assert torch.equal(exported, states[1][name]["average"])
    torch.testing.assert_close(*states, rtol=0, atol=TOLERANCE)
    metrics = [json.loads((f / "results.json").read_text())["metrics"] for f in (found, expected)]
    for one, other in zip(*metrics, strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=TOLERANCE)
    histories = [
        json.loads((f / "checkpoint-4/trainer_state.json").read_text())["log_history"]
        for f in (found, expected)
    ]
    for one, other in zip(*histories, strict=True):
        for name in ("loss", "grad_norm", "learning_rate"):
            assert one[name] == pytest.approx(other[name], abs=TOLERANCE)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, color_folder, tiny_checkpoint):
    """The words of a run, and the folder of the run of one process."""
    root = tmp_path_factory.mktemp("sharding")
    images = color_folder(root / "images", per_class=33)
    words = ["--dataset_name", str(images), "--model_name_or_path", str(tiny_checkpoint), *FLAGS]
    run(1, [*words, "--output_dir", str(root / "alone")])
    return words, root / "alone"


@pytest.mark.slow
def test_shards_are_one(alone, tmp_path):
    """All the way, and from the checkpoint in the middle on one plain process."""
    words, expected = alone
    shards = tmp_path / "shards"
    spy = tmp_path / "shares.py"
    spy.write_text(SHARES)
    shown = run(2, [*words, "--output_dir", str(shards)], script=(spy, SCRIPT))
    held = [
        float(share)
        for said in re.findall(r"holds (0\.\d+ 0\.\d+)", shown)
        for share in said.split()
    ]
    assert len(held) == 4 and all(0.4 < share < 0.6 for share in held), shown  # about a half each
    assert_same(shards, expected)
    assert {path.name for path in (shards / "checkpoint-2").iterdir()} >= {
        path.name for path in (expected / "checkpoint-2").iterdir() if "rng" not in path.name
    }
    resumed = tmp_path / "resumed"
    middle = ["--resume_from_checkpoint", str(shards / "checkpoint-2")]
    run(1, [*words, "--output_dir", str(resumed), *middle])
    assert_same(resumed, expected)


def test_shards_of_one_process_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got a request for shards \(FSDP\) and 1 process"):
        VisionTransformerTrainer(
            VisionTransformerForImageClassification(VisionTransformerConfig(**TINY)),
            VisionTransformerTrainingArguments(str(tmp_path), fsdp="full_shard", use_cpu=True),
        )


@pytest.mark.slow
def test_the_flag_alone_shards(alone, tmp_path):
    words, expected = alone
    run(2, [*words, "--output_dir", str(tmp_path), "--fsdp"], launcher=TORCHRUN)
    assert_same(tmp_path, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 4), (1, 2)])
def test_resumed_on_other_processes(alone, tmp_path, before, after):
    words, expected = alone
    words = [*words, "--output_dir", str(tmp_path)]
    if before == 1:
        middle = expected / "checkpoint-2"
    else:
        run(before, words)
        middle = (tmp_path / "checkpoint-2").rename(tmp_path / "middle")
    run(after, [*words, "--resume_from_checkpoint", str(middle)])
    assert_same(tmp_path, expected)
