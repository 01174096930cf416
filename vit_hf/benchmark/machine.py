# SPDX-License-Identifier: Apache-2.0
"""The machine that a benchmark ran on: what it is, what is installed, and how fast it copies."""

import os
import platform
import re
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import features

from .contender import give_back, wait_for

LIBRARIES = (
    "vit_hf", "torch", "transformers", "timm", "vit-pytorch", "torchvision", "accelerate", "numpy",
    "pillow",
)  # fmt: skip
INSTRUCTION_SETS = re.compile(r"\b(amx\w*|avx\w*|f16c|fma|sve\w*|asimd\w*|bf16|i8mm)\b")
COPIED_BYTES = 2**28  # more than any cache holds
NUM_COPIES = 5
LOOK_SECONDS = 0.3  # for which one looks how busy the machine is


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Describes the machine, in words and numbers that stay true after the run.

    Args:
        device: that the benchmark runs on.
    """
    cpu_info = Path("/proc/cpuinfo")
    told = cpu_info.read_text() if cpu_info.exists() else ""
    model = re.search(r"model name\s*:\s*(.*)", told)
    described = {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "instruction_sets": sorted(set(INSTRUCTION_SETS.findall(told.lower()))),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": versions(),
        "jpeg_library": features.version("libjpeg_turbo") or features.version("jpg"),
        "memory_copy_bytes_per_second": copied_bytes_per_second(device),
        "device": "cpu",
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described |= {
            "device": properties.name,
            "device_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        }
    return described


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def busy_share() -> float:
    """Returns the share of the processors' time that is taken now, while nothing of ours runs."""
    return psutil.cpu_percent(interval=LOOK_SECONDS) / 100


def copied_bytes_per_second(device: torch.device) -> float:
    """Measures how fast the device copies its own memory: the fastest of a few copies."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    fastest = float("inf")
    for _ in range(NUM_COPIES):
        wait_for(device)
        started = time.perf_counter()
        target.copy_(source)
        wait_for(device)
        fastest = min(fastest, time.perf_counter() - started)
    del source, target
    give_back(device)
    return COPIED_BYTES / fastest
