# SPDX-License-Identifier: Apache-2.0
"""Our exported graph as a contender: raw uint8 images in, logits out, in its own runtime.

Its preprocessing is inside and counts, where the peers' images are normalised beforehand. What it
says of real images is checked where graphs are made (`vit-hf export`); here the weights are random.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ViTImageProcessorPil, pipeline

from ..deployment.exporting import describe, write_account, write_graph
from ..deployment.formats import require
from ..deployment.raw_images import raw_image_processor
from ..deployment.serving import open_graph
from ..modeling.modeling_vision_transformer import VisionTransformerForImageClassification
from .contender import Contender
from .models import raw_images

NUM_SERVED = 4  # batches that the pipeline is timed with, after one that warms up
PHOTO_HW = (427, 640)  # of the pictures that are served: a common size


class GraphModel(Contender):
    """Our classifier as a graph, run by ONNX Runtime, OpenVINO or torch."""

    weights_format = "vit_hf"

    def candidates(self) -> list[dict[str, Any]]:
        """The runtime's own settings are taken as they are."""
        return [{"graph": self.options.graph}]

    def prepare(self, settings: dict[str, Any]) -> None:
        """Writes the graph, the first time, and opens it."""
        folder = self.folder / f"graph-{settings['graph']}"
        if not folder.exists():
            self.write(settings["graph"], folder)
        self.graph: Any = open_graph(folder)
        self.images = raw_images(self.options, self.options.batch_size)

    def write(self, name: str, folder: Path) -> None:
        """Writes the graph of our checkpoint in a format into a folder."""
        model = VisionTransformerForImageClassification.from_pretrained(self.folder / "vit_hf")
        height, width = model.config.image_hw
        processor = square_processor({"height": height, "width": width})
        account = describe(model, processor, to=name)
        account |= write_graph(model.eval(), processor, folder, format=require(name))
        write_account(account, folder)

    def forget(self) -> None:
        """Lets go of the graph."""
        self.graph = None

    def step(self) -> None:
        """A batch."""
        self.graph(pixel_values=self.images)

    def outcome(self) -> np.ndarray:
        """Returns the logits `(B, K)`."""
        return torch.as_tensor(self.graph(pixel_values=self.images).logits).float().numpy()

    def extras(self) -> dict[str, float]:
        """Returns the images a second of a pipeline that serves the graph."""
        self.make_ready(self.candidates()[0])
        return served(self.graph, raw_image_processor(), batch_size=self.options.batch_size)


def square_processor(size: dict[str, int]) -> ViTImageProcessorPil:
    """Returns the processor that squashes pictures to a size and maps them to [-1, 1]."""
    half = [0.5, 0.5, 0.5]
    return ViTImageProcessorPil(size=size, image_mean=half, image_std=half)


def served(model: Any, processor: Any, *, batch_size: int) -> dict[str, float]:
    """Times `pipeline` over pictures of one size.

    Returns:
        `served_images_per_second`.
    """
    noise = np.random.default_rng(0).integers(0, 256, (*PHOTO_HW, 3), dtype=np.uint8)
    pictures = [Image.fromarray(noise)] * (batch_size * NUM_SERVED)
    classify = pipeline("image-classification", model=model, image_processor=processor)
    classify(pictures[:batch_size], batch_size=batch_size)
    started = time.perf_counter()
    classify(pictures, batch_size=batch_size)
    return {"served_images_per_second": len(pictures) / (time.perf_counter() - started)}
