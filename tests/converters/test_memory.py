# SPDX-License-Identifier: Apache-2.0
"""Loading takes 1.3 times the weights in memory at most, and ViT-L/16 takes 15 seconds at most on
two cores.

Each load runs in a process of its own, whose peak Linux keeps (`VmHWM`; the `ru_maxrss` of a child
begins at its parent's). The weights are random.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.converters import save_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc/self/status"),
]

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "num_labels": 1000,
    "hidden_act": "gelu_pytorch_tanh",
}
MEASURE = """
import re, sys, time
from vit_hf.converters import load_checkpoint
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before, start = peak(), time.perf_counter()
model = load_checkpoint(sys.argv[1])
seconds, weights = time.perf_counter() - start, sum(p.nbytes for p in model.parameters())
print(seconds, (peak() - before) / weights)
"""


@pytest.fixture(scope="module")
def model():
    model = VisionTransformerForImageClassification(VisionTransformerConfig(**LARGE))
    torch.nn.init.normal_(model.classifier.weight, std=0.02)
    return model


@pytest.mark.parametrize(
    ("format", "layout"),
    [("jax", None), ("big_vision", {"scan": True}), ("timm", None), ("transformers", None)],
    ids=["jax", "big_vision-scanned", "timm", "transformers"],
)
def test_a_large_checkpoint_opens_fast_and_once(format, layout, model, tmp_path):
    path = tmp_path / "checkpoint"
    save_checkpoint(model, path, format=format, layout=layout)
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True
    )
    seconds, share = map(float, measured.stdout.split())
    print(f"ViT-L/16 from {format}: {seconds:.1f} s, {share:.2f} times the weights")
    assert 1 <= share <= 1.3
    assert seconds <= 15
