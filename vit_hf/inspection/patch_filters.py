# SPDX-License-Identifier: Apache-2.0
"""Principal components of the filters that see pixels: a basis for the fine structure of a patch
(section 4.5; figure 7 left).

They are the patch projection's; a hybrid's projection sees the stem's feature map, not pixels, so
for hybrids they are those of the stem's root convolution.

Shapes: `D` filters, `C` channels, `P x Q` pixels of a filter, `K` components.
"""

import torch
from matplotlib.figure import Figure

from .overlays import FIGURE_WIDTH, FONT_SIZE, as_picture

NUM_COMPONENTS = 28  # figure 7
NUM_COLUMNS = 7
GAP = 0.12  # between tiles, as a share of their width


@torch.no_grad()
def filter_components(
    model, *, num_components: int = NUM_COMPONENTS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the principal components of a model's filters.

    Args:
        model: any of the package's models.
        num_components: how many at most; filters of few pixels have fewer.

    Returns:
        The components `(K, C, P, Q)`, of norm 1, their largest entry positive, and the shares of
        the filters' variance `(K,)` that they explain, the largest first.
    """
    filters = pixel_filters(model).double()  # (D, C, P, Q)
    flat = filters.flatten(1)
    _, scales, components = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    count = min(num_components, len(components))
    components = components[:count]
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = components * largest.sign()
    shares = scales.square() / scales.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
    return components.unflatten(1, filters.shape[1:]).float(), shares[:count].float()


def pixel_filters(model) -> torch.Tensor:
    """Returns the filters `(D, C, P, Q)` that see pixels: the patches', or the hybrid's root."""
    embeddings = model.base_model.embeddings.patch_embeddings
    if embeddings.stem is None:
        return embeddings.projection.weight
    return embeddings.stem.conv.standardized_weight()


def draw_filter_components(model, *, num_components: int = NUM_COMPONENTS) -> Figure:
    """Draws the components, each scaled on its own around a middle grey.

    Raises:
        ValueError: for channels that are no colours.
    """
    components, shares = filter_components(model, num_components=num_components)
    count = len(components)
    num_rows = -(-count // NUM_COLUMNS)
    height, width = components.shape[2:]
    down, right = height / width + GAP, 1 + GAP  # from tile to tile, in widths of one
    figure = Figure(
        figsize=(FIGURE_WIDTH, (FIGURE_WIDTH - 0.6) / NUM_COLUMNS * num_rows * down / right + 0.75),
        layout="constrained",
    )
    axis = figure.subplots()
    for index, component in enumerate(components):
        row, column = divmod(index, NUM_COLUMNS)
        axis.imshow(
            as_picture(component / component.abs().max()),
            interpolation="nearest",
            extent=(column * right, column * right + 1, (row + 1) * down - GAP, row * down),
        )
    axis.set_xlim(0, NUM_COLUMNS * right - GAP)
    axis.set_ylim(num_rows * down - GAP, 0)
    axis.set_xticks([])
    rows = range(num_rows)
    axis.set_yticks(
        [(row + 0.5) * down - GAP / 2 for row in rows], [str(1 + row * NUM_COLUMNS) for row in rows]
    )
    axis.tick_params(length=0, labelsize=FONT_SIZE)
    axis.spines[:].set_visible(False)
    axis.set_ylabel("component", fontsize=FONT_SIZE)
    stem = model.base_model.embeddings.patch_embeddings.stem
    what = "patch projection" if stem is None else "root convolution of the hybrid's stem"
    figure.suptitle(f"Principal components of the {what}", fontsize=FONT_SIZE + 1)
    axis.set_xlabel(
        f"filters of {height} x {width} pixels; {count} components explain "
        f"{float(shares.sum()):.0%} of the variance",
        fontsize=FONT_SIZE,
    )
    return figure
