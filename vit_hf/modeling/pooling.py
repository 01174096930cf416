# SPDX-License-Identifier: Apache-2.0
"""Tokens to one vector: class token, mean of patches or attention; then the representation layer.

Section 3.1 for the class token and the representation layer, D.3 for the mean; attention pooling
is the authors' research code's.

Shapes: `B` batch, `N` patches, `T` tokens, `D` width, `A` heads, `E = D / A`,
`R` width of the representation.
"""

import torch
from torch import nn
from transformers import initialization as init

from .encoder import VisionTransformerMLP


class ClassTokenPooling(nn.Module):
    """The class token, `(B, T, D)` to `(B, D)`."""

    num_tokens_read = 1  # the first

    def __init__(self, config):
        super().__init__()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens `(B, T, D)` to `(B, D)`."""
        return tokens[:, 0]


class MeanPooling(nn.Module):
    """The mean of the patch tokens, `(B, T, D)` to `(B, D)`, without class and register tokens."""

    def __init__(self, config):
        super().__init__()
        self.num_prefix_tokens = config.num_prefix_tokens

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens `(B, T, D)` to `(B, D)`."""
        return tokens[:, self.num_prefix_tokens :].mean(dim=1)


class AttentionPooling(nn.Module):
    """Multi-head attention pooling, `(B, T, D)` to `(B, D)`.

    One learned probe attends to the patch tokens. It is not added back; an MLP behind a LayerNorm
    is.
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
        """Maps tokens `(B, T, D)` to `(B, D)`."""
        patches = tokens[:, self.num_prefix_tokens :]  # (B, N, D)
        probe = self.probe.expand(patches.shape[0], -1, -1)
        query, key, value = self.q_proj(probe), self.k_proj(patches), self.v_proj(patches)
        query, key, value = self._heads(query), self._heads(key), self._heads(value)  # (B, A, N, E)
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
        """Returns the tokens `(B, T, D)`."""
        return tokens


POOLINGS = {
    "cls": ClassTokenPooling,
    "gap": MeanPooling,
    "map": AttentionPooling,
    "none": NoPooling,
}


class VisionTransformerPooler(nn.Module):
    """Pooling, then where configured the norm of the pooled vector and the tanh layer."""

    def __init__(self, config):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        representation = config.representation_size
        self.pooling = POOLINGS[config.pooling](config)
        pooled_norm = config.final_norm == "pooled"
        self.layernorm = nn.LayerNorm(width, eps=eps) if pooled_norm else nn.Identity()
        self.representation = None if representation is None else nn.Linear(width, representation)

    @property
    def num_tokens_read(self) -> int | None:
        """How many of the first tokens pooling reads; `None` is all of them."""
        return getattr(self.pooling, "num_tokens_read", None)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens `(B, T, D)` to the representation `(B, R)`; R is D without the tanh layer."""
        pooled = self.layernorm(self.pooling(tokens))
        return pooled if self.representation is None else self.representation(pooled).tanh()
