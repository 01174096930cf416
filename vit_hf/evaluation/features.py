# SPDX-License-Identifier: Apache-2.0
"""Frozen features of a dataset, batch by batch, shared out among the processes.

Batches are the same for any number of processes, and each image's features come from exactly one of
them, so whatever is computed from the features is the same too.

Shapes: `B` batch, `N` images of the dataset, `T` tokens, `R` width of the representation.
"""

from collections.abc import Callable, Iterator, Mapping, Sized
from functools import partial
from typing import Any

import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..data.transforms import normalize
from ..modeling.evaluating import evaluating


@torch.no_grad()
def representation(model: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Returns what the head of a model sees, `(B, R)` in float32.

    That is the pooled representation; where the model does not pool, as in masked patch prediction,
    the mean of the patch tokens.

    Args:
        model: one of this package's, in evaluation mode.
        pixel_values: `(B, C, H, W)`, normalised.
    """
    outputs = encode(model, pixel_values)
    pooled = outputs.pooler_output
    if pooled is None or pooled.dim() == 3:
        tokens = outputs.last_hidden_state if pooled is None else pooled  # (B, T, R)
        pooled = tokens[:, model.config.num_prefix_tokens :].mean(1)
    return pooled.float()


def encode(model: PreTrainedModel, pixel_values: torch.Tensor) -> Any:
    """Returns the outputs of the model's encoder, without its head; only what is pooled, where it
    pools.
    """
    encoder = model.base_model
    if not isinstance(model, FSDPModule):
        return encoder(pixel_values, pooled_only=encoder.pooler is not None)
    # A sharded model gathers its weights when it is called as a whole.
    outputs = []
    hook = encoder.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        model(pixel_values)
    finally:
        hook.remove()
    return outputs[0]


def stream_features(
    model: PreTrainedModel,
    loader: DataLoader,
    *,
    autocast: torch.dtype | None = None,
    progress: str | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yields the features of this process's share of a dataset, on the CPU.

    Args:
        model: one of this package's; it is put into evaluation mode meanwhile.
        loader: its dataset, batch size, collation and workers are used, its order is not. A batch
            holds `pixel_values` `(B, 3, H, W)`, uint8 or normalised, and `labels` `(B,)`.
        autocast: the type to compute in, such as `torch.bfloat16`; `None` is the weights' own.
        progress: what a progress bar is called; `None` is no bar.

    Yields:
        Places in the dataset `(B,)`, features `(B, R)` in float32, and labels `(B,)`, -1 where the
        image could not be decoded.

    Raises:
        ValueError: see `share_of` and `labels_of`.
    """
    forward = partial(representation, model)
    return stream_outputs(model, loader, forward, autocast=autocast, progress=progress)


def stream_outputs(
    model: PreTrainedModel,
    loader: DataLoader,
    forward: Callable[[torch.Tensor], torch.Tensor],
    *,
    autocast: torch.dtype | None = None,
    progress: str | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yields what `forward` makes of this process's share of a dataset, in place of the features.

    For everything else see `stream_features`.

    Args:
        model: the model that `forward` calls.
        loader: of the dataset.
        forward: from normalised pixels `(B, 3, H, W)` on the model's device to `(B, ...)`.
        autocast: the type to compute in.
        progress: what a progress bar is called.
    """
    device = model.device
    with evaluating(model):
        for places, batch in share_of(loader, progress=progress):
            pixel_values = batch["pixel_values"].to(device)
            if pixel_values.dtype == torch.uint8:
                pixel_values = normalize(pixel_values)
            is_cast = autocast is not None
            with torch.no_grad(), torch.autocast(device.type, dtype=autocast, enabled=is_cast):
                outputs = forward(pixel_values).float().cpu()
            yield places, outputs[: len(places)], labels_of(batch)[: len(places)]


def collect_features(
    model: PreTrainedModel,
    loader: DataLoader,
    *,
    autocast: torch.dtype | None = None,
    progress: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns features `(N, R)` and labels `(N,)` of a whole dataset, on every process.

    For the arguments see `stream_features`.
    """
    parts = list(stream_features(model, loader, autocast=autocast, progress=progress))
    table = torch.zeros(num_images_of(loader), parts[0][1].shape[1])
    labels = torch.zeros(len(table), dtype=torch.long)
    for places, features, some_labels in parts:
        table[places], labels[places] = features, some_labels
    # Each place is filled by one process, and zero in the others.
    return (
        sum_over_processes(table, device=model.device),
        sum_over_processes(labels, device=model.device),
    )


def collect_labels(loader: DataLoader, *, device: torch.device) -> torch.Tensor:
    """Returns the labels `(N,)` of a whole dataset, on every process, by reading all of its images.

    For the loader see `stream_features`.

    Args:
        loader: of the dataset.
        device: that the processes exchange tensors on.
    """
    labels = torch.zeros(num_images_of(loader), dtype=torch.long)
    for places, batch in share_of(loader):
        labels[places] = labels_of(batch)[: len(places)]
    return sum_over_processes(labels, device=device)


def share_of(
    loader: DataLoader, *, progress: str | None = None
) -> Iterator[tuple[torch.Tensor, Mapping[str, Any]]]:
    """Yields this process's batches: every process has as many, all of one size.

    What that takes beyond the end of the dataset are images from its beginning. Places `(B,)` leave
    them out, so a batch's last images may have none.

    For the arguments see `stream_features`; the first process has the bar.

    Raises:
        ValueError: see `num_images_of`, and where the collation leaves images out.
    """
    num_images = num_images_of(loader)
    rank, num_processes = process_of()
    batch_size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
    batch_size = min(batch_size, num_images)
    num_rounds = -(-num_images // (batch_size * num_processes))
    starts = [(lap * num_processes + rank) * batch_size for lap in range(num_rounds)]
    numbers = [[place % num_images for place in range(at, at + batch_size)] for at in starts]
    batches = DataLoader(
        loader.dataset,
        batch_sampler=numbers,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        generator=torch.Generator(),  # a loader would draw from the global one
    )
    is_shown = progress is not None and rank == 0
    bar = tqdm(zip(starts, batches), progress, num_rounds, unit="batch", disable=not is_shown)
    for at, batch in bar:
        if len(batch["pixel_values"]) != batch_size:
            raise ValueError(
                f"got a batch of {len(batch['pixel_values'])} images where {batch_size} were asked "
                "for; collate every image, with is_undecodable where one could not be read"
            )
        yield torch.arange(at, max(at, min(at + batch_size, num_images))), batch


def num_images_of(loader: DataLoader) -> int:
    """Returns the size of a loader's dataset.

    Raises:
        ValueError: for a stream, whose images have no numbers, or an empty dataset.
    """
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        raise ValueError(
            f"got a stream ({type(dataset).__name__}), allowed: a dataset with a length, whose "
            "images have numbers; leave out --streaming for this one"
        )
    if not len(dataset):
        raise ValueError("got a dataset of 0 images, allowed: at least one")
    return len(dataset)


def labels_of(batch: Mapping[str, Any]) -> torch.Tensor:
    """Returns the labels `(B,)` of a batch on the CPU, -1 where `is_undecodable` says so.

    Raises:
        ValueError: where they are not one class index for each image.
    """
    labels, num_images = batch.get("labels"), len(batch["pixel_values"])
    if labels is None or labels.shape != (num_images,) or labels.is_floating_point():
        got = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)}"
        raise ValueError(
            f"got a batch of {num_images} images with {got}, allowed: one class index for each; "
            "collate with `ImageCollator`, without augmentation"
        )
    is_undecodable = batch.get("is_undecodable")
    return labels if is_undecodable is None else labels.masked_fill(is_undecodable, -1)


def process_of() -> tuple[int, int]:
    """Returns the rank of this process, from 0, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def sum_over_processes(tensor: torch.Tensor, *, device: torch.device) -> torch.Tensor:
    """Returns the sum of a tensor over all processes, on the CPU of each; `device` carries it."""
    if process_of()[1] == 1:
        return tensor
    total = tensor.to(device, copy=True)
    distributed.all_reduce(total)
    return total.cpu()
