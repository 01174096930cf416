# SPDX-License-Identifier: Apache-2.0
"""`vit-hf inspect`: the figures of a checkpoint, and one report that needs nothing else."""

import html
import json
import re
import shutil
import subprocess
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)
from vit_hf.cli import main
from vit_hf.converters import save_checkpoint
from vit_hf.hub import export_checkpoint
from vit_hf.hub.results import Images, Metric, Run, write_runs
from vit_hf.inspection import report

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": (24, 32),
    "patch_size": 8,
}
NAMES = {0: "cat", 1: "dog", 2: "<script>alert(1)</script>", 3: "fish & chips", 4: "owl", 5: "elk"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def make_model(model_class=VisionTransformerForImageClassification, **settings):
    """Returns a small model whose weights are all different from zero."""
    torch.manual_seed(0)
    model = model_class(VisionTransformerConfig(**{**SMALL, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", autouse=True)
def small_figures():
    """Figures of a few pixels, which are drawn sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "DOTS_PER_INCH", 60)
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A classifier's folder."""
    folder = tmp_path_factory.mktemp("checkpoint")
    export_checkpoint(make_model(id2label=NAMES), folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory, encoded_image):
    """A folder with three photos, one of them deeper, with an awkward name, and one broken file."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "inner").mkdir()
    (folder / "a.png").write_bytes(encoded_image(1))
    (folder / "b <i> & 'c'.jpg").write_bytes(encoded_image(2, size=(40, 30), format="JPEG"))
    (folder / "inner" / "d.png").write_bytes(encoded_image(3))
    (folder / "inner" / "e.png").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("no picture")
    return folder


class Page(HTMLParser):
    """What a test asks of a page: its tags with their attributes, and its text."""

    def __init__(self, source: str):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(source.replace("<wbr>", ""))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def inspect(checkpoint, folder, *words) -> Page:
    assert main(["inspect", str(checkpoint), "--output_dir", str(folder), *map(str, words)]) == 0
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def inlined(page: Page) -> list[Image.Image]:
    pictures = []
    for attributes in page.all("img"):
        data = attributes["src"].removeprefix("data:image/png;base64,")
        pictures.append(Image.open(BytesIO(b64decode(data))))
        pictures[-1].load()
    return pictures


@pytest.fixture(scope="module")
def inspected(checkpoint, photos, tmp_path_factory):
    """The folder and the page of a classifier with photos, its figures wider than a phone."""
    folder = tmp_path_factory.mktemp("inspected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "DOTS_PER_INCH", 200)
        return folder, inspect(checkpoint, folder, "--images", photos, "--num_shown", 4)


def test_everything_is_written(inspected, capsys):
    folder, page = inspected
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "report.html",
        "position_similarity.png",
        "filter_components.png",
        "attention_distance.png",
        "attention_rollout.png",
        "pooled_attention_1.png",
        "pooled_attention_2.png",
        "pooled_attention_3.png",
    }
    files = {file.read_bytes() for file in folder.glob("*.png")}
    sources = [attributes["src"].partition("base64,")[2] for attributes in page.all("img")]
    inline = {b64decode(source) for source in sources}
    assert files < inline  # the same figures, and the photos of the predictions
    assert len(inlined(page)) == 7 + 3
    assert "Not shown: VisionTransformerForImageClassification was not made to" in page.text
    for name in ("hidden_size 32", "grid 3 x 4 patches", "tokens 13, of which 1", "classes 6"):
        assert name in page.text


def test_the_report_needs_nothing_else(inspected):
    folder, page = inspected
    source = (folder / "report.html").read_text(encoding="utf-8")
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not page.all("script") and "url(" not in source and "@import" not in source
    for _, attributes in page.tags:
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#"))
    assert all(attributes["alt"] for attributes in page.all("img"))
    targets = {attributes.get("id") for attributes in page.all("section")}
    assert {attributes["href"][1:] for attributes in page.all("a")} == targets
    assert "&lt;script&gt;alert(1)" in source and "<i>" not in source


def test_predictions_are_the_pipelines(checkpoint, photos, inspected):
    classify = pipeline("image-classification", model=str(checkpoint), top_k=5)
    text = inspected[1].text
    for name in ("a.png", "b <i> & 'c'.jpg"):
        told = text.partition(f"{name} ")[2]
        for top in classify(str(photos / name)):
            expected = f"{top['label']} {top['score']:.1%}"
            assert told.startswith(expected)
            told = told.removeprefix(expected).strip()


def test_without_photos(checkpoint, tmp_path, capsys):
    page = inspect(checkpoint, tmp_path)
    assert {file.name for file in tmp_path.glob("*.png")} == {
        "position_similarity.png",
        "filter_components.png",
    }
    assert page.text.count("Not shown: it needs photos: give them with --images") == 3
    assert "There are no photos; give them with --images." in page.text
    assert "not shown: Attention rollout: it needs photos" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model_class", "settings", "expected"),
    [
        (
            VisionTransformerForMaskedPatchPrediction,
            {},
            ["masked_prediction.png", "VisionTransformerForMaskedPatchPrediction has no classes."],
        ),
        (
            VisionTransformerModel,
            {"pooling": "map", "position_embedding": "relative", "num_register_tokens": 2},
            ["got position_embedding='relative'; allowed: learned_1d", "probe of the attention"],
        ),
        (
            VisionTransformerForImageClassification,
            {"stem_blocks": [1], "stem_width": 32, "patch_size": 2, "pooling": "gap"},
            ["Filters of the hybrid's root", "the mean of the patch tokens", "patch 8 x 8 pixels"],
        ),
        (
            VisionTransformerForImageClassification,
            {"pooling": "none"},
            ["The model predicts every token, not the image."],
        ),
        (
            VisionTransformerForImageClassification,
            {"classification_loss": "sigmoid", "num_labels": 3},
            ["LABEL_2"],
        ),
    ],
)
def test_other_models(photos, tmp_path, model_class, settings, expected):
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "report"
    export_checkpoint(make_model(model_class, **settings), checkpoint)
    page = inspect(checkpoint, folder, "--images", photos / "a.png", "--image_size", 48, 40)
    assert "grid 6 x 5 patches" in page.text
    files = " ".join(file.name for file in folder.iterdir())
    for words in expected:
        assert words in page.text or words in files


def test_a_zero_head_predicts_nothing(photos, tmp_path):
    model = make_model()
    model.reset_classifier(3)
    export_checkpoint(model, tmp_path / "checkpoint")
    page = inspect(tmp_path / "checkpoint", tmp_path / "report", "--images", photos / "a.png")
    assert "The classification head is all zeros" in page.text


def test_a_foreign_checkpoint_and_its_passport(photos, tmp_path):
    foreign, own = tmp_path / "foreign", tmp_path / "own"
    save_checkpoint(make_model(id2label=NAMES, image_size=32), foreign, format="transformers")
    page = inspect(foreign, tmp_path / "first", "--images", photos / "a.png")
    assert "transformers' ViTForImageClassification" in page.text
    assert "There is no parity.json beside the checkpoint: it was not converted." in page.text

    assert main(["convert", str(foreign), str(own), "--to", "vit_hf", "--verify"]) == 0
    passport = json.loads((own / "parity.json").read_text())
    page = inspect(own, tmp_path / "second")
    for comparison in passport["comparisons"]:
        for output, difference in comparison["largest_difference"].items():
            assert f"{comparison['between']} {output} {difference:.3g}" in page.text
    assert passport["images"]["sha256"] in page.text and "Converted from another" in page.text

    export_checkpoint(make_model(id2label=NAMES, image_size=32, qk_norm=True), own)
    (own / "parity.json").write_text(json.dumps(passport))
    page = inspect(own, tmp_path / "third")
    assert "This passport is of other weights than those beside it." in page.text
    (own / "parity.json").write_text('{"images": 3}')
    assert "parity.json is no passport" in inspect(own, tmp_path / "fourth").text


def test_results(tmp_path, checkpoint):
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    runs = [
        Run(
            model_name="A small <ViT>",
            task="image-classification",
            dataset=Images(name="pets", splits={"train": 1200, "test": 10}),
            metrics=[Metric(name="accuracy", split="test", value=value, num_images=10)],
            command=f"vit-hf finetune --seed {seed}",
            seed=seed,
            versions={},
            seconds=1,
            settings={},
        )
        for seed, value in ((0, 0.5), (1, 0.7))
    ]
    write_runs(runs, folder / "results.json")
    page = inspect(folder, tmp_path / "report")
    assert page.text.startswith("A small <ViT>")
    assert "accuracy on test (10 images) 60.00 % ± 14.14 % (50.00 %, 70.00 %) 0, 1" in page.text
    assert "Trained on pets (1,200 train, 10 test)." in page.text
    assert "vit-hf finetune --seed 1" in page.text
    (folder / "results.json").write_text('{"model_name": 3}')
    assert "results.json is no account of a run: " in inspect(folder, tmp_path / "second").text


def test_unreadable_photos_are_told(inspected, checkpoint, photos, tmp_path, capsys):
    inspect(checkpoint, tmp_path, "--images", photos)
    told = capsys.readouterr().out
    assert told.count("cannot be read as an image, and was left out: ") == 1 and "e.png" in told


def test_the_distance_counts_the_images_that_it_has_seen(checkpoint, photos, tmp_path, monkeypatch):
    from vit_hf.experiment import inspecting

    titles, draw = [], inspecting.draw_attention_distance

    def watch(*given, **named):
        figure = draw(*given, **named)
        titles.append(figure.get_suptitle())
        return figure

    monkeypatch.setattr(inspecting, "draw_attention_distance", watch)
    inspect(checkpoint, tmp_path, "--images", photos, "--num_shown", 1)
    inspect(checkpoint, tmp_path, "--images", photos, "--num_shown", 1, "--num_images", 2)
    assert titles == ["Attention distance over 3 images", "Attention distance over 2 images"]


def test_pictures_are_shown_in_their_own_colours(tmp_path):
    """Whatever mean and deviation the processor has."""
    checkpoint = tmp_path / "checkpoint"
    export_checkpoint(make_model(id2label=NAMES, image_size=32), checkpoint)
    settings = json.loads((checkpoint / "preprocessor_config.json").read_text())
    settings |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(settings))
    pixels = np.zeros((32, 32, 3), dtype=np.uint8) + np.array([10, 100, 200], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    page = inspect(checkpoint, tmp_path / "report", "--images", tmp_path / "photo.png")
    shown = next(picture for picture in inlined(page) if picture.size == (32, 32))
    assert np.array_equal(np.asarray(shown), pixels)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "nowhere.png"], "got --images nowhere.png, which is no file and no folder"),
        (["--images", "{photos}/notes.txt"], "of which none can be read as an image: "),
        (["--images", "{empty}"], "a folder without pictures; allowed: .jpeg, .jpg, .png"),
        (["--num_images", "0"], "got --num_images 0, allowed: 1 or more"),
        (["--num_shown", "0"], "got --num_shown 0, allowed: 1 or more"),
        (["--device", "abacus"], "got --device abacus, allowed here: "),
        (["--image_size", "1", "2", "3"], "got --image_size 1 2 3, allowed: one number"),
    ],
)
def test_errors(checkpoint, photos, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    words = [word.format(photos=photos, empty=tmp_path / "empty") for word in words]
    folder = tmp_path / "report"
    assert main(["inspect", str(checkpoint), "--output_dir", str(folder), *words]) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


def test_what_is_no_checkpoint(tmp_path, capsys):
    assert main(["inspect", str(tmp_path), "--output_dir", str(tmp_path / "report")]) == 2
    assert "pass the weights file itself" in capsys.readouterr().err


def test_photos_have_three_channels(photos, tmp_path, capsys):
    checkpoint, words = tmp_path / "checkpoint", ["--output_dir", str(tmp_path / "report")]
    export_checkpoint(make_model(num_channels=1, id2label=NAMES), checkpoint)
    assert main(["inspect", str(checkpoint), *words, "--images", str(photos)]) == 2
    assert "for a model of 1 channels; photos have 3" in capsys.readouterr().err
    page = inspect(checkpoint, tmp_path / "report")
    assert len(inlined(page)) == 2


MEASURE = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">
<iframe style="border:0;width:{width}px;height:4000px" srcdoc="{page}"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const wide = [...page.querySelectorAll("body *")].filter(
    each => each.getBoundingClientRect().right > {width} + 0.5);
  document.title = JSON.stringify({{
    inner: page.defaultView.innerWidth, scroll: root.scrollWidth,
    images: [...page.images].map(each => each.complete && each.naturalWidth),
    wide: wide.map(each => each.tagName),
    requests: page.defaultView.performance.getEntriesByType("resource")
      .filter(each => !each.name.startsWith("data:")).map(each => each.name),
  }});
}};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [320, 390, 1200])
def test_in_a_browser(inspected, tmp_path, width):
    """In a frame as wide as a screen: the browser's window cannot be as narrow as a phone."""
    folder, page = inspected
    source = (folder / "report.html").read_text(encoding="utf-8")
    copy = tmp_path / "copy.html"
    copy.write_text(MEASURE.format(width=width, page=html.escape(source)), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += [
        "--hide-scrollbars",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
    ]
    command += ["--window-size=1300,4000", "--virtual-time-budget=10000", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    assert found["inner"] == found["scroll"] == width and not found["wide"]
    sizes = [picture.width for picture in inlined(page)]
    assert found["images"] == sizes and not found["requests"]
