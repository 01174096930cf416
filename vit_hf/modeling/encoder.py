# SPDX-License-Identifier: Apache-2.0
"""The pre-norm Transformer encoder layer (section 3.1).

Attention and MLP, each behind a LayerNorm, each residual.

Shapes: `B` batch, `T` tokens, `D` width, `A` heads, `E = D / A` width of a head, `N` patches,
`M` width of the MLP.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .dense import Dense
from .fused_products import as_multiplied, can_multiply_at_once, multiply_at_once
from .positions import relative_bias

# The attention backends that take a position bias, which relative positions need.
BACKENDS_WITH_BIAS = ("eager", "sdpa", "flex_attention")
# Where bfloat16 products run at the speed of the machine, up to so many tokens attend faster on a
# CPU when attention is written out than in PyTorch's fused kernel, but for passes without gradients
# on a processor with AMX; see docs/speed.md.
FAST_BFLOAT16 = torch.backends.cpu.get_cpu_capability() == "AVX512"
FAST_FUSED_FORWARD = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
NUM_FEW_TOKENS = 256


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float = 1.0,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention written out, in the signature of transformers' attention functions.

    Args:
        query, key, value: `(B, A, T, E)`.
        attention_mask: added to the logits; unused by the encoder.
        scaling: factor of the logits.
        dropout: rate of the dropout of the attention weights.
        position_bias: `(B, A, T, T)`, added to the logits.

    Returns:
        The output `(B, T, A, E)` and the attention weights `(B, A, T, T)`.
    """
    # A key that lies row by row is multiplied without a transposing copy.
    logits = (query * scaling) @ key.contiguous().transpose(2, 3)  # (B, A, T, T)
    for bias in (position_bias, attention_mask):
        if bias is not None:
            logits = logits + bias
    weights = logits.softmax(dim=-1).to(query.dtype)  # summed in float32, whatever the type
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def is_faster_written_out(key: torch.Tensor) -> bool:
    """Whether attention to keys `(B, A, T, E)` is faster as two products and a softmax."""
    is_fast_on_cpu = FAST_BFLOAT16 and key.device.type == "cpu" and key.dtype == torch.bfloat16
    is_inference = not (torch.is_grad_enabled() and key.requires_grad)
    is_fused_faster = key.shape[2] > NUM_FEW_TOKENS or (is_inference and FAST_FUSED_FORWARD)
    return is_fast_on_cpu and not is_fused_faster


