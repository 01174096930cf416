# SPDX-License-Identifier: Apache-2.0
"""From batches to numbers: metrics that keep no logits, the few-shot evaluation."""

from .features import collect_features, representation, stream_features
from .few_shot import evaluate_few_shot, few_shot_accuracy, mean_accuracies
from .metrics import StreamingAccuracy, TopKAccuracy, top_classes

__all__ = [
    "StreamingAccuracy",
    "TopKAccuracy",
    "collect_features",
    "evaluate_few_shot",
    "few_shot_accuracy",
    "mean_accuracies",
    "representation",
    "stream_features",
    "top_classes",
]
