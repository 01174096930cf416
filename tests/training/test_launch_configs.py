# SPDX-License-Identifier: Apache-2.0
"""The configurations for `accelerate launch`, read by accelerate's own parser, and launched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification

SCRIPTS = Path(__file__).parents[2] / "scripts"
CONFIGS = SCRIPTS / "accelerate_configs"
# What accelerate must make of each: kind, machines, processes (-1: the user says), precision.
EXPECTED = {
    "cpu": ("NO", 1, 1, "no"),
    "cpu_processes": ("MULTI_GPU", 1, 2, "no"),
    "single_gpu": ("NO", 1, 1, "bf16"),
    "multi_gpu": ("MULTI_GPU", 1, -1, "bf16"),
    "fsdp2": ("FSDP", 1, -1, "bf16"),
    "multi_node": ("MULTI_GPU", 2, -1, "bf16"),
}
# Every process writes whom it met: rank and place on its machine of each, and its arguments.
TRAINEE = """
import json, pathlib, sys, torch
from accelerate import PartialState
from vit_hf.training.trainer import leave_process_group
state = PartialState(cpu=True)
ranks = [None] * state.num_processes
torch.distributed.all_gather_object(ranks, (state.process_index, state.local_process_index))
met = {"processes": sorted(ranks), "arguments": sys.argv[1:]}
pathlib.Path(f"rank_{state.process_index}.json").write_text(json.dumps(met))
torch.distributed.barrier()
leave_process_group()
"""


def read(path: Path) -> ClusterConfig:
    """Returns a configuration as accelerate reads it, when it knows every key.

    accelerate refuses an unknown key at the top, but passes over one inside `fsdp_config`.
    """
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig) and config.fsdp_config is not None
    known = vars(launch_command_parser().parse_args(["script.py"]))
    unknown = sorted(set(config.fsdp_config) - set(known))
    if unknown:
        raise ValueError(f"unknown keys in fsdp_config: {unknown}")
    return config


def clean_environment(folder: Path) -> dict[str, str]:
    """The environment, with this Python's programs first and no settings of other launchers."""
    kept = {name: value for name, value in os.environ.items() if "ACCELERATE" not in name}
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1"}


def launch(command: list, folder: Path, **environment: str) -> dict[str, dict]:
    """Runs a command in `folder` and returns what its processes wrote there, by rank."""
    run = subprocess.run(
        command,
        cwd=folder,
        env={**clean_environment(folder), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("rank_*.json")}


def test_every_configuration_is_expected():
    assert {path.stem for path in CONFIGS.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads(name):
    config = read(CONFIGS / f"{name}.yaml")
    read_as = (
        config.distributed_type.value,
        config.num_machines,
        config.num_processes,
        config.mixed_precision,
    )
    assert read_as == EXPECTED[name]
    assert config.use_cpu == name.startswith("cpu")


@pytest.mark.parametrize("line", ["num_procesess: 2", "fsdp_config: {fsdp_vresion: 2}"])
def test_an_unknown_key_is_found(tmp_path, line):
    path = tmp_path / "misspelt.yaml"
    path.write_text((CONFIGS / "cpu.yaml").read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"unknown keys.*(num_procesess|fsdp_vresion)"):
        read(path)


def test_fsdp_wraps_the_layers_and_nothing_around_the_patch_embeddings():
    settings = read(CONFIGS / "fsdp2.yaml").fsdp_config or {}
    wrapped = settings["fsdp_transformer_layer_cls_to_wrap"].split(",")
    model = VisionTransformerForImageClassification(
        VisionTransformerConfig(
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=8,
            image_size=8,
            patch_size=4,
        )
    )
    found = [module for module in model.modules() if type(module).__name__ in wrapped]
    assert found == list(model.vit.layers)
    # accelerate shards this module by itself, see `fsdp2_prepare_model`.
    inputs = model.get_input_embeddings()
    assert not any(inputs in module.modules() for module in found)


@pytest.mark.slow
def test_cpu_processes_are_two(tmp_path):
    script = tmp_path / "trainee.py"
    script.write_text(TRAINEE)
    config = CONFIGS / "cpu_processes.yaml"
    met = launch(["accelerate", "launch", "--config_file", config, script, "--x"], tmp_path)
    everyone = {"processes": [[0, 0], [1, 1]], "arguments": ["--x"]}
    assert met == {"rank_0": everyone, "rank_1": everyone}


@pytest.mark.slow
def test_slurm_example_joins_two_machines(tmp_path):
    """Runs the script as Slurm would, on this machine taken for two of two GPUs each."""
    programs = {
        "scontrol": 'echo 127.0.0.1; sleep 0.1; echo "second machine"',
        "srun": (
            "shift\n"  # its own flag
            'SLURM_NODEID=1 SLURM_GPUS_ON_NODE=2 "$@" & other=$!\n'
            'SLURM_NODEID=0 SLURM_GPUS_ON_NODE=2 "$@" && wait $other'
        ),
    }
    for name, body in programs.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(0o755)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "finetune.py").write_text(TRAINEE)
    shutil.copytree(CONFIGS, tmp_path / "scripts" / "accelerate_configs")
    slurm = {"SLURM_JOB_NODELIST": "two", "SLURM_JOB_ID": str(os.getpid()), "SLURM_NNODES": "2"}
    command = ["bash", SCRIPTS / "slurm_example.sh", "--dataset_name", "a folder"]
    met = launch(command, tmp_path, **slurm)
    everyone = {
        "processes": [[0, 0], [1, 1], [2, 0], [3, 1]],
        "arguments": ["--dataset_name", "a folder"],
    }
    assert met == {f"rank_{rank}": everyone for rank in range(4)}
