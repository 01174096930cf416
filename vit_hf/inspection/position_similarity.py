# SPDX-License-Identifier: Apache-2.0
"""Similarity of the position embeddings: rows and columns show that 2-D structure was learned
(figure 7, centre).
"""

import torch
from matplotlib.figure import Figure


@torch.no_grad()
def position_similarity(model) -> torch.Tensor:
    """Returns the cosine similarities of the position embeddings of every two patches.

    Args:
        model: any of the package's models with absolute positions.

    Returns:
        `(rows, columns, rows, columns)` in [-1, 1].

    Raises:
        ValueError: for positions that are relative or none, which are no vectors per patch.
    """
    config, positions = model.config, model.base_model.positions
    if config.position_embedding in ("relative", "none"):
        raise ValueError(
            f"got position_embedding={config.position_embedding!r}; allowed: learned_1d, "
            "learned_2d, sincos_2d, which have a vector for each patch"
        )
    rows, columns = config.grid
    nothing = torch.zeros(
        1, config.num_prefix_tokens + rows * columns, config.hidden_size, device=model.device
    )
    table, _ = positions(nothing, config.grid, layer=0)
    table = table[0, config.num_prefix_tokens :]  # (N, D)
    table = torch.nn.functional.normalize(table.float(), dim=-1)
    return (table @ table.T).reshape(rows, columns, rows, columns)


def draw_position_similarity(model) -> Figure:
    """Draws one tile per patch: the similarity of its position embedding with every other's."""
    similarity = position_similarity(model).cpu().numpy()
    rows, columns = similarity.shape[:2]
    figure = Figure(
        figsize=(max(4, 0.7 * columns + 1.6), max(3.6, 0.7 * rows + 1)), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        for column in range(columns):
            axis = axes[row, column]
            image = axis.imshow(similarity[row, column], vmin=-1, vmax=1, cmap="viridis")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == rows - 1:
                axis.set_xlabel(column + 1)
            if column == 0:
                axis.set_ylabel(row + 1)
    figure.supxlabel("patch column")
    figure.supylabel("patch row")
    figure.suptitle("Position embedding similarity")
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    return figure
