# SPDX-License-Identifier: Apache-2.0
"""`vit-hf plan`: table 6 through its JSON, models by name, recipes with flags over them."""

import json
import re
from pathlib import Path

import pytest

from vit_hf.cli import main
from vit_hf.cli.plan import Arguments, device_of, find_model, models_by_name, run_of
from vit_hf.planning import DEFAULT_UTILISATION, DEVICES
from vit_hf.recipes import get, sizes

JFT = ("--num_images", "303000000", "--batch_size", "4096")  # 303 million images, section 4.1
SMALL = ("--image_size", "64", "--num_images", "1000", "--epochs", "2", "--batch_size", "128")
slow = pytest.mark.slow
# Dosovitskiy et al. 2020, table 6: model, epochs, exaFLOPs
TABLE_6 = [
    ("B/32", 7, 55),
    pytest.param("B/16", 7, 224, marks=slow),
    pytest.param("L/32", 7, 196, marks=slow),
    pytest.param("L/16", 7, 783, marks=slow),
    pytest.param("L/16", 14, 1567, marks=slow),
    pytest.param("H/14", 14, 4262, marks=slow),
    pytest.param("R50+B/32", 7, 106, marks=slow),
    pytest.param("R50+B/16", 7, 274, marks=slow),
    pytest.param("R50+L/32", 7, 246, marks=slow),
    pytest.param("R50+L/16", 7, 859, marks=slow),
]


def planned(folder, *words: str) -> dict:
    """Runs the verb and returns the JSON that it writes."""
    path = folder / "plans" / "plan.json"
    assert main(["plan", *words, "--json", str(path)]) == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize(("model", "epochs", "exaflops"), TABLE_6)
def test_table_6(model, epochs, exaflops, tmp_path):
    found = planned(tmp_path, "--model", model, "--epochs", str(epochs), *JFT, "--devices", "8")
    assert found["model"] == model
    assert found["total_exaflops"] == pytest.approx(exaflops, rel=0.05)
    assert found["memory_bytes_per_device"] == sum(found["memory_bytes"].values())
    assert found["device_hours"] == pytest.approx(8 * found["hours"])


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("L/16", sizes.VIT_L16),
        ("vit-l16", sizes.VIT_L16),
        ("ViT-H/14", sizes.VIT_H14),
        ("ti_16", sizes.VIT_TI16),
        ("R50+ViT-B/32", sizes.R50_VIT_B32),
        ("r50-l16", sizes.R50_VIT_L16),
        ("R+Ti/16", sizes.R_VIT_TI16),
        ("R26+S/32", sizes.R26_VIT_S32),
    ],
)
def test_any_spelling(name, size):
    assert find_model(name)[1] == size


def test_the_flags_say_what_the_tables_say():
    devices = Arguments.__dataclass_fields__["device_type"].metadata["help"]
    assert devices.startswith(f"{', '.join(DEVICES)}, or cpu")
    assert Arguments().utilisation == DEFAULT_UTILISATION


def test_every_size_has_a_name():
    named = models_by_name()
    assert len(named) == sum("VIT" in constant for constant in vars(sizes)) == 16
    assert all(find_model(name) == (name, size) for name, size in named.items())


def test_every_published_variant_has_a_name():
    """And the numbers of the authors' `vit_jax/configs/models.py`."""
    fixture = Path(__file__).parents[1] / "fixtures" / "param_counts.json"
    for name, variant in json.loads(fixture.read_text())["models"].items():
        _, size = find_model(name.removesuffix("-gap-norep"))
        theirs = variant["config"]
        assert size["hidden_size"] == theirs["hidden_size"], name
        assert [size["patch_size"]] * 2 == theirs["patches"]["size"], name
        assert size.get("stem_blocks") == theirs.get("resnet", {}).get("num_layers"), name
        encoder = theirs["transformer"]
        assert size["num_hidden_layers"] == encoder["num_layers"], name
        assert size["intermediate_size"] == encoder["mlp_dim"], name


