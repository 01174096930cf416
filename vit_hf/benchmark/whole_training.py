# SPDX-License-Identifier: Apache-2.0
"""The contenders of `vit-hf benchmark train`: from images on disk to weights updated.

Ours is `VisionTransformerTrainer` over `ImageDataset`; transformers' is its own ViT with its image
processor under its `Trainer`, once with our settings and once with the `Trainer`'s defaults. They
begin with the same weights and see the same pixels: the whole picture, squashed to the size.
"""

import gc
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTForImageClassification,
    ViTImageProcessorPil,
)
from transformers.utils.import_utils import is_torchvision_available

from ..data import ImageCollator, ImageDataset, ImageTransform, normalize
from ..modeling.modeling_vision_transformer import VisionTransformerForImageClassification
from ..training import VisionTransformerTrainer, VisionTransformerTrainingArguments
from .contender import Contender, no_garbage_collection, wait_for
from .inputs import HALF, PHOTOS
from .models import flash_attention

NUM_WARM_UP_STEPS = 2  # of each turn, in which workers start and caches fill
NUM_PREFETCHED = 2  # batches that each worker has ready before it is asked: PyTorch's default
NUM_COMPARED = 4  # images whose logits are held against ours
LEARNING_RATE = 1e-5
OF_MODEL = ("attention", "compile", "processor")  # settings that are no trainer's flags
QUIET = {
    "logging_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True
}  # fmt: skip


class StepClock(TrainerCallback):
    """Notes when the steps after the warm-up begin and when they end.

    Args:
        device: that is waited for.
        num_warm_up_steps: before those.
        num_steps: that are timed.

    Attributes:
        trainer: that is timed; ours tells how long it waited for images.
        input_wait_share: what it told.
    """

    def __init__(self, device: torch.device, *, num_warm_up_steps: int, num_steps: int):
        self.device = device
        self.first_step, self.last_step = num_warm_up_steps, num_warm_up_steps + num_steps
        self.started = self.ended = math.nan
        self.trainer: Trainer | None = None
        self.input_wait_share: float | None = None

    def on_step_end(self, args, state, control, **kwargs):
        """Reads the clock."""
        if state.global_step == self.first_step:
            wait_for(self.device)
            self.started = time.perf_counter()
            if isinstance(self.trainer, VisionTransformerTrainer) and self.trainer.throughput:
                self.trainer.throughput.start_anew()
        elif state.global_step == self.last_step:
            wait_for(self.device)
            self.ended = time.perf_counter()
            if isinstance(self.trainer, VisionTransformerTrainer) and self.trainer.throughput:
                # Not by what is logged, which begins a new peak of memory.
                self.input_wait_share = self.trainer.throughput.input_wait_share()


