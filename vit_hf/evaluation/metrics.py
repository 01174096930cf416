# SPDX-License-Identifier: Apache-2.0
"""Top-1 and top-5 accuracy, counted batch by batch: no logits are kept, for any number of classes.

An image that could not be decoded has the reference -1. It counts as wrong, so the denominator is
the number of images that were asked for, not of those that could be read.

Shapes: `B` batch, `K` classes.
"""

from typing import Any

import datasets
import evaluate
import torch
from transformers import EvalPrediction

NUM_TOP_CLASSES = 5
NO_CLASS = -1  # the reference of an undecodable image; the prediction where logits hold nan


class TopKAccuracy(evaluate.Metric):
    """The share of images whose class is the first, and among the first five, that is predicted.

    It counts as it goes, in three integers: there is no cache file, which runs could share by
    mistake, and no network. On several processes gather first (`Accelerator.gather_for_metrics`
    leaves out what was only padding), as `Trainer` does.
    """

    def __init__(self):
        super().__init__()
        self.reset()

    def reset(self):
        """Forgets what was counted."""
        self.num_images = self.num_first = self.num_among_five = 0
        self.knows_five = True  # whether every batch ranked its predictions

    def __len__(self) -> int:
        """The images counted so far."""
        return self.num_images

    def add_batch(self, *, predictions: Any = None, references: Any = None):
        """Counts a batch.

        Args:
            predictions: logits `(B, K)`, or class indices: the first five `(B, 5)`, best first (all
                of them where there are fewer), or the first alone `(B,)`; -1 is no class.
            references: class indices `(B,)`; -1 for an image that could not be decoded.

        Raises:
            ValueError: for other shapes, and for references that are no class indices.
        """
        if predictions is None or references is None:
            raise ValueError("got no predictions or no references; give both")
        predictions, references = torch.as_tensor(predictions), torch.as_tensor(references)
        check_references(references)
        if predictions.dim() not in (1, 2) or len(predictions) != len(references):
            raise ValueError(
                f"got predictions of shape {tuple(predictions.shape)} for {len(references)} "
                "references, allowed: (images, classes) or (images,)"
            )
        if predictions.is_floating_point():
            predictions = top_classes(predictions)
        self.knows_five &= predictions.dim() == 2
        ranked = predictions.reshape(len(references), -1)[:, :NUM_TOP_CLASSES]  # (B, 5)
        references = references.to(ranked.device).unsqueeze(1)  # (B, 1)
        hits = (ranked == references) & (references != NO_CLASS)
        self.num_images += len(hits)
        self.num_first += int(hits[:, 0].sum())
        self.num_among_five += int(hits.any(1).sum())

    def add(self, *, prediction: Any = None, reference: Any = None):
        """Counts one image, see `add_batch`."""
        self.add_batch(predictions=[prediction], references=[reference])

    def compute(self, *, predictions: Any = None, references: Any = None) -> dict[str, float]:
        """Returns what was counted, with this last batch where one is given, and starts anew.

        Returns:
            `accuracy` and, unless only the first class of an image was given, `top5_accuracy`.

        Raises:
            ValueError: where there was no image.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        if not self.num_images:
            raise ValueError("got no image to compute an accuracy of; call add_batch first")
        result = {"accuracy": self.num_first / self.num_images}
        if self.knows_five:
            result["top5_accuracy"] = self.num_among_five / self.num_images
        self.reset()
        return result

    def _info(self) -> evaluate.MetricInfo:
        classes = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Sequence(classes), "references": classes}
            ),
        )

    def _build_data_dir(self) -> str:
        return ""  # a metric that writes nothing needs no folder under the home directory


def check_references(references: torch.Tensor):
    """Raises a `ValueError` unless the references are class indices `(B,)`, or -1."""
    allowed = "allowed: one class index an image, or -1 where it could not be decoded"
    if references.dim() != 1 or references.is_floating_point():
        raise ValueError(
            f"got references of shape {tuple(references.shape)} and type {references.dtype}, "
            f"{allowed}; an accuracy of shares or of several labels an image is not defined here"
        )
    if references.numel() and int(references.min()) < NO_CLASS:
        raise ValueError(f"got the reference {int(references.min())}, {allowed}")


def top_classes(logits: Any, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Returns the five best classes `(B, 5)`, best first; all of them where there are fewer.

    For `Trainer`'s `preprocess_logits_for_metrics`, so that processes exchange these and not the
    logits.

    Args:
        logits: `(B, K)`, or the tuple that begins with them where the model returns more. A row
            that holds nan predicts -1.
        labels: unused; the `Trainer` gives them.

    Raises:
        ValueError: for logits of another shape.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    if logits.dim() != 2:
        raise ValueError(
            f"got logits of shape {tuple(logits.shape)}, allowed: (images, classes); a model "
            "with pooling='none' has no class for an image"
        )
    classes = logits.topk(min(NUM_TOP_CLASSES, logits.shape[1]), dim=1).indices  # (B, 5)
    return classes.masked_fill(logits.isnan().any(1, keepdim=True), NO_CLASS)


class StreamingAccuracy:
    """`Trainer`'s `compute_metrics` for `batch_eval_metrics=True`: counts every batch as it comes.

    It expects the classes that `top_classes` leaves, or the classes and losses that
    `predictions.TopClassesAndLosses` leaves, gathered from all processes, and works without
    `batch_eval_metrics` too.
    """

    def __init__(self):
        self.metric = TopKAccuracy()
        self.reset()

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Counts a batch; with the last one, returns the accuracies, see `TopKAccuracy.compute`,
        and, where losses were given, `loss`: their mean over the images that could be decoded, and
        `num_decodable`: how many these are.
        """
        classes: Any = prediction.predictions
        references = torch.as_tensor(prediction.label_ids)
        if isinstance(classes, tuple):
            classes, losses = classes
            readable = torch.as_tensor(losses)[references != NO_CLASS]
            self.sum_of_losses += float(readable.double().sum())
            self.num_losses += len(readable)
        self.metric.add_batch(predictions=classes, references=references)
        if not compute_result:
            return {}
        result = self.metric.compute()
        if self.num_losses:
            result["loss"] = self.sum_of_losses / self.num_losses
            result["num_decodable"] = self.num_losses
        self.reset()
        return result

    def reset(self):
        """Forgets an evaluation that was broken off."""
        self.metric.reset()
        self.sum_of_losses, self.num_losses = 0.0, 0
