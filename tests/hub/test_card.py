# SPDX-License-Identifier: Apache-2.0
"""The model card: rendered from the files of an exported folder, anew at any time."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from transformers import pipeline

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
)
from vit_hf.hub import export_checkpoint, render_card
from vit_hf.hub.card import refresh_card
from vit_hf.hub.results import (
    Images,
    Metric,
    Run,
    command_line,
    parse_runs,
    read_runs,
    write_runs,
)

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 64, "image_size": (16, 24), "patch_size": 8}
SCRATCH = "the same network from scratch"
RECIPE = {
    "name": "vit-b16-cifar10",
    "source": "Dosovitskiy et al. 2020, table 4, row CIFAR-10",
    "description": "Fine-tuning.",
    "expected": [{"metric": "accuracy", "value": 99.0, "source": "table 5"}],
    "remarks": [],
    "model": {},
    "learning_rate": 0.01,
    "optim": "sgd",
}


@pytest.fixture
def folder(tmp_path):
    config = VisionTransformerConfig(**SMALL, id2label={0: "cat", 1: "dog", 2: "owl"})
    return export_checkpoint(VisionTransformerForImageClassification(config), tmp_path / "model")


def run(seed: int, **entries) -> Run:
    own, control = 0.95 + 0.01 * seed, 0.90 + 0.02 * seed
    accuracy = {"name": "accuracy", "split": "test", "num_images": 10_000}
    interval = [own - 0.004, own + 0.004]
    metrics = [
        Metric(**accuracy, value=own, confidence_interval=interval),
        Metric(**accuracy, value=control, of=SCRATCH),
        Metric(name="loss", split="test", num_images=10_000, value=0.2512),
    ]
    settings = {
        "model_name": "A small ViT",
        "task": "image-classification",
        "dataset": Images(
            name="CIFAR-10",
            splits={"train": 45_000, "validation": 5_000, "test": 10_000},
            hub_id="uoft-cs/cifar10",
            fingerprint="a1b2c3",
        ),
        "metrics": metrics,
        "command": f"vit-hf finetune --dataset_name uoft-cs/cifar10 --seed {seed}",
        "seed": seed,
        "versions": {"vit_hf": "0.1.0", "torch": "2.13.0"},
        "seconds": 60.4 + seed,
        "settings": {"learning_rate": 0.01},
        "recipe": "vit-b16-cifar10",
        "phases": [{"name": "fine-tuning", "steps": 900, "learning rate": 0.01}],
        "pictures": {"rollout.png": "Attention rollout."},
    }
    return Run(**(settings | entries))


def render(folder, runs, **settings) -> str:
    write_runs(runs, folder / "results.json")
    return render_card(folder, **settings).read_text()


def test_one_run(folder):
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    card = render(folder, [run(0)])
    assert "# A small ViT\n" in card
    row = "| accuracy on test (10,000 images) | 95.00 % (95 % interval 94.60 % to 95.40 %) | 0 |"
    assert row in card
    assert f"| accuracy on test of {SCRATCH} (10,000 images) | 90.00 % | 0 |" in card
    assert f"| gain in accuracy on test over {SCRATCH} | +5.00 points | 0 |" in card
    assert "| loss on test (10,000 images) | 0.2512 | 0 |" in card
    assert "```bash\nvit-hf finetune --dataset_name uoft-cs/cifar10 --seed 0\n```" in card
    assert "[CIFAR-10](https://huggingface.co/datasets/uoft-cs/cifar10)" in card
    assert "45,000 images for train, 5,000 images for validation, 10,000 images for test." in card
    assert "`a1b2c3`" in card and "these 3 classes and nothing else: cat, dog, owl." in card
    assert "| fine-tuning | steps 900, learning rate 0.01 |" in card
    assert "vit_hf 0.1.0, torch 2.13.0." in card and "Seed 0: 60 seconds" in card
    assert "`vit-b16-cifar10`, from Dosovitskiy et al. 2020, table 4, row CIFAR-10." in card
    assert "table 5 reports 99.0 % accuracy" in card and "| optim | sgd |" in card
    assert "![Attention rollout.](rollout.png)" in card
    assert "resized to 16x24 pixels (bilinear)" in card
    assert "\n\n\n" not in card and "Undefined" not in card and "None" not in card


def test_the_learning_rates_that_were_tried_are_told(folder):
    tried = [
        {"learning_rate": 0.003, "validation_accuracy": 0.5},
        {"learning_rate": 0.01, "validation_accuracy": 0.625},
        {"learning_rate": 0.1, "lost": "the loss is nan"},
    ]
    assert "learning rate was chosen" not in render(folder, [run(0, details={"sweep": None})])
    card = render(folder, [run(0, details={"sweep": tried})])
    rows = "| 0.003 | 50.00 % |\n| **0.01** | 62.50 % |\n| 0.1 | diverged |"
    assert f"\n\n| learning rate | accuracy |\n|---|---|\n{rows}\n\nVersions" in card
    assert "\n\n\n" not in card


def test_its_metadata_is_what_the_hub_sorts_by(folder):
    render(folder, [run(0), run(1)])
    data = ModelCard.load(folder / "README.md").data
    assert data.license is None and data.library_name == "transformers"
    assert data.pipeline_tag == "image-classification" and "vit" in data.tags
    assert data.datasets == ["uoft-cs/cifar10"] and data.metrics == ["accuracy", "loss"]
    accuracy, loss = data.eval_results  # of the weights in the folder: the first run's own
    assert accuracy.metric_value == 0.95 and accuracy.dataset_split == "test"
    assert accuracy.dataset_type == "uoft-cs/cifar10" and accuracy.dataset_name == "CIFAR-10"
    assert loss.metric_type == "loss" and data.model_name == "A small ViT"


def test_several_seeds_are_told_as_their_mean_and_each(folder):
    card = render(folder, [run(0), run(1), run(2)])
    assert "| 96.00 % ± 1.00 % (95.00 %, 96.00 %, 97.00 %) | 0, 1, 2 |" in card
    # The gains are those of each seed: +5, +4 and +3 points.
    gain = "+4.00 points ± 1.00 (+5.00, +4.00, +3.00)"
    assert f"| gain in accuracy on test over {SCRATCH} | {gain} | 0, 1, 2 |" in card
    assert "The weights here are those of seed 0." in card
    for seed in (0, 1, 2):
        assert f"--seed {seed}\n" in card and f"Seed {seed}: {60.4 + seed:.0f} seconds" in card


def test_a_licence_is_named_by_those_who_trained_the_weights(folder):
    card = render(folder, [run(0, settings={"license": "mit"})])
    assert ModelCard(card).data.license == "mit" and "The weights are under mit." in card


def test_the_licence_of_other_weights_is_not_ours_to_say(folder):
    name = "google/vit-base-patch16-224"
    card = render(folder, [run(0, base_model=name, base_model_hub_id=name)])
    data = ModelCard(card).data
    assert data.license is None and data.base_model == name
    write_runs([run(0, base_model="runs/mine")], folder / "results.json")
    data = ModelCard.load(render_card(folder)).data
    assert data.base_model is None and data.license is None  # whatever was in that folder
    assert "started from `runs/mine`" in (folder / "README.md").read_text()


def test_a_dataset_that_is_not_from_the_hub(folder):
    digits = Images(name="scikit-learn digits", splits={"train": 1437, "test": 360})
    card = render(folder, [run(0, dataset=digits)])
    assert ModelCard(card).data.datasets is None
    assert "On scikit-learn digits: 1,437 images for train, 360 images for test." in card


def test_masked_patch_prediction_opens_as_features(tmp_path):
    model = VisionTransformerForMaskedPatchPrediction(VisionTransformerConfig(**SMALL))
    folder = export_checkpoint(model, tmp_path / "model")
    loss = Metric(name="loss", split="test", num_images=10, value=0.9)
    card = render(folder, [run(0, task="masked-patch-prediction", metrics=[loss])])
    assert ModelCard(card).data.pipeline_tag == "image-feature-extraction"
    assert 'pipeline("image-feature-extraction"' in card and "nothing else" not in card


def test_how_masked_patches_are_predicted_runs(tmp_path, folder, monkeypatch):
    assert "to_picture" not in render_card(folder).read_text()
    model = VisionTransformerForMaskedPatchPrediction(VisionTransformerConfig(**SMALL))
    card = render_card(export_checkpoint(model, tmp_path / "masked")).read_text()
    Image.effect_noise((60, 40), 80).convert("RGB").save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    _, predicting, *_ = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    namespace: dict = {}
    exec(predicting, namespace)
    assert namespace["picture"].shape == (1, 3, 16, 24)
    assert namespace["picture"].abs().max() <= 1


def test_it_tells_what_pictures_are_served_wrongly(folder):
    """transformers' image processor makes white of 16 bits, and no error."""
    assert "8 bits a channel" in render_card(folder).read_text()
    settings = folder / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_convert_rgb": False}))
    assert "8 bits a channel" not in render_card(folder).read_text()


