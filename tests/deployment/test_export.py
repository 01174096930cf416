# SPDX-License-Identifier: Apache-2.0
"""Graphs of every format, run by their own runtimes, against the model and its processor."""

import ctypes
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ImageClassificationPipeline,
    pipeline,
)
from transformers.exporters.base import ExportedModel

from vit_hf import VisionTransformerConfig
from vit_hf.converters import load_checkpoint, load_image_processor
from vit_hf.deployment import FORMATS, export_graph, open_graph
from vit_hf.deployment.parity import reference_outputs
from vit_hf.deployment.serving import CLASSIFIER, ServedGraph
from vit_hf.deployment.signal_stack import (
    SS_DISABLE,
    SignalStack,
    kept_signal_stack,
    signal_stack,
)
from vit_hf.modeling.losses import scores_of

from .conftest import CLASSES, make_checkpoint

for _format in FORMATS.values():
    for _package in _format.packages:
        pytest.importorskip(_package)


SLOW = [pytest.mark.slow]


@pytest.fixture(
    scope="module",
    params=[pytest.param(to, marks=SLOW if to == "openvino" else []) for to in FORMATS],
)
def exported(request, checkpoint, tmp_path_factory):
    """A graph of each format: its name, its folder and its account."""
    folder = tmp_path_factory.mktemp("graphs") / request.param
    return request.param, folder, export_graph(checkpoint, folder, to=request.param)


@pytest.fixture(scope="module")
def expected(checkpoint, pictures):
    model, processor = load_checkpoint(checkpoint), load_image_processor(checkpoint)
    return reference_outputs(model, processor, pictures)


def test_a_graph_gives_the_model_s_numbers(exported, checkpoint, expected, pictures):
    to, folder, account = exported
    graph = open_graph(folder)
    got = graph.outputs(pictures)
    # Raw images of any size, alone and in a batch.
    tall = torch.from_numpy(np.asarray(pictures[2]).transpose(2, 0, 1).copy())
    batch = torch.stack([tall, tall.flip(-1), tall.flip(-2)])
    alone = [graph(pixel_values=image[None]).logits[0] for image in batch]
    together = graph(pixel_values=batch).logits
    assert together.shape == (3, 5)
    scale = expected.std(dim=0).mean()
    assert torch.allclose(
        together, torch.stack(alone), atol=(0.2 if to == "int8" else 1e-4) * scale
    )
    assert (got - expected).abs().max() < (0.5 if to == "int8" else 0.05) * scale
    assert (got - expected).abs().max() == pytest.approx(account["parity"]["largest_difference"])


def test_the_account_tells_what_was_written(exported, pictures):
    to, folder, account = exported
    assert json.loads((folder / "parity.json").read_text()) == json.loads(json.dumps(account))
    assert account["format"] == to and account["architecture"].endswith("ForImageClassification")
    assert account["input"] == {"pixel_values": ["batch", 3, "height", "width"], "dtype": "uint8"}
    assert account["outputs"] == {"logits": ["batch", 5]}
    assert list(account["id2label"].values()) == CLASSES
    assert account["preprocessing"]["size"] == {"height": 32, "width": 48}
    assert account["parity"]["images"]["num_images"] == len(pictures)
    assert set(account["versions"]) >= {"torch", "transformers", *FORMATS[to].packages}
    assert all((folder / name).stat().st_size == size for name, size in account["files"].items())
    assert ("opsets" in account) == (to in ("onnx", "int8"))


def test_a_pipeline_takes_it(exported, checkpoint, pictures, caplog):
    to, folder, _ = exported
    processor = AutoImageProcessor.from_pretrained(folder)
    graph = open_graph(folder)
    classify = pipeline("image-classification", model=graph, image_processor=processor)
    assert "not supported" not in caplog.text and "image" in repr(classify)
    reference = pipeline("image-classification", model=str(checkpoint))
    for picture, named in zip(pictures[::5], graph.classify(pictures[::5])):
        got, wanted = classify(picture), reference(picture)
        tolerance = 0.2 if to == "int8" else 0.02
        assert {entry["label"] for entry in got} == set(CLASSES)
        assert got[0]["label"] == named[0]["label"]
        named = {entry["label"]: entry["score"] for entry in named}
        wanted = {entry["label"]: entry["score"] for entry in wanted}
        for entry in got:
            # A batch of int8 shares the scale of its activations: not quite one image alone.
            alike = tolerance if to == "int8" else 1e-5
            assert entry["score"] == pytest.approx(named[entry["label"]], abs=alike)
            assert entry["score"] == pytest.approx(wanted[entry["label"]], abs=tolerance)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({}, None),
        ({"problem_type": "single_label_classification"}, None),
        ({"problem_type": "multi_label_classification"}, None),
        ({"problem_type": "regression"}, None),
        ({"num_labels": 1}, None),
        ({"classification_loss": "sigmoid"}, "sigmoid"),
    ],
)
def test_scores_are_those_of_a_pipeline(settings, told):
    config = VisionTransformerConfig(**({"num_labels": 3} | settings))
    logits = torch.tensor([[2.0, -1.0, 0.5]])[:, : config.num_labels]
    graph = object.__new__(type(CLASSIFIER, (ServedGraph,), {}))
    graph.config, graph.outputs = config, lambda images, *, batch_size: logits
    serving: Any = SimpleNamespace(model=graph)
    expected = ImageClassificationPipeline.postprocess(serving, {"logits": logits}, told)
    (got,) = graph.classify([None])
    assert [each["label"] for each in got] == [each["label"] for each in expected]
    scores = [each["score"] for each in expected]
    assert [each["score"] for each in got] == pytest.approx(scores)
    assert scores_of(logits, config).amax().item() == pytest.approx(scores[0])


