# SPDX-License-Identifier: Apache-2.0
"""Looking inside a model. Functions named `draw_*` return matplotlib figures and save nothing."""

from .attention_distance import attention_distance, draw_attention_distance, uniform_distance
from .attention_rollout import attention_rollout, draw_attention_rollout
from .attention_rows import record_attention
from .masked_prediction import draw_masked_prediction, masked_prediction
from .patch_filters import draw_filter_components, filter_components
from .pooled_attention import draw_pooled_attention, pooled_attention
from .position_similarity import draw_position_similarity, position_similarity

__all__ = [
    "attention_distance",
    "attention_rollout",
    "draw_attention_distance",
    "draw_attention_rollout",
    "draw_filter_components",
    "draw_masked_prediction",
    "draw_pooled_attention",
    "draw_position_similarity",
    "filter_components",
    "masked_prediction",
    "pooled_attention",
    "position_similarity",
    "record_attention",
    "uniform_distance",
]
