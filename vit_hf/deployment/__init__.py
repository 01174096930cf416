# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as graphs that take raw images: exported, checked on real images, and served."""

import importlib.util

if importlib.util.find_spec("transformers.exporters") is None:
    raise ImportError(
        "graphs are written by the exporters of transformers 5.23 and later; install it: "
        'pip install "transformers>=5.23,<6"'
    )

from .exporting import export_graph
from .formats import FORMATS
from .parity import NotTheSameModel
from .serving import ServedGraph, open_graph

__all__ = ["FORMATS", "NotTheSameModel", "ServedGraph", "export_graph", "open_graph"]
