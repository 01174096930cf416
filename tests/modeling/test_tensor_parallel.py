# SPDX-License-Identifier: Apache-2.0
"""The tensor-parallel plan, on two processes of one machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vit_hf import VisionTransformerForImageClassification as Classifier
from vit_hf import VisionTransformerForMaskedPatchPrediction as Predictor

WORKER = """
import os
import sys

import torch
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

import vit_hf

folder, class_name = sys.argv[1:]
distributed.init_process_group("gloo")
split = DistributedConfig(tp_size=2)
model = getattr(vit_hf, class_name).from_pretrained(folder, distributed_config=split).eval()
weight = model.vit.layers[0].mlp.fc1.weight
shard = weight.to_local() if isinstance(weight, DTensor) else weight
with torch.no_grad():
    logits = model(torch.load(folder + "/pixels.pt")).logits
logits = logits.full_tensor() if isinstance(logits, DTensor) else logits
if distributed.get_rank() == 0:
    torch.save({"logits": logits, "shard": tuple(shard.shape)}, folder + "/parallel.pt")
distributed.barrier()
os._exit(0)  # gloo's threads can abort an orderly end
"""
VARIANTS = {
    "paper": (Classifier, {}),
    "relative_map": (
        Classifier,
        {"position_embedding": "relative", "pooling": "map", "qk_norm": True},
    ),
    "masked": (Predictor, {"layer_scale_init_value": 0.1, "stem_blocks": [], "patch_size": 2}),
}


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_give_the_logits_of_one(build, images, tmp_path, variant):
    model_class, settings = VARIANTS[variant]
    model = build(model_class, **settings)
    model.save_pretrained(tmp_path)
    torch.save(images(), tmp_path / "pixels.pt")
    with torch.no_grad():
        expected = model(images()).logits
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = {**os.environ, **shared, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(tmp_path), model_class.__name__],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    found = torch.load(tmp_path / "parallel.pt")
    assert found["shard"] == (32, 32)  # half of the 64 rows
    torch.testing.assert_close(found["logits"], expected, atol=1e-5, rtol=0)


def test_the_plan_names_every_dense_layer_of_the_encoder(build):
    model = build(Classifier)
    plan = model.config.base_model_tp_plan
    dense = {
        name.replace(".0.", ".*.")
        for name, module in model.vit.named_modules()
        if name.startswith("layers.0.") and isinstance(module, torch.nn.Linear)
    }
    assert set(plan) == dense
    assert {name.rsplit(".", 1)[-1] for name, way in plan.items() if way == "rowwise"} == {
        "o_proj",
        "fc2",
    }
