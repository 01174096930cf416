# SPDX-License-Identifier: Apache-2.0
"""Looking inside a model. Functions named `draw_*` return matplotlib figures and save nothing."""

from .attention_rollout import attention_rollout, draw_attention_rollout
from .masked_prediction import draw_masked_prediction
from .position_similarity import draw_position_similarity, position_similarity

__all__ = [
    "attention_rollout",
    "draw_attention_rollout",
    "draw_masked_prediction",
    "draw_position_similarity",
    "position_similarity",
]
