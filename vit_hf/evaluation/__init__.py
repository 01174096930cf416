# SPDX-License-Identifier: Apache-2.0
"""From batches to numbers: metrics that keep no logits, probes of frozen features, calibration."""

from .calibration import calibration_error
from .evaluator import register_evaluator
from .features import collect_features, representation, stream_features
from .few_shot import evaluate_few_shot, few_shot_accuracy, mean_accuracies
from .label_sets import label_set_hits, read_label_sets
from .metrics import StreamingAccuracy, TopKAccuracy, top_classes
from .predictions import Predictions, TopClassesAndLosses, collect_predictions

__all__ = [
    "Predictions",
    "StreamingAccuracy",
    "TopClassesAndLosses",
    "TopKAccuracy",
    "calibration_error",
    "collect_features",
    "collect_predictions",
    "evaluate_few_shot",
    "few_shot_accuracy",
    "label_set_hits",
    "mean_accuracies",
    "read_label_sets",
    "representation",
    "stream_features",
    "top_classes",
]

register_evaluator()  # as transformers' Auto classes are told of ours by `import vit_hf`
