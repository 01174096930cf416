# SPDX-License-Identifier: Apache-2.0
"""What a head reads of the tokens: the class token, the mean of the patches, or what the probe of
attention pooling finds (section 3.1, D.3).

Shapes: `B` batch, `N` patches, `T` tokens, `D` width, `A` heads, `E = D / A`.
"""

import functools
from typing import Any

import torch

from .attention_rows import AttentionRecord

# What each way of pooling reads, in words for captions.
READERS = {
    "cls": "the class token",
    "gap": "the mean of the patch tokens",
    "map": "the probe of the attention pooling",
    "none": "the average patch token",
}


def reader_of(model) -> str:
    """Returns which of `READERS` a model has; a model that does not pool reads each token."""
    return "none" if model.base_model.pooler is None else model.config.pooling


def reader_rows(model, record: AttentionRecord) -> torch.Tensor:
    """Returns where the pooled token looks, in the last place where it looks at patches.

    That is the last layer's row of the class token or the mean of the last layer's rows of the
    patches; with attention pooling it is the probe's row, behind the last layer.

    Returns:
        `(B, A, N)`: for each head the weight of each patch. What goes to class and register tokens
        is left out, so a head's weights sum to at most 1.
    """
    num_prefix, reader = model.config.num_prefix_tokens, reader_of(model)
    if reader == "map":
        return probe_rows(model.base_model.pooler.pooling, record.tokens[:, num_prefix:])
    last = record.layers[-1]
    if reader == "cls":
        return last.rows(0, 1)[:, :, 0, num_prefix:]
    sums = (rows.sum(2) for _, rows in last.blocks(num_prefix))
    total = functools.reduce(torch.add, sums)  # (B, A, T)
    return total[..., num_prefix:] / (record.grid[0] * record.grid[1])


def reader_shares(model, record: AttentionRecord) -> torch.Tensor:
    """Returns the share `(B, T)` that each of the last layer's tokens has in the pooled one."""
    num_prefix, tokens = model.config.num_prefix_tokens, record.tokens
    shares = torch.zeros(tokens.shape[:2], device=tokens.device)
    reader = reader_of(model)
    if reader == "cls":
        shares[:, 0] = 1
    elif reader == "map":
        shares[:, num_prefix:] = reader_rows(model, record).mean(1)
    else:
        shares[:, num_prefix:] = 1 / (record.grid[0] * record.grid[1])
    return shares


@torch.no_grad()
def probe_rows(pooling: Any, patches: torch.Tensor) -> torch.Tensor:
    """Returns the attention `(B, A, N)` of `AttentionPooling`'s probe to patches `(B, N, D)`."""
    heads = (-1, pooling.head_dim)
    query = pooling.q_proj(pooling.probe).unflatten(-1, heads).transpose(1, 2)  # (1, A, 1, E)
    key = pooling.k_proj(patches).unflatten(-1, heads).transpose(1, 2)  # (B, A, N, E)
    logits = query @ key.transpose(2, 3) * pooling.head_dim**-0.5  # (B, A, 1, N)
    return logits.softmax(-1, dtype=torch.float32).squeeze(2)
