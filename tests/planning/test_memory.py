# SPDX-License-Identifier: Apache-2.0
"""The memory that is planned is what real steps take: Linux's count of this machine's pages.

All steps run in one process of their own. Blocks above 64 KiB go back to the system at once
(`MALLOC_MMAP_THRESHOLD_`), and Linux forgets the peak (`VmHWM`) before each.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vit_hf import VisionTransformerConfig
from vit_hf.planning import TrainingStep
from vit_hf.planning.memory import StepMemory

SMALL = {
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "image_size": 128,
    "patch_size": 16,
}
WIDE = {**SMALL, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}
WIDE |= {"image_size": 64, "num_hidden_layers": 2}
HYBRID = {**SMALL, "stem_blocks": [1, 1, 1], "patch_size": 1, "image_size": 96}
FLOAT32, BFLOAT16 = {"dtype": "float32"}, {"dtype": "bfloat16"}
FUSED, PLAIN, SGD = ({"optimizer": name} for name in ("adamw_torch_fused", "adamw_torch", "sgd"))
CHECKPOINTED = {"gradient_checkpointing": True}
MASKED = {"task": "masked-patch-prediction"}
DROPPED = {"hidden_dropout_prob": 0.1, "drop_path_rate": 0.1}
CASES = {
    "float32": (SMALL, FLOAT32 | FUSED, 16),
    "float32-checkpointed-sgd": (SMALL, FLOAT32 | SGD | CHECKPOINTED, 24),
    "bfloat16": (SMALL, BFLOAT16 | FUSED, 8),
    "bfloat16-checkpointed": (SMALL, BFLOAT16 | PLAIN | CHECKPOINTED, 12),
    "wide-float32-plain": (WIDE, FLOAT32 | PLAIN, 2),
    "wide-bfloat16": (WIDE, BFLOAT16 | SGD, 4),
    "accumulating": (WIDE, FLOAT32 | SGD | {"accumulates": True}, 4),
    "dropout": ({**SMALL, **DROPPED}, FLOAT32 | SGD, 12),
    "hybrid": (HYBRID, FLOAT32 | FUSED, 4),
    "masked": (SMALL, FLOAT32 | FUSED | MASKED, 12),
}
MEASURE = r"""
import gc, json, re, sys
import torch
from vit_hf import VisionTransformerConfig
from vit_hf.modeling import encoder
from vit_hf.planning import DTYPES, MODELS, OPTIMIZERS
encoder.FAST_BFLOAT16 = False  # plans are of fused attention, which holds no maps

def pages(name):
    return int(re.search(name + r":\s+(\d+)", open("/proc/self/status").read())[1]) * 1024

def train(settings, step, batch_size, num_steps):
    config = VisionTransformerConfig(**settings)
    model = MODELS[step.get("task", "image-classification")](config).train()
    if step.get("gradient_checkpointing"):
        model.gradient_checkpointing_enable()
    optimizer = OPTIMIZERS[step["optimizer"]](model.parameters(), on_accelerator=False)
    dtype, num_batches = DTYPES[step["dtype"]], 1 + step.get("accumulates", False)
    for _ in range(num_steps):
        for _ in range(num_batches):
            inputs = {"pixel_values": torch.rand(batch_size, 3, *config.image_hw) * 2 - 1}
            if "task" in step:
                masks = torch.rand(batch_size, config.num_patches)
                inputs["bool_masked_pos"] = (masks < 0.5).long()
                inputs["patch_replacement"] = torch.full_like(masks, -1, dtype=torch.long)
            else:
                inputs["labels"] = torch.zeros(batch_size, dtype=torch.long)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
                loss = model(**inputs).loss
            loss.backward()
            del loss, inputs
        optimizer.step()
        optimizer.zero_grad()

torch.set_num_threads(1)
for settings, step, batch_size in json.loads(sys.argv[1]):
    train({**settings, "num_hidden_layers": 1}, step, 2, 1)  # what kernels keep for themselves
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")
    before = pages("VmRSS")
    train(settings, step, batch_size, 2)
    print(pages("VmHWM") - before, flush=True)
"""

DOCUMENT = Path(__file__).parents[2] / "docs" / "planning.md"
ROW = r"^\| `([\w-]+)` \|.*\| ([\d.]+) \| ([\d.]+) \|$"
TOLD = {name: told for name, *told in re.findall(ROW, DOCUMENT.read_text(), flags=re.M)}


def planned(settings: dict, step: dict, batch_size: int) -> int:
    memory = StepMemory(
        VisionTransformerConfig(**settings), TrainingStep(**step, on_accelerator=False)
    )
    return sum(memory.at_peak(batch_size, memory.fixed).values())


@pytest.fixture(scope="module")
def measured():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux's /proc/self/clear_refs")
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(list(CASES.values()))],
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "MALLOC_MMAP_THRESHOLD_": str(2**16),
            "MALLOC_TRIM_THRESHOLD_": str(2**16),
            "ONEDNN_MAX_CPU_ISA": "AVX2",  # whose kernels have no work space of their own
            "ATEN_CPU_CAPABILITY": "avx2",  # and float32 is multiplied as on an accelerator
        },
    )
    return dict(zip(CASES, map(int, run.stdout.split()), strict=True))


@pytest.mark.slow
def test_real_steps_take_what_is_planned(measured):
    for name, case in CASES.items():
        plan = planned(*case)
        print(f"{name}: planned {plan / 1e6:.1f} MB, measured {measured[name] / 1e6:.1f} MB")
        assert plan == pytest.approx(measured[name], rel=0.15), name
        told_plan, told_measure = (float(figure) * 1e6 for figure in TOLD[name])  # in the document
        assert told_plan == pytest.approx(plan, rel=0.05), name
        assert told_measure == pytest.approx(measured[name], rel=0.1), name
