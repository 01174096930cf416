# SPDX-License-Identifier: Apache-2.0
"""The classification losses: softmax or sigmoid cross-entropy, regression.

Each is a mean over images, so the gradients of accumulated batches of one size average to that of
the big batch.

Shapes: `B` batch, `K` classes.
"""

import torch
from torch import nn


def softmax_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with class indices `(B,)` or shares `(B, K)`."""
    return nn.functional.cross_entropy(logits, labels)


def sigmoid_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, summed over the classes, as the authors pre-train on ImageNet-21k."""
    if labels.dim() == 1:
        labels = nn.functional.one_hot(labels, logits.shape[-1])
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits, labels.to(logits.dtype), reduction="none"
    )
    return losses.sum(-1).mean()


def multi_label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, the mean over the classes: `"multi_label_classification"`."""
    return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def regression_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Squared error: transformers' `problem_type="regression"`."""
    return nn.functional.mse_loss(logits, labels.reshape(logits.shape).to(logits.dtype))


LOSSES = {
    "softmax": softmax_loss,
    "sigmoid": sigmoid_loss,
    "single_label_classification": softmax_loss,
    "multi_label_classification": multi_label_loss,
    "regression": regression_loss,
}


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, config) -> torch.Tensor:
    """The loss `()` that the configuration names, in float32.

    Args:
        logits: `(B, K)`, or `(B, T, K)` where nothing is pooled.
        labels: class indices `(B,)` or shares `(B, K)`; where nothing is pooled `(B, T)` or
            `(B, T, K)`.
        config: its `problem_type` counts where it is set, else its `classification_loss`.

    Raises:
        ValueError: for labels of another shape or outside the classes.
    """
    num_labels = logits.shape[-1]
    is_index = labels.dim() == logits.dim() - 1 and not labels.is_floating_point()
    if not is_index and labels.shape != logits.shape and config.problem_type != "regression":
        raise ValueError(
            f"got labels of shape {tuple(labels.shape)} and type {labels.dtype}, allowed: class "
            f"indices {tuple(logits.shape[:-1])} as integers, or a share for each class "
            f"{tuple(logits.shape)}"
        )
    logits, labels = logits.float().reshape(-1, num_labels), labels.to(logits.device)
    labels = labels.flatten() if is_index else labels.reshape(-1, num_labels).float()
    return LOSSES[config.problem_type or config.classification_loss](logits, labels)
