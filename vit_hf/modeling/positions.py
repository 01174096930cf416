# SPDX-License-Identifier: Apache-2.0
"""Position embeddings: learned 1-D and 2-D, relative, fixed sine-cosine, none (table 8, D.4).

Learned tables belong to the native grid and are interpolated in 2-D, by their place in the image,
for any other grid (section 3.2). Grids are `(rows, columns)`; a square root of a count appears
nowhere.

Shapes: `B` batch, `N` patches, `P` prefix tokens, `T = P + N` tokens, `D` width, `A` heads,
`E = D / A`.
"""

import torch
from torch import nn
from transformers import initialization as init

# How a table is resized: the authors' (scipy zoom of order 1), transformers', timm's.
INTERPOLATIONS = {
    "bilinear_corners": {"mode": "bilinear", "align_corners": True},
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "bicubic_antialias": {"mode": "bicubic", "align_corners": False, "antialias": True},
}


def resize_table(
    table: torch.Tensor, old: tuple[int, int], new: tuple[int, int], *, interpolation: str
) -> torch.Tensor:
    """Resizes a table with one row per grid cell.

    Args:
        table: `(old rows * old columns, D)`, row by row.
        old: its grid `(rows, columns)`.
        new: the grid wanted.
        interpolation: a key of `INTERPOLATIONS`.

    Returns:
        `(new rows * new columns, D)` in the dtype of `table`; `table` itself for equal grids.
    """
    if tuple(old) == tuple(new):
        return table
    image = table.float().reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    image = nn.functional.interpolate(image, size=tuple(new), **INTERPOLATIONS[interpolation])
    return image.flatten(2).squeeze(0).transpose(0, 1).to(table.dtype)  # (N, D)


