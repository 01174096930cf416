# SPDX-License-Identifier: Apache-2.0
"""The four studies in miniature, on the digits: what is run is what the arms say."""

import json
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification, ResNetForImageClassification

import vit_hf
from vit_hf.cli import main
from vit_hf.experiment.arguments import DataArguments
from vit_hf.studies import STUDIES, running
from vit_hf.studies.figure import STYLES, draw_study
from vit_hf.studies.operations import networks, operations
from vit_hf.studies.running import run_study
from vit_hf.studies.scale import SCALES
from vit_hf.studies.table import table

ROOT = Path(__file__).parents[2]
MINIATURE = replace(SCALES["miniature"], flip=False, num_test_images=50)


def run(name, folder, *, keep=lambda arm: True, seeds=(0,), scale=MINIATURE):
    """Runs the arms of a study that are kept."""
    whole = STUDIES[name]
    arms = [arm for arm in whole.make_arms(scale) if keep(arm)]
    study = replace(whole, make_arms=lambda scale: arms)
    return run_study(study, scale, DataArguments(), seeds=seeds, output_dir=folder)


def model_of(folder, run):
    """Opens the weights of a run."""
    arm = next(path for path in (folder / "arms").iterdir() if told(path) == run["arm"])
    return AutoModelForImageClassification.from_pretrained(arm / f"seed-{run['seed']}")


def told(path):
    return json.loads((path / "seed-0" / "results.json").read_text())["model_name"]


@pytest.fixture(scope="module")
def resolutions(tmp_path_factory):
    """The study of the resolution from the command line, with two seeds; weights hardly move."""
    folder = tmp_path_factory.mktemp("resolutions")
    words = ["study", "higher_resolution", "--scale", "miniature", "--seeds", "0", "1"]
    words += ["--no_flip", "--learning_rate", "1e-6", "--num_test_images", "50"]
    words += ["--output_dir", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["/somewhere/vit-hf", *words])  # which the account tells
        assert main(words) == 0
    return folder


def test_the_account_holds_every_run_and_its_means(resolutions):
    content = json.loads((resolutions / "study.json").read_text())
    assert len(content["runs"]) == 8 and {run["seed"] for run in content["runs"]} == {0, 1}
    assert content["command"].startswith("vit-hf study higher_resolution --scale miniature")
    assert content["dataset"]["splits"] == {"train": 1437, "test": 360}
    assert content["dataset"]["test_images_measured"] in range(50, 60)  # rounded up by class
    assert len(content["dataset"]["fingerprint"]) == 16 and content["versions"]["torch"]
    for run in content["runs"]:
        accuracy = run["metrics"]["accuracy"]
        low, high = accuracy["confidence_interval"]
        assert low <= accuracy["value"] <= high and run["seconds"] > 0
    for arm in content["arms"]:
        values = [
            run["metrics"]["loss"]["value"] for run in content["runs"] if run["arm"] == arm["arm"]
        ]
        first, second = values
        loss = arm["metrics"]["loss"]
        assert loss["mean"] == pytest.approx((first + second) / 2)
        assert loss["deviation"] == pytest.approx(abs(first - second) / 2**0.5)
        assert first != second  # the seed counts
    assert (resolutions / "study.png").read_bytes()[1:4] == b"PNG"


def test_positions_are_interpolated_afresh_or_as_they_were(resolutions):
    content = json.loads((resolutions / "study.json").read_text())
    before, interpolated, fresh, same = (
        model_of(resolutions, run) for run in content["runs"] if run["seed"] == 0
    )
    assert before.config.grid == same.config.grid == (2, 2)
    assert interpolated.config.grid == fresh.config.grid == (4, 4)
    before.set_image_size(16)
    table_of = {
        name: next(iter(model.vit.positions.parameters()))
        for name, model in {"before": before, "interpolated": interpolated, "fresh": fresh}.items()
    }
    torch.testing.assert_close(table_of["interpolated"], table_of["before"], atol=5e-5, rtol=0)
    assert (table_of["fresh"] - table_of["before"]).abs().max() > 1e-3
    kernel = "vit.layers.0.mlp.fc1.weight"
    for model in (interpolated, fresh, same):  # all go on from the same weights
        own = model.state_dict()[kernel]
        torch.testing.assert_close(own, before.state_dict()[kernel], atol=5e-5, rtol=0)


