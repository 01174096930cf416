# SPDX-License-Identifier: Apache-2.0
"""The formats of a graph: which exporter of transformers writes each, and what it needs.

`torch_export` is torch's own (`torch.export`), run by torch; `onnx` and `int8` are run by ONNX
Runtime, `openvino` by OpenVINO.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch

# Of the raw images; the model behind the preprocessing sees one size.
FREE_AXES = {0: "batch", 2: "height", 3: "width"}
DYNAMIC_SHAPES = {
    "pixel_values": {axis: torch.export.Dim(name, min=1) for axis, name in FREE_AXES.items()}
}


@dataclass(frozen=True)
class Format:
    """How a graph is written, and how close to its model it has to be.

    Args:
        exporter: returns the exporter and its configuration, see `transformers.exporters`.
        packages: what it imports, beside torch and transformers.
        extra: the extra of this package that installs them.
        closeness: the largest difference of an output that is allowed, as a share of the outputs'
            deviation from image to image; `None` where only what they say counts.
    """

    exporter: Callable
    packages: tuple[str, ...] = ()
    extra: str | None = None
    closeness: float | None = 0.05


def onnx():
    """ONNX of the latest opset that onnxscript writes, with standard operators alone."""
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    return OnnxExporter(), OnnxConfig(dynamic_shapes=DYNAMIC_SHAPES)


def int8():
    """ONNX whose weights are 8-bit integers, a scale per channel, and whose activations become so
    as they come.
    """
    from onnxruntime.quantization import QuantType
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter
    from transformers.exporters.quantizers.quantizer_onnxruntime import (
        OnnxRuntimeDynamicConfig,
        OnnxRuntimeQuantizer,
    )

    settings = OnnxRuntimeDynamicConfig(
        per_channel=True,
        # Signed, as VNNI and AMX multiply; where they overflow, `open_graph` has ONNX Runtime take
        # them for unsigned ones.
        weight_type=QuantType.QInt8,
        # The patch projection, a convolution, stays as it is: it sees the picture itself.
        op_types_to_quantize=["MatMul"],
    )
    return OnnxExporter(), OnnxConfig(
        dynamic_shapes=DYNAMIC_SHAPES, quantizer=OnnxRuntimeQuantizer(settings)
    )


def openvino():
    """OpenVINO's own format, in float32 on every device."""
    from transformers.exporters.configs import OpenVINOConfig
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    return OpenVINOExporter(), OpenVINOConfig(dynamic_shapes=DYNAMIC_SHAPES)


def torch_export():
    """An exported program of torch."""
    from transformers.exporters.configs import DynamoConfig
    from transformers.exporters.exporter_dynamo import DynamoExporter

    return DynamoExporter(), DynamoConfig(dynamic_shapes=DYNAMIC_SHAPES)


ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
FORMATS = {
    "onnx": Format(onnx, packages=ONNX_PACKAGES, extra="onnx"),
    "torch_export": Format(torch_export),
    "int8": Format(int8, packages=ONNX_PACKAGES, extra="int8", closeness=None),
    "openvino": Format(openvino, packages=("openvino",), extra="openvino"),
}


def require(name: str) -> Format:
    """Returns a format by its name.

    Raises:
        ValueError: for a name that is none, and where a package is missing that it needs.
    """
    if name not in FORMATS:
        raise ValueError(f"got the format {name!r}, allowed: {', '.join(FORMATS)}")
    format = FORMATS[name]
    missing = [package for package in format.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f"the format {name!r} needs {', '.join(missing)}, not installed here; install it: "
            f'pip install "vit_hf[{format.extra}]"'
        )
    return format