class TrainingContender(Contender):
    """A training; a turn is a run of its trainer."""

    num_trials = 1  # each takes a trainer's start

    def candidates(self) -> list[dict[str, Any]]:
        """Every attention backend, and each with compiled layers where that is asked for."""
        attentions = self.options.attentions_of(
            ["sdpa", "eager", *flash_attention(self.options.dtype)]
        )
        modes = [None, "layers"] if self.options.compile else [None]
        return [
            {"attention": attention, "compile": mode, **self.fixed_settings()}
            for attention in attentions
            for mode in modes
        ]

    def fixed_settings(self) -> dict[str, Any]:
        """Returns the settings that are not searched."""
        return {
            "bf16": self.options.compute_dtype == "bfloat16",
            "per_device_train_batch_size": self.options.batch_size,
            "dataloader_num_workers": self.options.num_workers,
            "optim": "adamw_torch_fused",
        }

    def prepare(self, settings: dict[str, Any]) -> None:
        """Opens the model."""
        logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
        self.settings = settings
        files = sorted((self.folder / PHOTOS).iterdir())
        self.rows = [(str(path), i % self.options.num_labels) for i, path in enumerate(files)]
        self.image_hw = (self.options.image_size, self.options.image_size)
        self.model = self.open(settings.get("attention"))
        if settings.get("compile") == "layers":  # once: a trainer compiles for its own time alone
            for layer in self.model.vit.layers:
                layer.compile()

    def forget(self) -> None:
        """Lets go of the model."""
        self.model: Any = None

    def open(self, attention: str | None) -> Any:
        """Opens the model, with a backend or transformers' own choice of it."""
        raise NotImplementedError

    def dataset(self, rows: list[tuple[str, int]]) -> Dataset:
        """Returns the samples of files and labels."""
        raise NotImplementedError

    def trainer(self, dataset: Dataset, arguments: dict[str, Any]) -> Trainer:
        """Returns the trainer."""
        raise NotImplementedError

    def pixels(self, dataset: Dataset) -> torch.Tensor:
        """Returns the first images as the model sees them."""
        raise NotImplementedError

    @property
    def images_per_step(self) -> int:
        """How many images an update takes."""
        return self.settings["per_device_train_batch_size"]

    @property
    def num_warm_up_steps(self) -> int:
        """How many updates come before those that are timed."""
        # Batches that were made while the first steps warmed up are used up before it is timed.
        num_ready = NUM_PREFETCHED * self.settings["dataloader_num_workers"]
        return NUM_WARM_UP_STEPS + num_ready

    def measure(self, num_steps: int) -> float:
        """Returns the seconds of some updates, from files to weights, after a warm-up."""
        num_warm_up_steps = self.num_warm_up_steps
        steps = num_warm_up_steps + num_steps
        # The loader fetches a batch ahead: without one more, the last step would go without.
        repeats = math.ceil((steps + 1) * self.images_per_step / len(self.rows))
        settings = {name: self.settings[name] for name in self.settings if name not in OF_MODEL}
        clock = StepClock(self.device, num_warm_up_steps=num_warm_up_steps, num_steps=num_steps)
        with tempfile.TemporaryDirectory() as folder, no_garbage_collection():
            arguments = {
                **settings,
                **QUIET,
                "output_dir": folder,
                "max_steps": steps,
                "learning_rate": LEARNING_RATE,
                "use_cpu": self.device.type == "cpu",
            }
            trainer = self.trainer(self.dataset(self.rows * repeats), arguments)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(clock)
            clock.trainer = trainer
            trainer.train()
        self.input_wait_share, clock.trainer = clock.input_wait_share, None
        del trainer
        gc.collect()
        return clock.ended - clock.started

    def warm_up(self) -> None:
        """Does nothing: every measurement begins with steps of its own that warm up."""

    def extras(self) -> dict[str, Any]:
        """Returns the share of the last turn in which it waited for images, where it tells."""
        share = self.input_wait_share
        return {} if share is None else {"input_wait_share": share}

    @torch.no_grad()
    def outcome(self) -> np.ndarray:
        """Returns the logits `(B, K)` of the first images, from their files, in float32."""
        images = self.pixels(self.dataset(self.rows[:NUM_COMPARED]))
        with torch.compiler.set_stance("force_eager"):  # no graph for evaluation
            logits = self.model.eval().to(self.device)(images.to(self.device)).logits
        self.model.train()
        return logits.float().cpu().numpy()