RUNTIMES = {
    "onnx": "import onnxruntime\n"
    "run = onnxruntime.InferenceSession('model.onnx').run\n"
    "logits = run(['logits'], {'pixel_values': images})[0]",
    "openvino": "import openvino\n"
    "model = openvino.Core().compile_model('openvino_model.xml', 'CPU')\n"
    "logits = model({'pixel_values': images})['logits']",
    "torch_export": "import torch\n"
    "model = torch.export.load('model.pt2').module()\n"
    "logits = model(pixel_values=torch.from_numpy(images))['logits'].detach().numpy()",
}
RUNTIMES["int8"] = (
    "import onnxruntime\n"
    "options = onnxruntime.SessionOptions()\n"
    "options.add_session_config_entry('session.x64quantprecision', '1')\n"
    "run = onnxruntime.InferenceSession('model.onnx', options).run\n"
    "logits = run(['logits'], {'pixel_values': images})[0]"
)


@pytest.mark.parametrize("exported", ["int8"], indirect=True)
def test_the_weights_are_signed_with_a_scale_per_channel(exported):
    import onnx

    _, folder, _ = exported
    graph = onnx.load(folder / "model.onnx").graph
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    weights = [arrays[node.input[1]] for node in products]
    assert len(weights) == 7 and {weight.dtype.name for weight in weights} == {"int8"}
    for node, weight in zip(products, weights):
        assert arrays[node.input[3]].shape == weight.shape[1:]


@pytest.mark.parametrize("has_vnni", [False, True])
@pytest.mark.parametrize("exported", ["int8"], indirect=True)
def test_signed_weights_do_not_overflow(exported, has_vnni, monkeypatch):
    """Precise products where the processor needs them, unless the options say otherwise."""
    import onnxruntime

    _, folder, _ = exported
    name, made = "session.x64quantprecision", []
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: has_vnni)
    monkeypatch.setattr(
        ExportedModel,
        "to",
        lambda graph, device, **options: made.append(options["session_options"]),
    )
    own = onnxruntime.SessionOptions()
    own.intra_op_num_threads = 3
    risky = onnxruntime.SessionOptions()
    risky.add_session_config_entry(name, "0")
    for options in ({}, {"session_options": own}, {"session_options": risky}):
        graph = open_graph(folder, runner_options=options)
    graph.to("cpu")
    expected = [not has_vnni, not has_vnni, True, not has_vnni]
    assert [has_entry(options, name) for options in made] == expected
    assert made[2].get_session_config_entry(name) == "0"
    assert made[1].intra_op_num_threads == 3


def has_entry(options, name: str) -> bool:
    """Whether a session's options hold one; ONNX Runtime has no way to ask but to fail."""
    try:
        return bool(options.get_session_config_entry(name))
    except RuntimeError:
        return False


@pytest.mark.parametrize(
    "exported",
    [pytest.param(to, marks=SLOW if to in ("openvino", "torch_export") else []) for to in FORMATS],
    indirect=True,
)
def test_the_runtime_alone_opens_it(exported, expected, pictures):
    """In a process without this package; torch's own format needs transformers' output class."""
    to, folder, _ = exported
    np.save(folder.parent / "images.npy", np.asarray(pictures[0]).transpose(2, 0, 1)[None])
    forbidden = ["vit_hf"] if to == "torch_export" else ["vit_hf", "torch", "transformers"]
    code = (
        "import sys, numpy\n"
        + ("import transformers.modeling_outputs\n" if to == "torch_export" else "")
        + f"images = numpy.load({str(folder.parent / 'images.npy')!r})\n"
        + f"{RUNTIMES[to]}\n"
        + f"print([name for name in {forbidden!r} if name in sys.modules], *logits[0])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    imported, *logits = run.stdout.split()
    assert imported == "[]"
    tolerance = (0.5 if to == "int8" else 0.05) * expected.std(dim=0).mean().item()
    assert [float(value) for value in logits] == pytest.approx(expected[0].tolist(), abs=tolerance)


@pytest.mark.slow
def test_an_earlier_graph_is_replaced_and_nothing_else(checkpoint, tmp_path):
    folder = tmp_path / "graph"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"something else than a graph \(notes\.txt\)"):
        export_graph(checkpoint, folder, to="torch_export")
    (folder / "notes.txt").unlink()
    for name in ("parity.json", "model.onnx"):
        (folder / name).write_text("{}")
    export_graph(checkpoint, folder, to="torch_export", task="features", image_size=(16, 32))
    assert not (folder / "model.onnx").exists() and [f.name for f in tmp_path.iterdir()] == [
        "graph"
    ]
    graph = open_graph(folder)
    assert graph.outputs([np.zeros((9, 20, 3), np.uint8)]).shape == (1, 32)
    with pytest.raises(ValueError, match="names no classes"):
        graph.classify([np.zeros((9, 20, 3), np.uint8)])