def test_its_four_lines_run(folder, tmp_path, monkeypatch):
    card = render_card(folder).read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) <= 4
    Image.new("RGB", (30, 20)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert len(names["pipe"]("image.png")) == 3
    assert isinstance(names["pipe"], type(pipeline("image-classification", model=str(folder))))


def test_a_folder_without_results_says_what_it_knows(folder):
    card = render_card(folder, repo_id="owner/name").read_text()
    assert "# name\n" in card and 'model="owner/name"' in card
    assert "## Results" not in card and "## Training" not in card and "license:" not in card
    assert (
        f"{VisionTransformerForImageClassification.from_pretrained(folder).num_parameters():,}"
        in card
    )


def test_results_and_pictures_can_be_given(folder):
    card = render_card(folder, results=asdict(run(0)), pictures={"a.png": "A."}).read_text()
    assert "95.00 %" in card and "![A.](a.png)" in card and "rollout.png" not in card


def test_a_card_that_was_edited_is_left_alone(folder):
    write_runs([run(0)], folder / "results.json")
    assert refresh_card(folder) and refresh_card(folder, repo_id="owner/name")
    card = folder / "README.md"
    assert 'model="owner/name"' in card.read_text()
    lines = card.read_text().splitlines(keepends=True)
    card.write_text("".join(line for line in lines if "delete this line" not in line) + "Mine.\n")
    assert not refresh_card(folder) and card.read_text().endswith("Mine.\n")
    render_card(folder)
    assert "Mine." not in card.read_text()  # asked for by name


def test_results_come_back_as_they_were_written(tmp_path):
    for runs in ([run(0)], [run(0), run(1)]):
        assert read_runs(write_runs(runs, tmp_path / "results.json")) == runs


def test_a_mean_over_its_own_seeds(folder):
    metric = Metric(
        name="few_shot_5_accuracy",
        split="test",
        value=0.5,
        num_images=100,
        confidence_interval=[0.4, 0.6],
        seeds=[0, 1, 2],
        values=[0.4, 0.5, 0.6],
    )
    error = Metric(name="expected_calibration_error", split="test", value=0.0412, num_images=100)
    card = render(folder, [run(7, metrics=[metric, error])])
    row = "| few shot 5 accuracy on test (100 images) | 50.00 % (95 % interval 40.00 % to 60.00 %)"
    assert f"{row} | 0, 1, 2 |" in card
    assert "| expected calibration error on test (100 images) | 4.12 % | 7 |" in card


@pytest.mark.parametrize("name", ["digits", "cifar10-masked-patch-prediction"])
def test_results_of_former_versions_are_read(name):
    path = Path(__file__).parents[2] / "model_cards" / name / "results.json"
    runs = read_runs(path)
    assert runs and all(run.metrics and run.preprocessing == {} for run in runs)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda run: run.pop("seed"), "the run lacks seed; it has model_name"),
        (lambda run: run.update(sead=1), "has the entry 'sead', allowed: .*Did you mean 'seed'"),
        (lambda run: run.update(seed="0"), "'seed' expected int, got str"),
        (lambda run: run.update(metrics={}), "got metrics={}, expected a list"),
        (lambda run: run["metrics"][1].pop("split"), r"metrics\[1\] lacks split"),
        (lambda run: run["metrics"][0].update(value="1"), r"metrics\[0\]: .*'value'"),
        (lambda run: run["dataset"].update(splits=3), "dataset: .*'splits'"),
        (lambda run: run.update(task="guessing"), "'task'.*guessing"),
    ],
)
def test_results_of_another_kind_are_refused(folder, change, expected):
    write_runs([run(0)], folder / "results.json")
    entries = json.loads((folder / "results.json").read_text())
    change(entries)
    (folder / "results.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=expected) as raised:
        render_card(folder)
    assert "results.json: " in str(raised.value)


def test_no_run_no_configuration_no_source_of_the_recipe(folder, tmp_path):
    with pytest.raises(ValueError, match="got no run"):
        parse_runs([])
    with pytest.raises(ValueError, match=r"has no config.json; give an exported folder"):
        render_card(tmp_path)
    (folder / "recipe.json").write_text('{"name": "mine"}')
    with pytest.raises(ValueError, match="lacks name or source"):
        render_card(folder)


def test_commands_are_told_without_tokens():
    words = ["vit-hf", "finetune", "--hub_token", "hf_secret", "--seed", "1", "--out", "a b"]
    assert command_line(words) == "vit-hf finetune --hub_token TOKEN --seed 1 --out 'a b'"
    assert command_line(["x", "--hub_token=hf_secret"]) == "x --hub_token=TOKEN"
