# SPDX-License-Identifier: Apache-2.0
"""`vit-hf export --to`: its words, what it prints, and what it says where something is wrong."""

import json
import sys

import pytest

from vit_hf.cli import main


def export(*words) -> int:
    return main(["export", *map(str, words)])


def test_it_writes_a_graph_named_after_checkpoint_and_format(
    checkpoint, tmp_path, monkeypatch, capsys, pictures
):
    monkeypatch.chdir(tmp_path)
    for index, picture in enumerate(pictures[:4]):
        (tmp_path / "photographs").mkdir(exist_ok=True)
        picture.save(tmp_path / "photographs" / f"{index}.png")
    words = ["--to", "torch_export", "--image_size", 24, 40, "--images", "photographs"]
    assert export(checkpoint, *words) == 0
    printed = capsys.readouterr().out
    assert "recognised: a checkpoint of this package" in printed
    assert "parity: on 4 images the largest difference is" in printed
    assert "wrote: small-torch_export (torch_export, " in printed
    account = json.loads((tmp_path / "small-torch_export" / "parity.json").read_text())
    assert account["preprocessing"]["size"] == {"height": 24, "width": 40}
    assert account["parity"]["images"] == {"num_images": 4, "source": ["photographs"]}


def test_what_is_wrong_is_said(checkpoint, tmp_path, monkeypatch, capsys):
    refused = {
        ("--to", "onnx", "--push_to_hub", "--hub_model_id", "a/b"): "graphs are not pushed",
        ("--image_size", "24"): "got --image_size without --to",
        ("--to", "onnx", "--images", str(tmp_path / "nowhere")): "nowhere, which is no folder",
        ("--to", "onnx", "--output_dir", str(checkpoint)): "something else than a graph",
    }
    for words, expected in refused.items():
        assert export(checkpoint, *words) == 2
        error = capsys.readouterr().err
        assert expected in error and len(error.strip().splitlines()) == 1
    with pytest.raises(SystemExit):
        export(checkpoint, "--to", "onxx")
    assert "Did you mean 'onnx'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("to", "package", "extra"),
    [
        ("onnx", "onnxscript", "onnx"),
        ("int8", "onnx", "int8"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(
    to, package, extra, checkpoint, tmp_path, monkeypatch, capsys
):
    import importlib.util

    find = importlib.util.find_spec
    hide = lambda name, *rest: None if name == package else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    assert export(checkpoint, "--to", to, "--output_dir", tmp_path / "graph") == 2
    error = capsys.readouterr().err
    assert f"needs {package}, not installed here" in error
    assert f'pip install "vit_hf[{extra}]"' in error


def test_a_graph_that_differs_is_told_and_not_written(checkpoint, tmp_path, monkeypatch, capsys):
    """Here because its preprocessing is not what the model's processor does."""
    from vit_hf.deployment.raw_images import Preprocessing

    forward = Preprocessing.forward
    monkeypatch.setattr(Preprocessing, "forward", lambda self, raw: forward(self, raw) * 0.5)
    assert export(checkpoint, "--to", "torch_export", "--output_dir", tmp_path / "graph") == 1
    printed = capsys.readouterr().out
    assert "parity: the graph" in printed and "nothing was written" in printed
    assert not list(tmp_path.iterdir())


def test_the_room_needs_its_exporters(monkeypatch, checkpoint, capsys):
    """An older transformers has none."""
    for name in [name for name in sys.modules if name.startswith("vit_hf.deployment")]:
        monkeypatch.delitem(sys.modules, name)
    import importlib.util

    find = importlib.util.find_spec
    hide = lambda name, *rest: None if name == "transformers.exporters" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    assert export(checkpoint, "--to", "onnx") == 2
    assert 'pip install "transformers>=5.23' in capsys.readouterr().err