class NoPosition(nn.Module):
    """No position embedding: the encoder sees a bag of patches. Also the base of the others."""

    def __init__(self, config):
        super().__init__()
        self.grid = config.grid
        self.num_prefix_tokens = config.num_prefix_tokens
        self.interpolation = config.interpolation
        self.initializer_range = config.initializer_range

    def forward(
        self, tokens: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns `tokens` `(B, T, D)` with the positions of `grid`, and their relative keys.

        The keys `(2N - 1, E)` are those of the offsets `1 - N ... N - 1`, and `None` for absolute
        positions.
        """
        return tokens, None

    def resize(self, grid: tuple[int, int]):
        """Makes `grid` the native one, in place."""
        self.grid = grid

    def init_weights(self):
        """Initialises the tables: normal 0.02, as the authors do."""
        for table in self.parameters(recurse=False):
            init.normal_(table, std=self.initializer_range)

    def _replace(self, name: str, table: torch.Tensor):
        old = getattr(self, name)
        setattr(self, name, nn.Parameter(table.detach().clone(), requires_grad=old.requires_grad))


class Learned1D(NoPosition):
    """One learned vector per token, in raster order: the paper's own (section 3.1)."""

    def __init__(self, config):
        super().__init__(config)
        self.covers_prefix = bool(config.prefix_position_embedding)
        num_prefix = self.num_prefix_tokens if self.covers_prefix else 0
        self.table = nn.Parameter(
            torch.zeros(1, num_prefix + config.num_patches, config.hidden_size)
        )

    def forward(
        self, tokens: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `NoPosition`."""
        table = self.table_for(grid)
        if not self.covers_prefix:
            table = nn.functional.pad(table, (0, 0, self.num_prefix_tokens, 0))  # (1, T, D)
        return tokens + table, None

    def table_for(self, grid: tuple[int, int]) -> torch.Tensor:
        """Returns the table `(1, [P +] N, D)` for `grid`, as stored for the native one."""
        if grid == self.grid:
            return self.table
        num_prefix = self.num_prefix_tokens if self.covers_prefix else 0
        prefix, patches = self.table[0, :num_prefix], self.table[0, num_prefix:]
        patches = resize_table(patches, self.grid, grid, interpolation=self.interpolation)
        return torch.cat([prefix, patches]).unsqueeze(0)

    def resize(self, grid: tuple[int, int]):
        """Makes `grid` the native one, in place."""
        self._replace("table", self.table_for(grid))
        super().resize(grid)


class Learned2D(NoPosition):
    """A learned vector of width D/2 per column and one per row, concatenated as (x, y) (D.4)."""

    def __init__(self, config):
        super().__init__(config)
        rows, columns = self.grid
        self.column_table = nn.Parameter(torch.zeros(columns, config.hidden_size // 2))
        self.row_table = nn.Parameter(torch.zeros(rows, config.hidden_size // 2))

    def forward(
        self, tokens: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `NoPosition`."""
        column_table, row_table = self.tables_for(grid)
        x = column_table[None].expand(grid[0], -1, -1)  # (rows, columns, D / 2)
        y = row_table[:, None].expand(-1, grid[1], -1)
        table = torch.cat([x, y], dim=-1).flatten(0, 1)  # (N, D)
        return tokens + nn.functional.pad(table, (0, 0, self.num_prefix_tokens, 0)), None

    def tables_for(self, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the column table `(columns, D / 2)` and the row table `(rows, D / 2)`."""
        old, how = self.grid, self.interpolation
        columns = resize_table(self.column_table, (1, old[1]), (1, grid[1]), interpolation=how)
        rows = resize_table(self.row_table, (old[0], 1), (grid[0], 1), interpolation=how)
        return columns, rows

    def resize(self, grid: tuple[int, int]):
        """Makes `grid` the native one, in place."""
        column_table, row_table = self.tables_for(grid)
        self._replace("column_table", column_table)
        self._replace("row_table", row_table)
        super().resize(grid)


class Relative1D(NoPosition):
    """A learned key per 1-D offset between two patches in raster order (D.4).

    The query meets this key as it meets the other patch's, and the product is added to the
    attention logits. The heads share the keys. Pairs with a class or register token have no offset
    and get no bias.
    """

    def __init__(self, config):
        super().__init__(config)
        head_dim = config.hidden_size // config.num_attention_heads
        self.keys = nn.Parameter(torch.zeros(2 * config.num_patches - 1, head_dim))

    def forward(
        self, tokens: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `NoPosition`."""
        return tokens, self.keys_for(grid)

    def keys_for(self, grid: tuple[int, int]) -> torch.Tensor:
        """Returns the keys `(2N - 1, E)` for `grid`, as stored for the native one."""
        if grid == self.grid:
            return self.keys
        # Lay the keys out by displacement (rows, columns), resize that image, and read every offset
        # of the new grid at the displacement that most pairs of patches with this offset have.
        old, new = ((2 * rows - 1, 2 * columns - 1) for rows, columns in (self.grid, grid))
        by_displacement = self.keys[self._displacement_offsets()].unflatten(0, old)
        # Between the patches of one row there is no displacement but 0, the middle one.
        if new[0] == 1:
            by_displacement = by_displacement[old[0] // 2, None]
        if new[1] == 1:
            by_displacement = by_displacement[:, old[1] // 2, None]
        old = by_displacement.shape[0], by_displacement.shape[1]
        by_displacement = by_displacement.flatten(0, 1)
        by_displacement = resize_table(by_displacement, old, new, interpolation=self.interpolation)
        return by_displacement[self._commonest_displacements(grid)]

    def _displacement_offsets(self) -> torch.Tensor:
        rows, columns = self.grid
        down = torch.arange(1 - rows, rows, device=self.keys.device)
        right = torch.arange(1 - columns, columns, device=self.keys.device)
        return (down[:, None] * columns + right + rows * columns - 1).flatten()

    def _commonest_displacements(self, grid: tuple[int, int]) -> torch.Tensor:
        rows, columns = grid
        offset = torch.arange(1 - rows * columns, rows * columns, device=self.keys.device)
        # |right| <= columns / 2 maximises (rows - |down|) * (columns - |right|), but for the first
        # and last row.
        down = (offset.abs() + columns // 2).div(columns, rounding_mode="floor")
        down = down.clamp(max=rows - 1) * offset.sign()
        right = offset - down * columns
        return (down + rows - 1) * (2 * columns - 1) + right + columns - 1

    def resize(self, grid: tuple[int, int]):
        """Makes `grid` the native one, in place."""
        self._replace("keys", self.keys_for(grid))
        super().resize(grid)


class SinCos2D(NoPosition):
    """Fixed sines and cosines of column and row, in the order of the authors' research code.

    A function of the grid at hand, so nothing is stored and there is nothing to interpolate.
    """

    def forward(
        self, tokens: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `NoPosition`."""
        num_frequencies, like = (
            tokens.shape[-1] // 4,
            {"device": tokens.device, "dtype": torch.float32},
        )
        exponent = torch.arange(num_frequencies, **like) / (num_frequencies - 1)
        frequency = 10_000.0**-exponent
        rows, columns = (torch.arange(side, **like) for side in grid)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        x, y = x.flatten()[:, None] * frequency, y.flatten()[:, None] * frequency  # (N, D / 4)
        table = torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=-1).to(tokens.dtype)  # (N, D)
        return tokens + nn.functional.pad(table, (0, 0, self.num_prefix_tokens, 0)), None


POSITIONS = {
    "learned_1d": Learned1D,
    "learned_2d": Learned2D,
    "relative": Relative1D,
    "sincos_2d": SinCos2D,
    "none": NoPosition,
}


def relative_bias(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Attention logits of the queries with the keys of their offsets.

    Args:
        query: `(B, A, T, E)`, scaled; the last N tokens are the patches.
        keys: `(2N - 1, E)`, see `Relative1D`.

    Returns:
        The bias `(B, A, T, T)`, zero where either token is no patch.
    """
    num_patches = (keys.shape[0] + 1) // 2
    num_prefix = query.shape[2] - num_patches
    by_offset = query[:, :, num_prefix:] @ keys.transpose(0, 1)  # (B, A, N, 2N - 1)
    place = torch.arange(num_patches, device=query.device)
    offset = place[:, None] - place + num_patches - 1  # query's place minus key's, from 0
    bias = by_offset.gather(-1, offset.expand(*by_offset.shape[:2], -1, -1))  # (B, A, N, N)
    return nn.functional.pad(bias, (num_prefix, 0, num_prefix, 0))


class Positions(nn.ModuleList):
    """The position embeddings of a model: at the stem, at every layer, or one shared by all."""

    def __init__(self, config):
        self.placement = config.position_embedding_placement
        num_own = config.num_hidden_layers if self.placement == "every_layer" else 1
        super().__init__(POSITIONS[config.position_embedding](config) for _ in range(num_own))

    def at(self, layer: int) -> NoPosition | None:
        """Returns the embedding that enters before encoder layer `layer`, or `None`."""
        return {
            "stem": self[0] if layer == 0 else None,
            "every_layer": self[layer % len(self)],
            "every_layer_shared": self[0],
        }[self.placement]

    def forward(
        self, tokens: torch.Tensor, grid: tuple[int, int], *, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns tokens and relative keys for encoder layer `layer`, see `NoPosition`."""
        position = self.at(layer)
        return (tokens, None) if position is None else position(tokens, grid)

    def resize(self, grid: tuple[int, int]):
        """Makes `grid` the native one of every table, in place."""
        for position in self:
            position.resize(grid)  # pyright: ignore[reportCallIssue]
