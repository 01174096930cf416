# SPDX-License-Identifier: Apache-2.0
"""Accuracy for `Trainer`, from predicted classes: no logits are hoarded."""

import numpy as np
import torch
from transformers import EvalPrediction


def predicted_classes(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the classes `(B,)` of logits `(B, K)`; for `Trainer`'s
    `preprocess_logits_for_metrics`.
    """
    return logits.argmax(dim=-1)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Returns the share of images whose predicted class is their label; for `Trainer`'s
    `compute_metrics`.
    """
    return {"accuracy": float(np.mean(prediction.predictions == prediction.label_ids))}
