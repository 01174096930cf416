# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's passport: do source and result give the same numbers, on which images, measured
how.

The source is run by its own project's code where that is transformers; JAX and timm are never
needed, so for theirs the result is re-opened and compared with the model that was loaded from the
source.
"""

import hashlib
import json
import platform
from pathlib import Path

import numpy as np
import torch
import transformers

from ..modeling.patches import cut_patches
from ..version import __version__
from .loading import load_checkpoint
from .recognition import folder_of
from .saving import task_of

STOCK_CLASSES = {
    "features": transformers.AutoModel,
    "image-classification": transformers.AutoModelForImageClassification,
    "masked-patch-prediction": transformers.AutoModelForMaskedImageModeling,
}
# What a task's output is called; tokens are compared too, as a head of zeros gives equal logits to
# any.
OUTPUTS = {
    "features": "pooled vectors",
    "image-classification": "logits",
    "masked-patch-prediction": "predictions",
}
OWN_CODE = {"transformers": "transformers", "timm": "timm", "jax": "JAX", "big_vision": "JAX"}


def compare(
    loaded, destination: Path, *, to: str, source: str, processor, num_images: int, seed: int
) -> dict:
    """Runs source and result on fixed images, in float32, and gives the account of it.

    Args:
        loaded: the model loaded from the source, as `loading.load` gives it; it becomes float32.
        destination: the checkpoint written.
        to: its format.
        source: what the user called the source.
        processor: the image processor that goes with it.
        num_images: how many images.
        seed: their seed.

    Returns:
        The images, the preprocessing, the differences and the versions, as JSON has them.
    """
    task = task_of(loaded.model)
    # What is stored in half precision is compared in full: rounding would hide differences.
    model = loaded.model.float()
    images = make_images(model.config, num_images=num_images, seed=seed)
    pixels = normalise(images, processor)
    expected = outputs_of(model, task, pixels)
    between = f"the model loaded from {loaded.format}, and {to} written and re-opened"
    if loaded.format in ("timm", "jax", "big_vision"):
        between += f"; the source was not run by {OWN_CODE[loaded.format]} itself"
    reopened = reopen(model, destination, to, task).float()
    results = [(between, outputs_of(reopened, task, pixels))]
    if to == "transformers":
        between = "this package, and the result run by transformers' own code"
        results.append((between, run_stock(destination, task, pixels)))
    if loaded.format == "transformers" and not loaded.changes:
        between = "this package, and the source run by transformers' own code"
        results.append((between, run_stock(folder_of(loaded.path), task, pixels)))
    return {
        "source": str(source),
        "source_format": loaded.format,
        "recognised": loaded.recognised,
        "changes": loaded.changes,
        "format": to,
        "images": {
            "num_images": num_images,
            "seed": seed,
            "size": list(model.config.image_hw),
            "sha256": hashlib.sha256(images.tobytes()).hexdigest(),
        },
        "preprocessing": json.loads(processor.to_json_string()),
        "comparisons": [
            {"between": between, "largest_difference": differences(expected, got)}
            for between, got in results
        ],
        "versions": {
            "vit_hf": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def make_images(config, *, num_images: int, seed: int) -> np.ndarray:
    """Returns seeded images `(B, H, W, C)` of the model's native size: smooth fields under noise,
    as bytes.
    """
    generator = np.random.default_rng(seed)
    height, width = config.image_hw
    rows, columns = (
        np.linspace(0, 1, height)[:, None, None],
        np.linspace(0, 1, width)[None, :, None],
    )
    images = []
    for _ in range(num_images):
        waves, phase = (
            generator.uniform(-9, 9, (2, config.num_channels)),
            generator.uniform(0, 6, config.num_channels),
        )
        field = np.sin(waves[0] * rows + waves[1] * columns + phase) * 90
        images.append(128 + field + generator.normal(0, 20, field.shape))
    return np.clip(np.stack(images), 0, 255).astype(np.uint8)


def normalise(images: np.ndarray, processor) -> torch.Tensor:
    """Returns `(B, C, H, W)` as the processor normalises images that need no resizing."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (
        torch.tensor(list(values)).view(1, -1, 1, 1)
        for values in (processor.image_mean, processor.image_std)
    )
    return (pixels - mean) / deviation


def reopen(model, destination: Path, to: str, task: str):
    """Opens what was written, with the facts that its format does not store."""
    facts: dict = {} if to == "vit_hf" else {"native_image_size": model.config.image_size}
    if to in ("jax", "big_vision"):
        facts["pooling"] = model.config.pooling
    return load_checkpoint(destination, task=task, **facts)


@torch.no_grad()
def outputs_of(model, task: str, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns what a model of ours makes of the images: the task's output and the tokens."""
    encoder = getattr(model, "vit", model)
    outputs, encoded = model(pixels), encoder(pixels)
    output = outputs.pooler_output if task == "features" else outputs.logits
    tokens = {"tokens": encoded.last_hidden_state}
    return tokens if output is None else {OUTPUTS[task]: output, **tokens}


@torch.no_grad()
def run_stock(folder, task: str, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns what stock transformers makes of the images; a pooler that it invents is left out."""
    model, loading = STOCK_CLASSES[task].from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    encoder = getattr(model.eval(), "vit", model)
    tokens = {"tokens": encoder(pixels).last_hidden_state}
    if task == "features":
        return (
            tokens
            if loading["missing_keys"]
            else {OUTPUTS[task]: model(pixels).pooler_output, **tokens}
        )
    if task == "image-classification":
        return {OUTPUTS[task]: model(pixels).logits, **tokens}
    patch = model.config.patch_size
    rows, columns = (side // patch for side in pixels.shape[2:])
    unmasked = torch.zeros(len(pixels), rows * columns, dtype=torch.bool)
    picture = model(pixels, bool_masked_pos=unmasked).reconstruction
    return {OUTPUTS[task]: cut_patches(picture, (rows, columns), (patch, patch)), **tokens}


def differences(
    expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Returns the largest absolute difference of each output that both sides have."""
    return {name: difference(expected[name], got[name]) for name in expected if name in got}


def difference(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Returns the largest absolute difference; infinite for other shapes and for NaN."""
    if expected.shape != got.shape:
        return float("inf")
    largest = (expected.float() - got.float()).abs().max().item()
    return largest if largest == largest else float("inf")


def account_path(destination: Path) -> Path:
    """Returns where the account of a checkpoint lies: `parity.json` in its folder,
    `NAME.parity.json` beside the file `NAME.npz`, which may lie among others.
    """
    if destination.is_dir():
        return destination / "parity.json"
    return destination.with_name(f"{destination.name.removesuffix('.npz')}.parity.json")


def write_account(account: dict, destination: Path) -> Path:
    """Writes the account with the weights' hash, and returns its path."""
    path = account_path(destination)
    weights = destination / "model.safetensors" if destination.is_dir() else destination
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    account = {**account, "weights_sha256": digest}
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(account, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    return path
