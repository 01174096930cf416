# SPDX-License-Identifier: Apache-2.0
"""A graph, opened in its own runtime: called as the model it came from, or with pictures.

Shapes: `B` batch, `C` channels, `H` and `W` height and width, `K` classes.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.exporters.base import ExportedModel

from ..data import decode_image
from ..modeling.losses import scores_of
from ..modeling.modeling_vision_transformer import VisionTransformerForImageClassification
from .formats import require
from .signal_stack import kept_signal_stack

ACCOUNT = "parity.json"
PRECISE = "session.x64quantprecision"  # of ONNX Runtime
# On processors that multiply bfloat16 OpenVINO computes in it, whatever the graph's type.
IN_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
CLASSIFIER = VisionTransformerForImageClassification.__name__


class ServedGraph(ExportedModel):
    """A graph of one of the package's models; `transformers.pipeline` takes it as a model.

    Called with `pixel_values`, raw images `(B, C, H, W)` uint8, it returns what the model returns.
    """

    config: Any
    input_modalities = ("image",)

    def can_generate(self) -> bool:
        """No: pipelines ask."""
        return False

    def to(self, device=None, **runner_options):
        """Opens the graph in its runtime, see `open_graph`, and returns itself.

        ONNX Runtime is asked for 8-bit products that do not overflow, OpenVINO for float32, unless
        `runner_options` say otherwise. Options of an earlier opening have to be given again.
        """
        if self.export_format == "onnx":
            session_options = without_overflow(runner_options.get("session_options"))
            runner_options = runner_options | {"session_options": session_options}
        elif self.export_format == "openvino":
            config = IN_FLOAT32 | (runner_options.get("config") or {})
            runner_options = runner_options | {"config": config}
        with kept_signal_stack():
            return super().to(device, **runner_options)

    def outputs(self, images: Iterable[Any], *, batch_size: int = 16) -> torch.Tensor:
        """Runs pictures of any sizes; those of one size share a batch.

        Args:
            images: each in any form that `vit_hf.data.decode_image` takes.
            batch_size: the most images of a batch.

        Returns:
            The logits `(B, K)`, or the features of a model without a head, in the images' order.
        """
        places = defaultdict(list)
        arrays = [np.asarray(decode_image(image)).transpose(2, 0, 1) for image in images]
        for place, array in enumerate(arrays):
            places[array.shape].append(place)
        results: list = [None] * len(arrays)
        for same_size in places.values():
            for start in range(0, len(same_size), batch_size):
                batch = same_size[start : start + batch_size]
                raw = torch.from_numpy(np.stack([arrays[place] for place in batch]))
                for place, output in zip(batch, main_output(self(pixel_values=raw))):
                    results[place] = output
        return torch.stack(results)

    def classify(
        self, images: Iterable[Any], *, top_k: int = 5, batch_size: int = 16
    ) -> list[list[dict]]:
        """Names what is in the pictures.

        Args:
            images: see `outputs`.
            top_k: how many classes are named.
            batch_size: see `outputs`.

        Returns:
            For each image the classes, the likeliest first, as `label` and `score`: what
            transformers' pipeline gives, see `vit_hf.modeling.losses.score_kind`.

        Raises:
            ValueError: for a model without a head.
        """
        logits = self.outputs(images, batch_size=batch_size)
        if type(self).__name__ != CLASSIFIER or logits.shape[1:] != (self.config.num_labels,):
            raise ValueError("got a graph of features, which names no classes; call `outputs`")
        scores = scores_of(logits, self.config)
        best, classes = scores.topk(min(top_k, scores.shape[-1]))
        return [
            [
                {"label": self.config.id2label[index], "score": score}
                for index, score in zip(indices, values)
            ]
            for indices, values in zip(classes.tolist(), best.tolist())
        ]


def main_output(outputs) -> torch.Tensor:
    """Returns the logits of a model's output, or its pooled features, or its tokens."""
    for name in ("logits", "pooler_output", "last_hidden_state"):
        if outputs.get(name) is not None:
            return outputs[name]
    raise ValueError(f"got outputs {', '.join(outputs)}, allowed: those of the package's models")


def open_graph(
    folder, *, device: str | None = None, runner_options: dict | None = None
) -> ServedGraph:
    """Opens a folder that `export_graph` wrote.

    Args:
        folder: the folder.
        device: where it runs; `None` leaves it to the runtime.
        runner_options: the runtime's own, such as `session_options` of ONNX Runtime or `config` of
            OpenVINO; see `transformers.exporters.ExportedModel.to`.

    Raises:
        ValueError: where the folder holds no graph, or the runtime is not installed.
    """
    folder = Path(folder).expanduser()
    if not (folder / ACCOUNT).is_file() or not (folder / "export.json").is_file():
        raise ValueError(
            f"got {folder}, which holds no graph; give a folder that `vit-hf export --to` wrote"
        )
    account = json.loads((folder / ACCOUNT).read_text(encoding="utf-8"))
    require(account["format"])
    # A pipeline tells by the name of a model's class whether it fits the task.
    graph_class = type(account["architecture"], (ServedGraph,), {})
    return graph_class.from_pretrained(folder, device=device, **(runner_options or {}))


def without_overflow(session_options: Any = None) -> Any:
    """Returns ONNX Runtime's options of a session, in which signed 8-bit weights do not overflow.

    Processors without VNNI add two products of 8 bits in 16, which signed weights overflow; there
    ONNX Runtime is asked for slower products. With VNNI it is not: where AMX is beside it, that
    would cost AMX. What the options say of it already stays.
    """
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions() if session_options is None else session_options
    if torch.cpu._is_vnni_supported():
        return options
    try:
        options.get_session_config_entry(PRECISE)
    except RuntimeError:  # its word for an entry that is not there
        options.add_session_config_entry(PRECISE, "1")
    return options