class OurTraining(TrainingContender):
    """`VisionTransformerTrainer`."""

    takes_float8 = True

    def fixed_settings(self) -> dict[str, Any]:
        """Returns the settings that are not searched."""
        return super().fixed_settings() | ({"float8": True} if self.is_float8 else {})

    def open(self, attention: str | None):
        """Opens our own checkpoint."""
        return VisionTransformerForImageClassification.from_pretrained(
            self.folder / "vit_hf", attn_implementation=attention
        )

    def dataset(self, rows: list[tuple[str, int]]) -> ImageDataset:
        """Returns the samples, decoded as training does."""
        images = [{"image": {"bytes": None, "path": path}, "label": label} for path, label in rows]
        exact = self.options.exact_decoding
        return ImageDataset(images, ImageTransform(self.image_hw, exact_decoding=exact))

    def trainer(self, dataset: Dataset, arguments: dict[str, Any]) -> Trainer:
        """Returns our trainer."""
        return VisionTransformerTrainer(
            model=self.model,
            args=VisionTransformerTrainingArguments(**arguments),
            train_dataset=dataset,
            data_collator=ImageCollator(),
        )

    def pixels(self, dataset: Dataset) -> torch.Tensor:
        """Returns the first images."""
        samples = [dataset[place] for place in range(min(NUM_COMPARED, len(self.rows)))]
        return normalize(ImageCollator()(samples)["pixel_values"])


class OurBfloat16Training(OurTraining):
    """Ours in bfloat16, beside ours in float8."""

    takes_float8 = False


class ProcessedFiles(Dataset):
    """Files as transformers' image processor makes them, a sample each.

    Args:
        rows: files and labels.
        processor: of transformers.
    """

    def __init__(self, rows: list[tuple[str, int]], processor):
        self.rows, self.processor = rows, processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        path, label = self.rows[place]
        picture = Image.open(Path(path)).convert("RGB")
        values = self.processor(picture, return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": values, "labels": label}


class TransformersTraining(TrainingContender):
    """transformers' ViT with its image processor under its `Trainer`, with our settings; the
    processor is the faster one of those over Pillow and, where it is installed, torchvision.
    """

    def fixed_settings(self) -> dict[str, Any]:
        """Returns the settings that are tried first."""
        return super().fixed_settings() | {"processor": "pillow"}

    def refinements(self, speeds: list[tuple[float, dict[str, Any]]]) -> list[dict[str, Any]]:
        """The fastest with the other processor."""
        if not speeds or not is_torchvision_available():
            return []
        _, fastest = max(speeds, key=lambda found: found[0])
        return [{**fastest, "processor": "torchvision"}]

    def open(self, attention: str | None):
        """Opens the checkpoint in transformers' format."""
        return ViTForImageClassification.from_pretrained(
            self.folder / "transformers", attn_implementation=attention
        )

    def dataset(self, rows: list[tuple[str, int]]) -> ProcessedFiles:
        """Returns the samples."""
        height, width = self.image_hw
        size = {"height": height, "width": width}
        processor_class = ViTImageProcessorPil
        if self.settings["processor"] == "torchvision":
            from transformers import ViTImageProcessor as processor_class  # warns without it
        return ProcessedFiles(rows, processor_class(size=size, image_mean=HALF, image_std=HALF))

    def trainer(self, dataset: Dataset, arguments: dict[str, Any]) -> Trainer:
        """Returns transformers' trainer."""
        return Trainer(model=self.model, args=TrainingArguments(**arguments), train_dataset=dataset)

    def pixels(self, dataset: Dataset) -> torch.Tensor:
        """Returns the first images."""
        samples = [dataset[place] for place in range(min(NUM_COMPARED, len(self.rows)))]
        return torch.stack([sample["pixel_values"] for sample in samples])


class DefaultTransformersTraining(TransformersTraining):
    """The same with what the `Trainer` has where nobody says anything."""

    def candidates(self) -> list[dict[str, Any]]:
        """Its defaults, spelled out."""
        names = ("bf16", "per_device_train_batch_size", "dataloader_num_workers")
        with tempfile.TemporaryDirectory() as folder:
            defaults = TrainingArguments(output_dir=folder, use_cpu=self.device.type == "cpu")
        optimizer: Any = defaults.optim
        return [
            {
                **{name: getattr(defaults, name) for name in names},
                "optim": optimizer.value,
                "processor": "torchvision" if is_torchvision_available() else "pillow",
            }
        ]

    def refinements(self, speeds: list[tuple[float, dict[str, Any]]]) -> list[dict[str, Any]]:
        """Nothing else is tried."""
        return []
