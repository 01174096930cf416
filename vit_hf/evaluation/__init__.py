# SPDX-License-Identifier: Apache-2.0
"""From batches to numbers: metrics that keep no logits."""

from .metrics import accuracy, predicted_classes

__all__ = ["accuracy", "predicted_classes"]
