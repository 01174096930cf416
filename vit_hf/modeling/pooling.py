# SPDX-License-Identifier: Apache-2.0
"""Tokens to one vector: class token, mean of the patches, attention pooling; then the representation layer.

Section 3.1 for the class token and the representation layer, D.3 for the mean; attention pooling is the
authors' research code's.

Shapes: `B` batch, `N` patches, `T` tokens, `D` width, `A` heads, `E = D / A`, `R` width of the representation.
"""

import torch
from torch import nn
from transformers import initialization as init

from .encoder import VisionTransformerMLP


class ClassTokenPooling(nn.Module):
    """The class token, `(B, T, D)` to `(B, D)`."""

    def __init__(self, config):
        super().__init__()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 0]


class MeanPooling(nn.Module):
    """The mean of the patch tokens, `(B, T, D)` to `(B, D)`; class and register tokens are left out."""

    def __init__(self, config):
        super().__init__()
        self.num_prefix_tokens = config.num_prefix_tokens

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, self.num_prefix_tokens :].mean(dim=1)


class AttentionPooling(nn.Module):
    """Multi-head attention pooling, `(B, T, D)` to `(B, D)`: one learned probe attends to the patch tokens.

    The probe is not added back; an MLP behind a LayerNorm is.
    """

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.num_prefix_tokens = config.num_prefix_tokens
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = VisionTransformerMLP(config)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        patches = tokens[:, self.num_prefix_tokens :]  # (B, N, D)
        query = self._heads(self.q_proj(self.probe)).expand(patches.shape[0], -1, -1, -1)  # (B, A, 1, E)
        key, value = self._heads(self.k_proj(patches)), self._heads(self.v_proj(patches))  # (B, A, N, E)
        pooled = nn.functional.scaled_dot_product_attention(query, key, value)
        pooled = self.o_proj(pooled.transpose(1, 2).flatten(2)).squeeze(1)  # (B, D)
        return pooled + self.mlp(self.layernorm(pooled))

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def init_weights(self):
        """The probe is xavier-uniform with a fan-in of 1, as in the authors' research code."""
        bound = (6 / (1 + self.probe.shape[-1])) ** 0.5
        init.uniform_(self.probe, -bound, bound)


class NoPooling(nn.Module):
    """Every token, `(B, T, D)` to `(B, T, D)`: the head gives logits per token."""

    def __init__(self, config):
        super().__init__()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens


POOLINGS = {"cls": ClassTokenPooling, "gap": MeanPooling, "map": AttentionPooling, "none": NoPooling}


class VisionTransformerPooler(nn.Module):
    """Pooling, then the norm of the pooled vector and the tanh representation layer where configured."""

    def __init__(self, config):
        super().__init__()
        width, representation = config.hidden_size, config.representation_size
        self.pooling = POOLINGS[config.pooling](config)
        pooled_norm = config.final_norm == "pooled"
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps) if pooled_norm else nn.Identity()
        self.representation = nn.Linear(width, representation) if representation is not None else None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens `(B, T, D)` to the representation `(B, R)`, where R is D without a representation layer."""
        pooled = self.layernorm(self.pooling(tokens))
        return pooled if self.representation is None else self.representation(pooled).tanh()