@pytest.mark.slow
def test_a_recipe_with_flags_over_it(tmp_path, capsys):
    recipe = get("cifar10-scratch-tiny")
    own = planned(tmp_path, "--recipe", recipe.name)
    assert own["batch_size"] == recipe.arguments["total_train_batch_size"]
    assert own["optimizer"] == recipe.arguments.get("optim", "adamw_torch_fused")
    words = ("--optim", "sgd", "--num_labels", "20", "--dtype", "float32", "--epochs", "3")
    other = planned(tmp_path, "--recipe", recipe.name, *words, "--gradient_checkpointing")
    assert other["num_images"] == 3 * recipe.dataset.num_images
    assert other["parameters"] - own["parameters"] == 10 * (recipe.model["hidden_size"] + 1)
    assert other["memory_bytes"]["optimizer"] < own["memory_bytes"]["optimizer"]
    assert other["gradient_checkpointing"] and other["dtype"] == "float32"
    shown = capsys.readouterr().out
    assert "without gradient checkpointing" in shown and "what limits" in shown


def test_a_recipe_of_masked_patch_prediction():
    _, run = run_of(Arguments(recipe="cifar10-masked-patch-prediction-tiny"))
    assert run.step.task == "masked-patch-prediction"
    _, run = run_of(Arguments(recipe="vit-finetune-pets", ema_decay=0.9999, devices=4))
    assert run.average and run.step.optimizer == "sgd" and run.parallel.num_devices == 4
    assert (run.per_device_batch_size, run.num_batches) == (128, 1)


def test_this_machine(tmp_path):
    words = ("--model", "Ti/16", *SMALL, "--devices", "2", "--device_type", "cpu", "--flops", "1e9")
    own = planned(tmp_path, *words)
    assert own["device"]["source"] == "--flops" and own["fits"]
    assert set(own["seconds_per_update"]) == {"compute"}
    assert own["device"]["is_accelerator"] is False and own["dtype"] == "float32"


@pytest.mark.parametrize(("busy", "told"), [(0.02, False), (0.8, True)])
def test_a_busy_machine_is_said_to_be(busy, told, monkeypatch):
    monkeypatch.setattr("vit_hf.benchmark.machine.busy_share", lambda: busy)
    monkeypatch.setattr("vit_hf.cli.plan.MEASURED_SECONDS", 0)
    device, _ = device_of(Arguments(device_type="cpu"), width=32)
    assert device.source.startswith("measured here")
    assert ("while other work took 80% of the processors" in device.source) == told


@pytest.mark.slow
def test_it_says_what_would_fit(capsys, tmp_path):
    words = ("--model", "Ti/16", *SMALL, "--image_size", "1024", "--device_type", "t4")
    assert planned(tmp_path, *words)["limit"] == "memory"
    shown = capsys.readouterr().out
    assert "IT DOES NOT FIT into 16 GB" in shown and "--per_device_train_batch_size" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "L/15", *SMALL), "got the model 'L/15', allowed: .* Did you mean 'L/16'"),
        (SMALL, "got neither --model nor --recipe"),
        (("--model", "B/16"), "give --num_images and --epochs, or --recipe"),
        (("--model", "B/16", *SMALL, "--device_type", "h10"), "Did you mean 'h100'"),
        (("--model", "B/16", *SMALL, "--fsdp"), "allowed: 2 devices or more"),
        (("--model", "B/16", *SMALL, "--devices", "0"), "got 0 devices, allowed: 1 or more"),
        (("--model", "B/16", *SMALL, "--batch_size", "0"), "got --batch_size 0, allowed: 1 and"),
        (("--model", "B/16", *SMALL, "--per_device_train_batch_size", "0"), "allowed: 1 and more"),
        (("--model", "B/16", *SMALL, "--num_labels", "-3"), "got --num_labels -3, allowed: 0 and"),
        (("--model", "B/16", *SMALL, "--ema_decay", "-1"), "got --ema_decay -1, allowed: from 0"),
        (("--model", "B/16", *SMALL, "--ema_decay", "1"), "got --ema_decay 1, allowed: from 0"),
        (("--model", "B/16", *SMALL, "--flops", "0"), "got --flops 0, allowed: above 0"),
        (("--model", "B/16", *SMALL, "--epochs", "nan"), "got --epochs nan, allowed: above 0"),
        (("--recipe", "vit-b16-jft300"), "Did you mean 'vit-b16-jft300m'"),
    ],
)
def test_words_that_leave_it_open(words, message, capsys):
    assert main(["plan", *words]) == 2
    assert re.search(message, capsys.readouterr().err)
