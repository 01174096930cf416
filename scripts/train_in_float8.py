# SPDX-License-Identifier: Apache-2.0
"""Trains the same model on the same batches in bfloat16 and in float8, in turns: speed and losses.

    python scripts/train_in_float8.py --images FILE.parquet --json benchmarks/gpu-h14-float8.json

Both start from the same weights and see the same images in the same order; they take turns of a few
updates, so what is said of the speed is a ratio of neighbours. Layers are compiled. Needs a GPU
that multiplies in float8 and torchao: pip install "vit_hf[float8]".
"""

import argparse
import copy
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup, set_seed

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.benchmark.machine import describe_machine
from vit_hf.benchmark.turns import ratio_of
from vit_hf.cli.plan import find_model
from vit_hf.data import ImageCollator, ImageDataset, ImageTransform, normalize
from vit_hf.data.columns import Columns, select_columns
from vit_hf.training.float8 import convert_to_float8

LEARNING_RATE, WARM_UP_SHARE, WEIGHT_DECAY, MAX_GRAD_NORM = 3e-4, 0.2, 0.1, 1.0
SEED = 0


class Run:
    """A training in one of the two types.

    Args:
        model: with its weights, on the device.
        num_steps: of the whole training.
    """

    def __init__(self, model: torch.nn.Module, *, num_steps: int):
        self.model, self.losses = model.train(), []
        for layer in model.vit.layers:
            layer.compile()
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.schedule = get_cosine_schedule_with_warmup(
            self.optimizer, int(WARM_UP_SHARE * num_steps), num_steps
        )

    def step(self, pixels: torch.Tensor, labels: torch.Tensor):
        """Updates the weights once."""
        with torch.autocast("cuda", torch.bfloat16):
            loss = self.model(normalize(pixels), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.losses.append(loss.detach())

    def turn(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
        """Trains on some batches; returns the images a second."""
        torch.cuda.synchronize()
        started = time.perf_counter()
        for batch in batches:
            self.step(*batch)
        torch.cuda.synchronize()
        return sum(len(labels) for _, labels in batches) / (time.perf_counter() - started)


def parse() -> argparse.Namespace:
    """Returns the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="H/14")
    parser.add_argument("--images", required=True, help="parquet file with images and labels")
    parser.add_argument("--image_column", default="img")
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=12, help="the first is for warming up")
    parser.add_argument("--steps_per_turn", type=int, default=12)
    parser.add_argument("--num_workers", type=int, default=8)
    parser.add_argument("--json", required=True)
    return parser.parse_args()


def batches_of(rows: Dataset, arguments: argparse.Namespace):
    """Yields batches `(B, 3, H, W)` uint8 and labels `(B,)` on the GPU, shuffled, without end."""
    rows = select_columns(rows, Columns(arguments.image_column, arguments.label_column))
    side = arguments.image_size
    loader = DataLoader(
        ImageDataset(rows, ImageTransform((side, side))),
        batch_size=arguments.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=arguments.num_workers,
        collate_fn=ImageCollator(),
        pin_memory=True,
    )
    for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
        yield batch["pixel_values"].cuda(), batch["labels"].cuda()


def main() -> int:
    """Trains both and writes the numbers; returns the exit status."""
    arguments = parse()
    name, size = find_model(arguments.model)
    rows = load_dataset("parquet", data_files=arguments.images, split="train")
    num_labels = rows.features[arguments.label_column].num_classes
    set_seed(SEED)
    config = VisionTransformerConfig(**size, image_size=arguments.image_size, num_labels=num_labels)
    with torch.device("cuda"):
        model = VisionTransformerForImageClassification(config)
    float8 = copy.deepcopy(model)
    convert_to_float8(float8)
    num_steps = arguments.turns * arguments.steps_per_turn
    runs = {"float8": Run(float8, num_steps=num_steps), "bfloat16": Run(model, num_steps=num_steps)}
    batches, pairs = batches_of(rows, arguments), []
    for turn in range(arguments.turns):
        chosen = list(itertools.islice(batches, arguments.steps_per_turn))
        order = list(runs) if turn % 2 else list(runs)[::-1]
        speeds = {dtype: runs[dtype].turn(chosen) for dtype in order}
        if turn > 0:
            pairs.append((speeds["float8"], speeds["bfloat16"]))
        print(
            f"turn {turn}:",
            *(f"{dtype} {speeds[dtype]:.1f} images/s, loss {runs[dtype].losses[-1]:.3f}"
              for dtype in runs),
            sep="  ", flush=True,
        )  # fmt: skip
    results = {
        "model": name,
        "options": {
            key: value for key, value in vars(arguments).items() if key not in ("images", "json")
        },
        "images": Path(arguments.images).name,
        "seed": SEED,
        "machine": describe_machine(torch.device("cuda")),
        "images_per_second": {
            dtype: statistics.median(pair[place] for pair in pairs)
            for place, dtype in enumerate(runs)
        },
        "ratio": ratio_of(pairs),
        "losses": {dtype: [float(loss) for loss in run.losses] for dtype, run in runs.items()},
    }
    Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
