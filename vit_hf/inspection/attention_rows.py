# SPDX-License-Identifier: Apache-2.0
"""Rows of attention maps, worked out when they are asked for, in memory linear in the tokens.

The maps of a layer are `(B, A, T, T)`: a gigabyte for one layer of ViT-L/16 and one image of 1024
pixels. The figures need some of their rows, or sums over them. So what is kept of a forward pass
are the inputs `(B, T, D)` of the attention modules, and the rows are computed again from these, a
block at a time. They are the same under every attention backend, as none of them computes them.

Shapes: `B` batch, `N` patches, `T` tokens, `D` width, `A` heads, `E = D / A` width of a head,
`R` rows of a block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..modeling.evaluating import evaluating

BLOCK_ROWS = 128  # rows that are held at a time, each `(B, A, T)`
LINEAR_BACKEND = "sdpa"  # never holds a map, and is there on every device


@dataclass
class LayerAttention:
    """One layer's attention on one batch, from which any of its rows can be had.

    Args:
        module: the `VisionTransformerAttention`.
        hidden_states: its input `(B, T, D)`.
        relative_keys: `(2N - 1, E)` where positions are relative, otherwise `None`.
    """

    module: Any
    hidden_states: torch.Tensor
    relative_keys: torch.Tensor | None

    @torch.no_grad()
    def blocks(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields the rows from `start` to `stop` in blocks.

        Yields:
            The place of the block's rows, and the rows `(B, A, R, T)` in float32, each of which
            sums to 1.
        """
        attention, num_tokens = self.module, self.hidden_states.shape[1]
        key = self._heads(attention.k_norm, attention.k_proj(self.hidden_states))
        stop = num_tokens if stop is None else stop
        for first in range(start, stop, BLOCK_ROWS):
            place = slice(first, min(first + BLOCK_ROWS, stop))
            projected = attention.q_proj(self.hidden_states[:, place])
            query = self._heads(attention.q_norm, projected)  # (B, A, R, E)
            logits = query @ key.transpose(2, 3) * attention.scaling  # (B, A, R, T)
            if self.relative_keys is not None:
                query = query * attention.scaling
                logits += relative_bias_rows(
                    query, self.relative_keys, first_row=first, num_tokens=num_tokens
                )
            yield place, logits.softmax(-1, dtype=torch.float32)

    def rows(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Returns the rows from `start` to `stop`, `(B, A, stop - start, T)`."""
        return torch.cat([rows for _, rows in self.blocks(start, stop)], dim=2)

    def _heads(self, norm: nn.Module, projected: torch.Tensor) -> torch.Tensor:
        return norm(projected.unflatten(-1, (-1, self.module.head_dim))).transpose(1, 2)


@dataclass
class AttentionRecord:
    """What a forward pass left behind for the figures.

    Args:
        layers: the attention of each layer, first to last.
        tokens: `(B, T, D)`, what is pooled.
        grid: patches `(rows, columns)` of the images.
    """

    layers: list[LayerAttention]
    tokens: torch.Tensor
    grid: tuple[int, int]


@torch.no_grad()
def record_attention(model, pixel_values: torch.Tensor) -> AttentionRecord:
    """Runs a model on images and keeps the inputs of its attention modules.

    Args:
        model: any of the package's models; it is left as it was.
        pixel_values: `(B, C, H, W)`, of any size of at least one patch.

    Returns:
        What `L + 1` tensors `(B, T, D)` hold, on the model's device.
    """
    encoder, layers = model.base_model, []

    def keep(module: nn.Module, inputs: tuple[torch.Tensor, torch.Tensor | None]):
        layers.append(LayerAttention(module, *inputs))

    hooks = [layer.attention.register_forward_pre_hook(keep) for layer in encoder.layers]
    try:
        with as_served(model):
            pixel_values = pixel_values.to(model.device)
            outputs = encoder(pixel_values, output_attentions=False, output_hidden_states=False)
    finally:
        for hook in hooks:
            hook.remove()
    grid = encoder.embeddings.patch_embeddings.grid_of(pixel_values)
    return AttentionRecord(layers, outputs.last_hidden_state, grid)


@contextmanager
def as_served(model) -> Iterator[None]:
    """Puts a model in evaluation mode and on a backend that is linear in memory, for a while."""
    backend = model.config._attn_implementation
    try:
        with evaluating(model):
            model.set_attn_implementation(LINEAR_BACKEND)
            yield
    finally:
        model.set_attn_implementation(backend)


def relative_bias_rows(
    query: torch.Tensor, keys: torch.Tensor, *, first_row: int, num_tokens: int
) -> torch.Tensor:
    """Some rows of what `vit_hf.modeling.positions.relative_bias` computes whole.

    Args:
        query: `(B, A, R, E)`, scaled, of the tokens from `first_row` on.
        keys: `(2N - 1, E)`, by offset.
        first_row: place of the first query among the tokens.
        num_tokens: `T`; the last N tokens are the patches.

    Returns:
        The bias `(B, A, R, T)`, zero where either token is no patch.
    """
    num_patches = (keys.shape[0] + 1) // 2
    num_prefix = num_tokens - num_patches
    by_offset = query @ keys.transpose(0, 1)  # (B, A, R, 2N - 1)
    row = torch.arange(query.shape[2], device=query.device) + first_row - num_prefix
    column = torch.arange(num_patches, device=query.device)
    offset = (row[:, None] - column + num_patches - 1).clamp(min=0)  # (R, N)
    bias = by_offset.gather(-1, offset.expand(*by_offset.shape[:2], -1, -1))  # (B, A, R, N)
    bias = bias.masked_fill((row < 0)[:, None], 0)
    return nn.functional.pad(bias, (num_prefix, 0))