def test_a_study_goes_on_where_it_stopped(resolutions, monkeypatch):
    content = json.loads((resolutions / "study.json").read_text())
    trained = []

    def watched(arm, **options):
        trained.append((arm.name, options["seed"]))
        return train_arm(arm, **options)

    train_arm = running.train_arm
    monkeypatch.setattr(running, "train_arm", watched)
    lost = next(path for path in (resolutions / "arms").iterdir() if "none" in path.name)
    (lost / "seed-1" / "results.json").unlink()
    options = {"scale": replace(MINIATURE, learning_rate=1e-6), "seeds": (0, 1)}
    again = run("higher_resolution", resolutions, **options)
    assert trained == [("fine-tuning: none, 8 px", 1)]
    kept = ["metrics", "settings", "training_flops"]
    assert [[run[k] for k in kept] for run in again["runs"]] == [
        [run[k] for k in kept] for run in content["runs"]
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": MINIATURE}, "was run with arguments"),
        ({"scale": replace(MINIATURE, learning_rate=1e-6, num_test_images=20)}, "num_test_images"),
        ({"seeds": ()}, "got seeds"),
        ({"seeds": (1, 1)}, "got seeds"),
    ],
)
def test_other_settings_are_refused(resolutions, options, message):
    with pytest.raises(ValueError, match=message):
        run("higher_resolution", resolutions, **options)


@pytest.mark.slow
def test_networks_differ_but_not_in_their_operations(tmp_path):
    keep = ("ViT, 1 %", "hybrid, 1 %", "ResNet, 1 %", "ViT, 100 %")
    content = run("data_hunger", tmp_path, keep=lambda arm: arm.name.startswith(keep))
    flops = {}
    for entry in content["runs"]:
        model, percent = model_of(tmp_path, entry), entry["place"]["percent"]
        flops[entry["place"]["network"]] = entry["training_flops"]
        assert entry["images_seen"] == MINIATURE.steps * MINIATURE.batch_size
        assert entry["training_images"] == {1: 20, 100: 1437}[percent]
        is_resnet = isinstance(model, ResNetForImageClassification)
        assert is_resnet == (entry["place"]["network"] == "ResNet")
        if not is_resnet:
            assert (model.config.stem_blocks == []) == (entry["place"]["network"] == "hybrid")
            assert model.config.grid == (4, 4)
    assert set(flops) == {"ViT", "hybrid", "ResNet"}
    assert max(flops.values()) < 1.25 * min(flops.values())


@pytest.mark.parametrize("name", SCALES)
def test_every_scale_has_networks_of_as_many_operations(name):
    scale = SCALES[name]
    found = networks(scale)
    counts = []
    for architecture, settings in found.values():
        if architecture == "resnet":
            from transformers import ResNetConfig

            config = ResNetConfig(**settings)
        else:
            config = vit_hf.VisionTransformerConfig(**settings, image_size=scale.image_size)
        counts.append(operations(config, image_size=scale.image_size))
    assert all(abs(count - counts[0]) <= 0.2 * counts[0] for count in counts)


def test_a_resnet_costs_as_its_convolutions_say():
    from transformers import ResNetConfig

    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=10
    )
    root = 16 * 16 * 7 * 7 * 3 * 4  # a stride of 2, then a pool of 2
    block = 2 * 8 * 8 * 3 * 3 * 4 * 4
    assert operations(config, image_size=32) == 2 * (root + block + 4 * 10)


def test_a_network_too_small_for_a_hybrid_is_refused():
    with pytest.raises(ValueError, match="no hybrid comes near"):
        networks(replace(MINIATURE, hidden_size=32, num_hidden_layers=1))


@pytest.mark.slow
def test_positions_and_poolings_are_what_the_arms_say(tmp_path):
    half = MINIATURE.learning_rate / 2
    content = run(
        "positions", tmp_path, keep=lambda arm: arm.place.get("learning_rate", half) == half
    )
    kinds = {"none": "none", "1-D": "learned_1d", "2-D": "learned_2d", "relative": "relative"}
    assert len(content["runs"]) == len(kinds) + 2
    for entry in content["runs"]:
        config, place = model_of(tmp_path, entry).config, entry["place"]
        assert config.position_embedding == kinds[place.get("positions", "1-D")]
        assert (
            config.pooling
            == {"class token": "cls", "mean": "gap"}[place.get("pooling", "class token")]
        )
        rate = entry["settings"]["arguments"]["learning_rate"]
        assert rate == place.get("learning_rate", MINIATURE.learning_rate)


