# SPDX-License-Identifier: Apache-2.0
"""From batches to better weights: hooks of transformers' `Trainer`, no loop of its own."""

from .arguments import VisionTransformerTrainingArguments
from .trainer import VisionTransformerTrainer

__all__ = ["VisionTransformerTrainer", "VisionTransformerTrainingArguments"]
