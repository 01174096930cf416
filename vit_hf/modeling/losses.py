# SPDX-License-Identifier: Apache-2.0
"""The classification losses: softmax or sigmoid cross-entropy, regression; and the scores of each.

Each is a mean over images, so the gradients of accumulated batches of one size average to that of
the big batch.

Shapes: `B` batch, `K` classes.
"""

import torch
from torch import nn

from .hooks import is_traced


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
    return nn.functional.mse_loss(logits, labels.to(logits.dtype))


LOSSES = {
    "softmax": softmax_loss,
    "sigmoid": sigmoid_loss,
    "single_label_classification": softmax_loss,
    "multi_label_classification": multi_label_loss,
    "regression": regression_loss,
}


INDEX_LOSSES = ("softmax", "sigmoid", "single_label_classification")  # that take class indices


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, config) -> torch.Tensor:
    """The loss `()` that the configuration names, in float32.

    Args:
        logits: `(B, K)`, or `(B, T, K)` where nothing is pooled.
        labels: class indices `(B,)` or shares `(B, K)`; where nothing is pooled `(B, T)` or
            `(B, T, K)`; of a regression to one number `(B,)` too.
        config: its `problem_type` counts where it is set, else its `classification_loss`; softmax
            of one number says nothing, which is a regression, as in transformers.

    Raises:
        ValueError: for labels of another shape, or, where they lie on the CPU, outside the classes.
    """
    name, num_labels = config.problem_type or config.classification_loss, logits.shape[-1]
    if num_labels == 1 and not config.problem_type and name == "softmax":
        name = "regression"
    logits = logits.float()
    if (
        name in INDEX_LOSSES
        and labels.shape == logits.shape[:-1]
        and not labels.is_floating_point()
    ):
        check_classes(labels, num_labels)
        labels = labels.to(logits.device, torch.long).flatten()
        return LOSSES[name](logits.reshape(-1, num_labels), labels)
    if name == "regression" and num_labels == 1 and labels.shape == logits.shape[:-1]:
        labels = labels.unsqueeze(-1)
    if labels.shape != logits.shape:
        allowed = f"a number for each class {tuple(logits.shape)}"
        if name in INDEX_LOSSES:
            allowed = f"class indices {tuple(logits.shape[:-1])} as integers, or {allowed}"
        raise ValueError(
            f"got labels of shape {tuple(labels.shape)} and type {labels.dtype}, allowed: {allowed}"
        )
    labels = labels.to(logits.device).reshape(-1, num_labels).float()
    return LOSSES[name](logits.reshape(-1, num_labels), labels)


def score_kind(config) -> str:
    """Returns "softmax", "sigmoid" or "none": what makes scores of a classifier's logits.

    As transformers' image-classification pipeline has it, which knows `problem_type` and
    `num_labels` alone; for `classification_loss="sigmoid"` it has to be told
    `function_to_apply="sigmoid"`.
    """
    if config.problem_type == "regression":
        return "none"
    is_multi_label = config.problem_type == "multi_label_classification"
    is_sigmoid = is_multi_label or config.num_labels == 1
    return "sigmoid" if is_sigmoid or config.classification_loss == "sigmoid" else "softmax"


def scores_of(logits: torch.Tensor, config) -> torch.Tensor:
    """Returns the scores `(B, K)` of logits `(B, K)`, in float32; see `score_kind`."""
    logits, kind = logits.float(), score_kind(config)
    if kind == "softmax":
        return logits.softmax(dim=-1)
    return logits.sigmoid() if kind == "sigmoid" else logits


def check_classes(labels: torch.Tensor, num_labels: int):
    """Raises a `ValueError` for class indices outside `0 ... num_labels - 1`.

    An accelerator's are not looked at, as that would wait for it; it stops on them by itself.
    """
    if labels.device.type != "cpu" or labels.numel() == 0 or is_traced():
        return
    lowest, highest = (int(bound) for bound in labels.aminmax())
    if lowest < 0 or highest >= num_labels:
        raise ValueError(
            f"got the label {lowest if lowest < 0 else highest}, allowed: 0 ... {num_labels - 1}, "
            f"as the model has num_labels={num_labels}"
        )
