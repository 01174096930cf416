# SPDX-License-Identifier: Apache-2.0
"""What masked patch prediction predicts: colours or pixels of the corrupted patches (B.1.2).

A target is a pure function of `pixel_values` in [-1, 1]. A 3-bit colour is one of `8 ** C` codes:
each channel in eight levels, the first channel the most significant.

Shapes: `B` batch, `C` channels, `H` and `W` height and width of the image, `N` patches,
`K = 8 ** C` colours, `P x Q` pixels of a patch.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils.generic import ModelOutput

from .patches import cut_patches

NUM_LEVELS = 8  # 3 bits a channel
DOWNSAMPLED_SIDE = 4  # the second target's patches are 4x4


@dataclass
class MaskedPatchPredictionOutput(ModelOutput):
    """The output of `VisionTransformerForMaskedPatchPrediction`.

    Args:
        loss: `()`, given where `bool_masked_pos` was: the mean over images of the mean over
            corrupted patches.
        logits: the predictions for every patch: `(B, N, K)` colour logits for `"mean_color"`,
            `(B, N, 16, K)` for `"downsampled_color"`, `(B, N, C, P, Q)` pixels in [-1, 1] for
            `"raw_pixels"`.
        grid: `(B, 2)`, the patches (rows, columns) of each image.
        hidden_states: `(B, T, D)` before the first and after each layer, where asked for.
        attentions: `(B, A, T, T)` of each layer, where asked for.
    """

    loss: torch.Tensor | None = None
    # Always given; transformers wants a default.
    logits: torch.Tensor = None  # pyright: ignore[reportAssignmentType]
    grid: torch.Tensor = None  # pyright: ignore[reportAssignmentType]
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None

    def to_picture(self, image_hw: tuple[int, int] | None = None) -> torch.Tensor:
        """Turns the predictions back into pictures.

        Args:
            image_hw: height and width in pixels of the pictures wanted. `None` is the predictions'
                own resolution: one pixel a patch for mean colours, 4x4 for downsized patches, every
                pixel for raw pixels.

        Returns:
            `(B, C, H, W)` in [-1, 1], what the image processor made of the images.
        """
        raster = self._raster()  # (B, N, C, P, Q)
        rows, columns = self.grid[0].tolist()
        batch, _, channels, height, width = raster.shape
        picture = raster.reshape(batch, rows, columns, channels, height, width)
        picture = picture.permute(0, 3, 1, 4, 2, 5)  # (B, C, rows, P, columns, Q)
        picture = picture.reshape(batch, channels, rows * height, columns * width)
        return (
            picture
            if image_hw is None
            else nn.functional.interpolate(picture, size=tuple(image_hw))
        )

    def _raster(self) -> torch.Tensor:
        raise TypeError("the outputs of a model are of a class that knows its target")


class ColorPredictionOutput(MaskedPatchPredictionOutput):
    """Predictions that are colour codes; see `MaskedPatchPredictionOutput`."""

    def _raster(self) -> torch.Tensor:
        side = 1 if self.logits.dim() == 3 else DOWNSAMPLED_SIDE
        color = decode_colors(self.logits.argmax(-1), self.logits.shape[-1])  # (B, N, [16,] C)
        return color.reshape(*color.shape[:2], side, side, -1).permute(0, 1, 4, 2, 3)


class PixelPredictionOutput(MaskedPatchPredictionOutput):
    """Predictions that are pixels; see `MaskedPatchPredictionOutput`."""

    def _raster(self) -> torch.Tensor:
        return self.logits


def encode_colors(pixels: torch.Tensor) -> torch.Tensor:
    """Returns the 3-bit colour codes `(...)` of colours `(..., C)` in [-1, 1]."""
    levels = ((pixels + 1) * (NUM_LEVELS / 2)).floor().clamp(0, NUM_LEVELS - 1).long()
    place = NUM_LEVELS ** torch.arange(pixels.shape[-1] - 1, -1, -1, device=pixels.device)
    return (levels * place).sum(-1)


def decode_colors(codes: torch.Tensor, num_colors: int) -> torch.Tensor:
    """Returns the colours `(..., C)` in [-1, 1], middles of their eighths, of codes `(...)`."""
    place, places = num_colors // NUM_LEVELS, []
    while place:
        places.append(codes // place % NUM_LEVELS)
        place //= NUM_LEVELS
    return (torch.stack(places, dim=-1) + 0.5) * (2 / NUM_LEVELS) - 1


class MeanColor:
    """The mean colour of the patch in 3 bits a channel: one classification (target 1)."""

    side = 1
    output_class = ColorPredictionOutput

    def __init__(self, config):
        self.patch_hw = config.pixels_per_patch
        self.num_colors = NUM_LEVELS**config.num_channels
        self.shape = (self.num_colors,)

    def labels(self, pixel_values: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Returns the codes `(B, N, side * side)` of `pixel_values` `(B, C, H, W)` in [-1, 1]."""
        patches = split_patches(pixel_values, grid, self.patch_hw)  # (B, N, C, P, Q)
        cells = nn.functional.adaptive_avg_pool2d(patches.flatten(0, 1), self.side)
        colors = cells.flatten(2).transpose(1, 2)  # (B N, side * side, C)
        return encode_colors(colors).unflatten(0, patches.shape[:2])

    def losses(
        self, logits: torch.Tensor, pixel_values: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Returns the cross-entropy `(B, N)` of each patch."""
        labels = self.labels(pixel_values, grid)
        losses = nn.functional.cross_entropy(
            logits.float().reshape(-1, self.num_colors), labels.flatten(), reduction="none"
        )
        return losses.view_as(labels).mean(-1)


class DownsampledColor(MeanColor):
    """The patch downsized to 4x4 in 3-bit colours: 16 classifications (target 2)."""

    side = DOWNSAMPLED_SIDE

    def __init__(self, config):
        super().__init__(config)
        self.shape = (self.side**2, self.num_colors)
        if min(self.patch_hw) < self.side:
            raise ValueError(
                f"got prediction_target='downsampled_color' with patches of {self.patch_hw[0]}x"
                f"{self.patch_hw[1]} pixels, which needs at least {self.side}x{self.side}; "
                "allowed: 'mean_color', 'raw_pixels'"
            )


class RawPixels:
    """Every pixel of the patch, by squared error (target 3)."""

    output_class = PixelPredictionOutput

    def __init__(self, config):
        self.patch_hw = config.pixels_per_patch
        self.shape = (config.num_channels, *self.patch_hw)

    def losses(
        self, logits: torch.Tensor, pixel_values: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Returns the mean squared error `(B, N)` of each patch."""
        patches = split_patches(pixel_values, grid, self.patch_hw)  # (B, N, C, P, Q)
        return (logits.float() - patches).square().mean((-3, -2, -1))


TARGETS = {"mean_color": MeanColor, "downsampled_color": DownsampledColor, "raw_pixels": RawPixels}


def split_patches(
    pixel_values: torch.Tensor, grid: tuple[int, int], patch_hw: tuple[int, int]
) -> torch.Tensor:
    """Cuts `(B, C, H, W)` into the patches `(B, N, C, P, Q)` of `grid`, without a remainder.

    Raises:
        ValueError: where the patches reach over the edge, as a hybrid's can.
    """
    (rows, columns), (height, width) = grid, patch_hw
    if rows * height > pixel_values.shape[2] or columns * width > pixel_values.shape[3]:
        raise ValueError(
            f"got an image of {pixel_values.shape[2]}x{pixel_values.shape[3]} pixels, which "
            f"{rows}x{columns} patches of {height}x{width} overlap; give masked patch prediction "
            f"an image of {rows * height}x{columns * width}"
        )
    return cut_patches(pixel_values.float(), grid, patch_hw)  # (B, N, C, P, Q)


def check_pixel_range(pixel_values: torch.Tensor):
    """Raises a `ValueError` unless `pixel_values` lie in [-1, 1], where the colours are defined."""
    lowest, highest = (bound.item() for bound in pixel_values.aminmax())
    if lowest < -1.01 or highest > 1.01:
        raise ValueError(
            f"got pixel_values in [{lowest:.2f}, {highest:.2f}]; masked patch prediction needs "
            "them in [-1, 1], as its targets are colours: give the image processor "
            "image_mean=0.5 and image_std=0.5"
        )