def test_what_cannot_be_a_graph_is_refused(checkpoint, tmp_path):
    untrained = make_checkpoint(tmp_path / "untrained", image_size=16)
    model = AutoModelForImageClassification.from_pretrained(untrained)
    torch.nn.init.zeros_(model.classifier.weight)
    model.save_pretrained(untrained)
    with pytest.raises(ValueError, match="every image gets the same output"):
        export_graph(untrained, tmp_path / "graph", to="torch_export")
    with pytest.raises(ValueError, match="got the format 'onx', allowed: onnx, torch_export"):
        export_graph(checkpoint, tmp_path / "graph", to="onx")
    with pytest.raises(ValueError, match="which holds no graph"):
        open_graph(checkpoint)
    grey = make_checkpoint(
        tmp_path / "grey",
        image_size=16,
        num_channels=1,
        processor={"image_mean": [0.5], "image_std": [0.5]},
    )
    with pytest.raises(ValueError, match="got a model with num_channels=1, allowed: 3"):
        export_graph(grey, tmp_path / "graph", to="torch_export")
    assert not (tmp_path / "graph").exists()


VARIANTS = {
    "hybrid": {"image_size": 64, "stem_blocks": [1], "stem_width": 32, "patch_size": 2},
    "relative positions": {"image_size": 32, "position_embedding": "relative"},
    "attention pooling": {"image_size": (24, 40), "pooling": "map", "representation_size": 16},
    "timm's crop": {
        "image_size": 32,
        "processor": {
            "size": {"shortest_edge": 36},
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
            "resample": 3,
        },
    },
    "lanczos": {"image_size": 40, "processor": {"resample": 1}},
}


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch_export", "openvino"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_model(variant, to, tmp_path):
    settings = dict(VARIANTS[variant])
    if "processor" in settings and "size" not in settings["processor"]:
        side = settings["image_size"]
        settings["processor"] = settings["processor"] | {"size": {"height": side, "width": side}}
    source = make_checkpoint(tmp_path / "source", **settings)
    account = export_graph(source, tmp_path / "graph", to=to)
    assert account["parity"]["relative_difference"] < 0.05


@pytest.mark.slow
def test_openvino_computes_in_float32(tmp_path):
    export_graph(make_checkpoint(tmp_path / "source"), tmp_path / "graph", to="openvino")
    for config, name, found in (
        (None, "INFERENCE_PRECISION_HINT", "<Type: 'float32'>"),
        ({"INFERENCE_NUM_THREADS": 1}, "INFERENCE_PRECISION_HINT", "<Type: 'float32'>"),
        ({"INFERENCE_NUM_THREADS": 1}, "INFERENCE_NUM_THREADS", "1"),
    ):
        graph = open_graph(tmp_path / "graph", device="cpu", runner_options={"config": config})
        for _ in ("as opened", "as moved"):
            (runner,) = graph.runners.values()
            assert str(runner.compiled_model.get_property(name)) == found
            graph.to("cpu", config=config)


@pytest.mark.slow
def test_graphs_of_openvino_end_in_any_order(tmp_path):
    """In a process of its own, which a signal without a stack would kill."""
    export_graph(make_checkpoint(tmp_path / "source"), tmp_path / "graph", to="openvino")
    script = (
        "import gc, signal, subprocess, sys\n"
        "from vit_hf.deployment import open_graph\n"
        "opened = [open_graph(sys.argv[1]) for _ in range(3)]\n"
        "signal.signal(signal.SIGCHLD, lambda *received: print('received'))\n"
        "while opened:\n"
        "    del opened[0]\n"
        "    gc.collect()\n"
        "    subprocess.run(['true'])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "graph"], capture_output=True, text=True
    )
    assert (run.returncode, run.stdout.split()) == (0, ["received"] * 3), run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="an alternate signal stack is Linux's")
@pytest.mark.parametrize("has_one", [True, False])
def test_the_signal_stack_is_kept(has_one):
    memory = ctypes.create_string_buffer(1 << 17)
    without = SignalStack(flags=SS_DISABLE)
    own = SignalStack(address=ctypes.addressof(memory), size=1 << 16)
    other = SignalStack(address=ctypes.addressof(memory) + (1 << 16), size=1 << 16)
    put = ctypes.CDLL(None).sigaltstack
    with kept_signal_stack():  # the tests' own
        expected = own if has_one else without
        put(ctypes.byref(expected), None)
        with pytest.raises(InterruptedError), kept_signal_stack():
            put(ctypes.byref(other), None)
            assert signal_stack().address == other.address
            raise InterruptedError
        found = signal_stack()
    assert (found.address, found.flags) == (expected.address, expected.flags)