class VisionTransformerAttention(nn.Module):
    """Multi-head self-attention, with any of transformers' attention backends (appendix A)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, bias, eps = config.hidden_size, config.qkv_bias, config.layer_norm_eps
        self.head_dim = width // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.q_proj = Dense(width, width, bias=bias)
        self.k_proj = Dense(width, width, bias=bias)
        self.v_proj = Dense(width, width, bias=bias)
        self.o_proj = Dense(width, width)
        self.q_norm = nn.LayerNorm(self.head_dim, eps=eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(self.head_dim, eps=eps) if config.qk_norm else nn.Identity()

    def forward(
        self,
        hidden_states: torch.Tensor,
        relative_keys: torch.Tensor | None = None,
        num_outputs: int | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns mixed tokens `(B, T, D)`, all or the first so many, and, where asked for,
        attention maps `(B, A, T, T)`.
        """
        hidden_states = as_multiplied(hidden_states)
        layers = (self.q_proj, self.k_proj, self.v_proj)
        if num_outputs is None and can_multiply_at_once(layers, Dense, hidden_states):
            query, key, value = multiply_at_once(hidden_states, layers)
        else:
            query = self.q_proj(hidden_states[:, :num_outputs])
            key, value = self.k_proj(hidden_states), self.v_proj(hidden_states)
        mixed, maps = self.mix(query, key, value, relative_keys, **kwargs)
        return self.o_proj(mixed), maps

    def mix(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        relative_keys: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Maps projected queries, keys and values `(B, T, D)`, of which there may be fewer queries,
        to as many mixed tokens as queries, with the maps as `forward` returns them.
        """
        heads = (-1, self.head_dim)
        query = self.q_norm(query.unflatten(-1, heads)).transpose(1, 2)  # (B, A, T, E)
        key = self.k_norm(key.unflatten(-1, heads)).transpose(1, 2)
        value = value.unflatten(-1, heads).transpose(1, 2)
        bias = None if relative_keys is None else relative_bias(query * self.scaling, relative_keys)
        attention = self.attention_function(
            key, has_bias=bias is not None, wants_maps=kwargs.get("output_attentions")
        )
        mixed, maps = attention(
            self,
            query,
            key,
            value,
            None,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            position_bias=bias,
            **kwargs,
        )
        return mixed.flatten(2), maps

    def attention_function(self, key: torch.Tensor, *, has_bias: bool, wants_maps: bool | None):
        """Returns the configured backend, or the eager one: it alone computes maps, and for
        `"sdpa"` it is chosen where it is the faster form of the same.
        """
        backend = self.config._attn_implementation
        if wants_maps or (backend == "sdpa" and is_faster_written_out(key)):
            return eager_attention
        if has_bias and backend not in BACKENDS_WITH_BIAS:
            raise ValueError(
                f"got attn_implementation={backend!r} with position_embedding='relative', which "
                f"adds a bias to the attention logits; allowed: {', '.join(BACKENDS_WITH_BIAS)}"
            )
        return ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_attention)


class MLPDense(Dense):
    """A dense layer of the MLP, the only ones whose fresh biases are not zeros."""

    def init_weights(self):
        """Biases normal 1e-6, as in the authors' code; weights as in every dense layer."""
        init.normal_(self.bias, std=1e-6)


class VisionTransformerMLP(nn.Module):
    """Two dense layers with the activation between them, each followed by dropout (B.1)."""

    def __init__(self, config):
        super().__init__()
        self.fc1 = MLPDense(config.hidden_size, config.intermediate_size)
        self.fc2 = MLPDense(config.intermediate_size, config.hidden_size)
        self.hidden_act, self.activation = config.hidden_act, ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps `(B, T, D)` to `(B, T, D)`."""
        if isinstance(self.fc1, Dense):
            hidden_states = self.fc1.activated(hidden_states, self.hidden_act, self.activation)
        else:  # another library's layer in its place, such as one with an adapter
            hidden_states = self.activation(self.fc1(hidden_states))
        hidden_states = self.dropout(hidden_states)  # (B, T, M)
        return self.dropout(self.fc2(hidden_states))  # (B, T, D)


class LayerScale(nn.Module):
    """A learned scale per channel on a residual branch (Touvron et al., 2021, CaiT)."""

    def __init__(self, config):
        super().__init__()
        self.initial_value = config.layer_scale_init_value
        self.scale = nn.Parameter(torch.full((config.hidden_size,), float(self.initial_value)))

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """Maps `(B, T, D)` to `(B, T, D)`."""
        return branch * self.scale

    def init_weights(self):
        """The same small value for every channel."""
        init.constant_(self.scale, self.initial_value)


class DropPath(nn.Module):
    """Leaves a residual branch out for a random share of the images (stochastic depth)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """Maps `(B, T, D)` to `(B, T, D)`."""
        if not self.training or self.rate == 0:
            return branch
        # Compared, as `bernoulli_` would have torch.compile compile each rate of a ramp anew.
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.rate
        return branch * (keep / (1 - self.rate)).to(branch.dtype)

    def extra_repr(self) -> str:
        """The rate, for `print(model)`."""
        return f"rate={self.rate:.3f}"


class VisionTransformerLayer(GradientCheckpointingLayer):
    """One encoder layer: `x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, config, *, drop_path_rate: float = 0.0):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = VisionTransformerAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionTransformerMLP(config)
        has_scale = config.layer_scale_init_value is not None
        self.attention_scale = LayerScale(config) if has_scale else nn.Identity()
        self.mlp_scale = LayerScale(config) if has_scale else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DropPath(drop_path_rate)

    def forward(
        self,
        hidden_states: torch.Tensor,
        relative_keys: torch.Tensor | None = None,
        num_outputs: int | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Maps tokens `(B, T, D)` to tokens `(B, T, D)`, all or the first so many: these attend to
        all.
        """
        normed = self.layernorm_before(hidden_states)
        branch, _ = self.attention(normed, relative_keys, num_outputs=num_outputs, **kwargs)
        hidden_states = hidden_states[:, :num_outputs]
        hidden_states = hidden_states + self.drop_path(self.attention_scale(self.dropout(branch)))
        branch = self.mlp(self.layernorm_after(hidden_states))
        return hidden_states + self.drop_path(self.mlp_scale(branch))
