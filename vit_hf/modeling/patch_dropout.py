# SPDX-License-Identifier: Apache-2.0
"""Patch dropout: in training, a share of each image's patch tokens is left out at random.

PatchDropout (Liu et al., 2022, arXiv 2208.07220); FLIP (Li et al., 2022, arXiv 2212.00794) trains
so. What is left out costs nothing, so a step's time falls by about the share.

Shapes: `B` batch, `N` patches, `P` prefix tokens, `T = P + N` tokens, `D` width, `S` patches kept.
"""

import torch
from torch import nn


class PatchDropout(nn.Module):
    """Leaves patch tokens out behind the position embedding; prefix tokens are always kept."""

    def __init__(self, config):
        super().__init__()
        self.rate, self.num_prefix_tokens = config.patch_dropout_rate, config.num_prefix_tokens

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps `(B, P + N, D)` to `(B, P + S, D)` in training, another choice for each image.

        `S` is `N * (1 - rate)`, rounded to the nearest whole number (a half to the even one), and 1
        at least. The choice is drawn from PyTorch's generator of the tokens' device. Kept patches
        are in any order, as the encoder has none.
        """
        if not self.training or self.rate == 0:
            return tokens
        prefix, patches = tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]
        num_kept = max(1, round(patches.shape[1] * (1 - self.rate)))
        lots = torch.rand(patches.shape[:2], device=tokens.device)  # (B, N)
        kept = lots.topk(num_kept, sorted=False).indices  # (B, S)
        kept = kept[:, :, None].expand(-1, -1, patches.shape[2])
        return torch.cat([prefix, patches.gather(1, kept)], dim=1)

    def extra_repr(self) -> str:
        """The rate, for `print(model)`."""
        return f"rate={self.rate}"
