# SPDX-License-Identifier: Apache-2.0
"""Attention rollout: how much each patch flows into the pooled token (figures 6 and 14; D.8).

The mean over heads of each layer's attention, with the identity added for the residual and rows
renormalised, multiplied across layers (Abnar and Zuidema, 2020).
"""

import torch
from matplotlib.figure import Figure


def attention_rollout(
    attentions: tuple[torch.Tensor, ...], *, config, grid: tuple[int, int]
) -> torch.Tensor:
    """Returns how much each patch flows into what the head sees.

    Args:
        attentions: the maps `(B, A, T, T)` of each layer, as `output_attentions=True` gives them.
        config: the model's configuration: for a class token its row counts, otherwise the mean of
            the patches' rows.
        grid: patches `(rows, columns)`.

    Returns:
        `(B, rows, columns)`, each image's shares scaled to a sum of 1 over its patches.
    """
    identity = torch.eye(attentions[0].shape[-1], device=attentions[0].device)
    flow = identity.expand(len(attentions[0]), -1, -1)  # (B, T, T)
    for maps in attentions:
        mixed = maps.float().mean(1) + identity
        flow = mixed / mixed.sum(-1, keepdim=True) @ flow
    num_prefix = config.num_prefix_tokens
    to_head = flow[:, 0] if config.pooling == "cls" else flow[:, num_prefix:].mean(1)  # (B, T)
    to_head = to_head[:, num_prefix:]
    return (to_head / to_head.sum(-1, keepdim=True)).unflatten(-1, tuple(grid))


def draw_attention_rollout(
    images: torch.Tensor, rollout: torch.Tensor, *, titles: list[str]
) -> Figure:
    """Draws images above the same images with their rollout laid over them.

    Args:
        images: `(B, C, H, W)` in [-1, 1].
        rollout: `(B, rows, columns)`, see `attention_rollout`.
        titles: one for each image.
    """
    count = len(images)
    figure = Figure(figsize=(1.5 * count + 1.2, 3.9), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    maps = torch.nn.functional.interpolate(
        rollout[:, None].cpu(), size=images.shape[2:], mode="bilinear"
    )[:, 0]
    highest = float(maps.max())
    for index in range(count):
        picture = as_picture(images[index])
        axes[0, index].imshow(picture)
        axes[0, index].set_title(titles[index], fontsize=9)
        axes[1, index].imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=1)
        overlay = axes[1, index].imshow(
            maps[index].numpy(), cmap="inferno", alpha=0.65, vmin=0, vmax=highest
        )
        for axis in axes[:, index]:
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("rollout")
    figure.colorbar(overlay, ax=axes[1].tolist(), label="share of attention", shrink=0.9)
    figure.suptitle("Attention rollout")
    return figure


def as_picture(image: torch.Tensor):
    """Returns `(H, W, 3)` in [0, 1] of an image `(C, H, W)` in [-1, 1], for matplotlib."""
    picture = ((image.float().cpu() + 1) / 2).clamp(0, 1)
    return picture.expand(3, -1, -1).permute(1, 2, 0).numpy()
