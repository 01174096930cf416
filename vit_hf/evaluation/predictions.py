# SPDX-License-Identifier: Apache-2.0
"""What a classifier says of each image of a dataset: its best classes, how sure it is, the loss.

A few numbers are kept of each image and no logits, so 21,843 classes cost no more than ten. All
processes share the work, and all get the whole table.

An image that cannot be decoded counts as wrong. It has no loss and no confidence: those are over
the other images.

Shapes: `N` images, `B` batch, `K` classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ..modeling.losses import classification_loss, scores_of
from .features import num_images_of, stream_outputs, sum_over_processes
from .metrics import NO_CLASS, NUM_TOP_CLASSES, top_classes


@dataclass(frozen=True)
class Predictions:
    """What was predicted of each image of a dataset, in the dataset's order.

    Attributes:
        top_classes: `(N, 5)`, the best classes, best first; fewer columns where there are fewer
            classes, and -1 for what predicts none.
        labels: `(N,)`, -1 where the image could not be decoded.
        confidences: `(N,)`, the probability of the best class.
        losses: `(N,)`, of the image on its own.
    """

    top_classes: torch.Tensor
    labels: torch.Tensor
    confidences: torch.Tensor
    losses: torch.Tensor

    @property
    def is_readable(self) -> torch.Tensor:
        """Which images could be decoded, `(N,)`."""
        return self.labels != NO_CLASS

    def is_right(self, num_guesses: int = 1) -> torch.Tensor:
        """Which images have their class among the first guesses, `(N,)`."""
        guesses = self.top_classes[:, :num_guesses]
        return (guesses == self.labels.unsqueeze(1)).any(1) & self.is_readable


def collect_predictions(
    model: PreTrainedModel,
    loader: DataLoader,
    *,
    classes: Sequence[int] | None = None,
    autocast: torch.dtype | None = None,
    progress: str | None = None,
    around: Callable[[Callable], Callable] | None = None,
) -> Predictions:
    """Classifies every image of a dataset.

    Args:
        model: one of this package's classifiers.
        loader: of the dataset, see `features.stream_features`.
        classes: the model's class of each of the dataset's; `None` is the same numbers.
        autocast: the type to compute in; `None` is the weights' own.
        progress: what a progress bar is called; `None` is no bar.
        around: wraps the forward pass, such as `Meter.around`.

    Returns:
        The predictions of all images, on every process.
    """
    config: Any = model.config
    numbers = range(config.num_labels) if classes is None else classes
    to_own = torch.tensor([*numbers, NO_CLASS])  # at -1 stands -1
    num_images = num_images_of(loader)
    table = Predictions(
        torch.zeros(num_images, min(NUM_TOP_CLASSES, config.num_labels), dtype=torch.long),
        torch.zeros(num_images, dtype=torch.long),
        torch.zeros(num_images),
        torch.zeros(num_images),
    )
    forward = partial(logits_of, model)
    forward = forward if around is None else around(forward)
    stream = stream_outputs(model, loader, forward, autocast=autocast, progress=progress)
    for places, logits, some_labels in stream:  # logits (B, K)
        labels = to_own[some_labels]
        table.top_classes[places] = top_classes(logits)
        table.labels[places] = labels
        table.confidences[places] = scores_of(logits, config).amax(1)
        table.losses[places] = losses_of(logits, labels, config=config)
    # Each place is filled by one process, and zero in the others.
    return Predictions(
        *(sum_over_processes(column, device=model.device) for column in vars(table).values())
    )


def logits_of(model: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Returns the logits `(B, K)` of normalised pixels."""
    return model(pixel_values).logits


def losses_of(logits: torch.Tensor, labels: torch.Tensor, *, config: Any) -> torch.Tensor:
    """Returns the loss `(B,)` of each image on its own; 0 where the label is -1.

    Args:
        logits: `(B, K)`.
        labels: class indices `(B,)`.
        config: the model's, which names the loss.
    """
    losses = torch.zeros(len(labels), device=logits.device)
    for place in (labels != NO_CLASS).nonzero().flatten().tolist():
        one = slice(place, place + 1)
        losses[place] = classification_loss(logits[one], labels[one], config)
    return losses


class TopClassesAndLosses:
    """`Trainer`'s `preprocess_logits_for_metrics`: leaves each image's best classes and its loss.

    With `StreamingAccuracy` the loss of an evaluation is then that of `vit-hf evaluate`: the mean
    over the images that could be decoded. The `Trainer`'s own takes a black picture for the others.

    Args:
        config: the model's, which names the loss.
    """

    def __init__(self, config: Any):
        self.config = config

    def __call__(self, logits: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns classes `(B, 5)` and losses `(B,)` of logits `(B, K)` and labels `(B,)`."""
        logits = logits[0] if isinstance(logits, tuple) else logits
        return top_classes(logits), losses_of(logits, labels, config=self.config)
