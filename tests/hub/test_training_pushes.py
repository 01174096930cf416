# SPDX-License-Identifier: Apache-2.0
"""`--push_to_hub`: a run pushes what it trained, and does not die of a Hub that refuses it."""

import json
import os
import subprocess
import sys

import pytest

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 32, "image_size": 16, "patch_size": 8, "num_labels": 2}


def finetune(hub, tmp_path, color_folder, *, token):
    """Fine-tunes in a process that knows no Hub but `hub`; returns what it printed."""
    images = color_folder(tmp_path / "images", per_class=10)
    model = VisionTransformerForImageClassification(VisionTransformerConfig(**SMALL))
    model.save_pretrained(tmp_path / "start")
    words = ["--dataset_name", images, "--model_name_or_path", tmp_path / "start", "--use_cpu"]
    words += [
        "--max_steps",
        4,
        "--output_dir",
        tmp_path / "out",
        "--per_device_train_batch_size",
        4,
    ]
    words += ["--push_to_hub", "--hub_model_id", "tester/colors", "--hub_token", token]
    code = "import sys; from vit_hf.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "finetune", *map(str, words)],
        env={
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_run_pushes_what_it_trained(hub, tmp_path, color_folder):
    shown = finetune(hub, tmp_path, color_folder, token="hf_write")
    assert "pushed: " in shown and "opened again from there" in shown
    stored = hub.files("tester/colors")
    for name in (
        "model.safetensors",
        "results.json",
        "README.md",
        "modeling_vision_transformer.py",
    ):
        assert stored[name] == (tmp_path / "out" / name).read_bytes()
    results = json.loads(stored["results.json"])
    assert "hf_write" not in stored["results.json"].decode()
    assert results["task"] == "image-classification" and len(results["metrics"]) == 2
    assert "checkpoint-4" not in {name.split("/")[0] for name in stored}


@pytest.mark.slow
def test_a_hub_that_refuses_ends_no_run(hub, tmp_path, color_folder):
    shown = finetune(hub, tmp_path, color_folder, token="hf_unknown")
    assert "not pushed: " in shown and "401" in shown and "Everything is kept in" in shown
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "tester/colors" not in hub.repositories