@pytest.mark.slow
def test_targets_and_corruption_are_what_the_arms_say(tmp_path):
    content = run(
        "masked_patch_prediction",
        tmp_path,
        keep=lambda arm: any(
            words in arm.name for words in ("mean colour, 50 %", "raw pixels, 15 %", "from scratch")
        ),
    )
    assert len(content["runs"]) == 5
    for entry in content["runs"]:
        is_pretraining = entry["place"]["phase"] == "pre-training"
        assert ("few_shot_10_accuracy" in entry["metrics"]) == is_pretraining
        assert ("accuracy" in entry["metrics"]) != is_pretraining
        assert entry["training_images"] == (1437 if is_pretraining else 149)
        assert (entry["settings"]["start"] is not None) == (
            not is_pretraining and entry["place"]["target"] != "from scratch"
        )
    found = set()
    for path in (tmp_path / "arms").glob("pre-training*/seed-0/config.json"):
        config = json.loads(path.read_text())
        found.add((config["prediction_target"], config["corruption_ratio"]))
    assert found == {("mean_color", 0.5), ("raw_pixels", 0.15)}
    losses = [entry["metrics"]["loss"]["value"] for entry in content["runs"]]
    assert losses[0] == pytest.approx(6.2, abs=0.3)  # ln 512 before it is trained
    assert losses[2] < 1  # pixels


def test_figures_have_labels_bars_and_colours_that_survive_grey(resolutions):
    for study in STUDIES.values():
        arms = [
            {
                "arm": arm.name,
                "place": arm.place,
                "num_seeds": 3,
                "metrics": {
                    name: {"mean": 0.5, "deviation": 0.03}
                    for name in ("accuracy", "few_shot_10_accuracy")
                },
            }
            for arm in study.make_arms(SCALES["small"])
        ]
        figure = draw_study(study, {"arms": arms})
        assert len(figure.axes) == len(study.panels)
        for axes, panel in zip(figure.axes, study.panels, strict=True):
            assert axes.get_xlabel() and "(%)" in axes.get_ylabel()
            drawn = [container.lines[0].get_ydata() for container in axes.containers]
            assert sum(map(len, drawn)) == sum(panel.shows(arm["place"]) for arm in arms) > 2
            (bars,) = axes.containers[0].lines[2]
            low, high = bars.get_segments()[0][:, 1]
            assert (low, high) == pytest.approx((47, 53))
    lightness = [
        sum(w * int(s["color"][i : i + 2], 16) / 255 for w, i in ((0.3, 1), (0.59, 3), (0.11, 5)))
        for s in STYLES
    ]
    gaps = [after - before for before, after in pairwise(lightness)]
    assert min(gaps) > 0.15 and len({s["marker"] for s in STYLES}) == len(STYLES)


def test_the_table_has_a_row_for_every_arm(resolutions):
    content = json.loads((resolutions / "study.json").read_text())
    header, rule, *rows = table(content)
    assert len(rows) == 4 and len({len(line) for line in (header, rule, *rows)}) == 1
    assert all(arm["arm"] in row and "±" in row for arm, row in zip(content["arms"], rows))


def test_the_documentation_is_rendered_from_the_account(resolutions, tmp_path):
    page = tmp_path / "studies.md"
    page.write_text((ROOT / "docs" / "studies.md").read_text())
    spec = spec_from_file_location("render_studies", ROOT / "scripts" / "render_studies.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    for _ in range(2):  # again, over what it wrote
        script.render(resolutions, page)
    text = page.read_text()
    content = json.loads((resolutions / "study.json").read_text())
    assert text.count(f"\n{content['command']}\n") == 1 and table(content)[2] in text
    assert text.count("What came out") == 4  # what is written by hand stays
    assert (tmp_path / "studies" / "higher_resolution.png").is_file()
    assert json.loads((tmp_path / "studies" / "higher_resolution.json").read_text()) == content


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["higher_resolutions"], "Did you mean 'higher_resolution'?"),
        (["positions", "--scale", "smal"], "Did you mean 'small'?"),
        (["positions", "--image_size", "24"], "got image_size=24"),
        (["positions", "--hidden_size", "40"], "got hidden_size=40, allowed: multiples of 32"),
        (["positions", "--steps", "0"], "got steps=0"),
    ],
)
def test_bad_words_are_refused(words, message, tmp_path, capsys):
    try:
        status = main(["study", *words, "--output_dir", str(tmp_path)])
    except SystemExit as exit:
        status = exit.code
    assert status == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "flips"),
    [
        ([], False),
        (["--flip", "true"], True),
        (["--flip"], True),
        (["--dataset_name", "photos"], True),
        (["--dataset_name=photos", "--no_flip"], False),
    ],
)
def test_who_mirrors(words, flips, monkeypatch):
    scales = []
    monkeypatch.setattr(running, "run_study", lambda _, scale, *rest, **named: scales.append(scale))
    assert main(["study", "positions", *words]) == 0
    assert scales[0].flip == flips


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_whole(name, tmp_path):
    words = ["study", name, "--scale", "miniature", "--seeds", "0", "--no_flip"]
    assert main([*words, "--output_dir", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "study.json").read_text())
    assert len(content["arms"]) == len(STUDIES[name].make_arms(MINIATURE))
