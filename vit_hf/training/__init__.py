# SPDX-License-Identifier: Apache-2.0
"""From batches to better weights: transformers' `Trainer` with the paper's decay mask."""

from .trainer import VisionTransformerTrainer

__all__ = ["VisionTransformerTrainer"]
