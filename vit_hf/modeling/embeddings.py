# SPDX-License-Identifier: Apache-2.0
"""Image to tokens: patches, linearly projected, behind a class token and registers (section 3.1).

Shapes: `B` batch, `C` channels, `H` and `W` height and width of the image, `N` patches,
`T` tokens, `D` width.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import logging

from .fused_products import as_multiplied, can_multiply_patches, multiply_patches
from .hooks import is_traced
from .positions import INTERPOLATIONS
from .resnet_stem import ResNetStem

logger = logging.get_logger(__name__)


class PatchEmbeddings(nn.Module):
    """Patches of the image, or of the hybrid's feature map, flattened and linearly projected."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.stem = ResNetStem(config) if config.stem_blocks is not None else None
        channels = self.stem.num_output_channels if self.stem is not None else config.num_channels
        self.projection = nn.Conv2d(
            channels,
            config.hidden_size,
            config.patch_hw,
            stride=config.patch_hw,
            bias=config.patch_bias,
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns the patch embeddings `(B, N, D)` of `pixel_values` `(B, C, H, W)`, row by row."""
        image = pixel_values.to(self.projection.weight.dtype)
        if self.stem is not None:
            image = self.stem(image)
        image = as_multiplied(image)
        if can_multiply_patches(self.projection, image):
            patches = multiply_patches(image, self.projection)
        else:
            patches = self.projection(image).flatten(2).transpose(1, 2)
        # Under autocast what the layers add up to is kept in full, with any tokens and positions.
        return patches.to(self.projection.weight.dtype)  # (B, N, D)

    def grid_of(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """Returns the patches `(rows, columns)` of `pixel_values` `(B, C, H, W)`.

        Raises:
            TypeError: for anything but a tensor of floats.
            ValueError: for another rank, another number of channels, or an image smaller than one
                patch.
        """
        config = self.config
        if not isinstance(pixel_values, torch.Tensor):
            raise TypeError(
                f"got pixel_values of the type {type(pixel_values).__name__}, allowed: a tensor; "
                "give what an image processor returns with two asterisks, as in "
                'model(**processor(images, return_tensors="pt"))'
            )
        if not pixel_values.is_floating_point():
            raise TypeError(
                f"got pixel_values of {pixel_values.dtype}, allowed: floats that are rescaled and "
                "normalised as in training; give what the image processor returns, or for most "
                "checkpoints pixel_values.float() / 127.5 - 1"
            )
        if pixel_values.dim() != 4 or pixel_values.shape[1] != config.num_channels:
            raise ValueError(
                f"got pixel_values of shape {tuple(pixel_values.shape)}, allowed: (batch, "
                f"{config.num_channels}, height, width), as the model has "
                f"num_channels={config.num_channels}"
            )
        height, width = pixel_values.shape[2:]
        grid, patch = config.grid_of((height, width)), config.pixels_per_patch
        if height < patch[0] or width < patch[1]:
            raise ValueError(
                f"got an image of {height}x{width} pixels, smaller than one patch of "
                f"{patch[0]}x{patch[1]}; resize it to at least that, or to the model's native "
                f"{config.image_hw[0]}x{config.image_hw[1]}"
            )
        unseen = max(0, height - grid[0] * patch[0]), max(0, width - grid[1] * patch[1])
        if any(unseen) and not torch.compiler.is_compiling():
            logger.warning_once(
                f"An image of {height}x{width} pixels has {grid[0]}x{grid[1]} patches of "
                f"{patch[0]}x{patch[1]}: the last {unseen[0]} pixel rows and {unseen[1]} pixel "
                "columns are not seen."
            )
        return grid

    @torch.no_grad()
    def resize_patches(self, patch_hw: tuple[int, int]):
        """Resizes the projection to patches of `patch_hw`, in place, as FlexiViT does.

        The new weights, by the pseudo-inverse of the resize, give a resized patch the embedding
        that the old gave the original (Beyer et al., 2022, section 3.4): exactly so for larger
        patches, at the least squared error for smaller ones.
        """
        old = self.projection
        if tuple(old.kernel_size) == tuple(patch_hw):
            return
        how = self.config.interpolation
        inverse = torch.linalg.pinv(resize_matrix(old.kernel_size, patch_hw, interpolation=how))
        weight = old.weight.double().flatten(2) @ inverse.to(old.weight.device)  # (D, C, new)
        new = nn.Conv2d(
            old.in_channels, old.out_channels, patch_hw, stride=patch_hw, bias=False, device="meta"
        )
        new.weight = nn.Parameter(
            weight.unflatten(2, patch_hw).to(old.weight.dtype), old.weight.requires_grad
        )
        new.bias = old.bias
        self.projection = new


def resize_matrix(
    old: tuple[int, ...], new: tuple[int, ...], *, interpolation: str
) -> torch.Tensor:
    """Returns the matrix `(new pixels, old pixels)` in float64 that resizes a flattened patch.

    With the kernel of `interpolation`, but never aligned at the corners: FlexiViT resizes patches
    as images.
    """
    how = dict(INTERPOLATIONS[interpolation])
    if how["align_corners"]:
        how |= {"align_corners": False, "antialias": True}
    basis = torch.eye(old[0] * old[1], dtype=torch.float64).reshape(-1, 1, *old)
    return nn.functional.interpolate(basis, size=tuple(new), **how).flatten(1).transpose(0, 1)


def corrupt_patches(
    patches: torch.Tensor,
    mask_token: torch.Tensor,
    bool_masked_pos: torch.Tensor,
    patch_replacement: torch.Tensor | None = None,
) -> torch.Tensor:
    """Replaces the patch embeddings at the corrupted places (B.1.2).

    Args:
        patches: `(B, N, D)`.
        mask_token: `(1, 1, D)`.
        bool_masked_pos: `(B, N)`, nonzero at corrupted patches.
        patch_replacement: `(B, N)` ints, what stands at a corrupted patch: -1 the mask token,
            otherwise the place of the patch whose embedding it is, its own place leaving it as it
            is. `None` is -1 everywhere.

    Returns:
        `(B, N, D)`.
    """
    corrupted = bool_masked_pos.bool().unsqueeze(-1)  # (B, N, 1)
    replacement = mask_token.to(patches.dtype).expand_as(patches)
    if patch_replacement is not None:
        place = patch_replacement.unsqueeze(-1)
        other = patches.gather(1, place.clamp(min=0).expand_as(patches))
        replacement = torch.where(place < 0, replacement, other)
    return torch.where(corrupted, replacement, patches)


class VisionTransformerEmbeddings(nn.Module):
    """Patch embeddings behind the class token and the registers, without positions."""

    def __init__(self, config, *, use_mask_token: bool = False):
        super().__init__()
        width = config.hidden_size
        self.patch_embeddings = PatchEmbeddings(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if config.class_token else None
        registers = config.num_register_tokens
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if use_mask_token else None
        self.initializer_range = config.initializer_range

    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        patch_replacement: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the tokens `(B, T, D)`: class token, registers, patches.

        See `corrupt_patches` for the masks.
        """
        patches = self.patch_embeddings(pixel_values)  # (B, N, D)
        self._check_masks(patches, bool_masked_pos, patch_replacement)
        if bool_masked_pos is not None and self.mask_token is not None:
            patches = corrupt_patches(patches, self.mask_token, bool_masked_pos, patch_replacement)
        prefix = [
            token.expand(patches.shape[0], -1, -1)
            for token in (self.cls_token, self.register_tokens)
            if token is not None
        ]
        return torch.cat([*prefix, patches], dim=1)  # (B, T, D)

    def _check_masks(self, patches, bool_masked_pos, patch_replacement):
        if bool_masked_pos is not None and self.mask_token is None:
            raise ValueError(
                "got bool_masked_pos, but this model has no mask token; allowed: "
                "VisionTransformerForMaskedPatchPrediction, or a model with use_mask_token=True"
            )
        if bool_masked_pos is None and patch_replacement is not None:
            raise ValueError("got patch_replacement without bool_masked_pos, which says where")
        masks = {"bool_masked_pos": bool_masked_pos, "patch_replacement": patch_replacement}
        for name, mask in masks.items():
            if mask is not None and mask.shape != patches.shape[:2]:
                raise ValueError(
                    f"got {name} of shape {tuple(mask.shape)}, allowed: "
                    f"{tuple(patches.shape[:2])}, images by patches"
                )
        # A GPU checks places itself, and would have to be waited for.
        if patch_replacement is None or patch_replacement.device.type != "cpu" or is_traced():
            return
        count = patches.shape[1]
        wrong = patch_replacement[(patch_replacement < -1) | (patch_replacement >= count)]
        if len(wrong):
            raise ValueError(
                f"got the patch_replacement {wrong[0].item()}, allowed: -1, the mask token, or the "
                f"place of a patch, 0 ... {count - 1}"
            )

    def init_weights(self):
        """The authors' class token is zeros; registers and mask token, not theirs, are normal."""
        if self.cls_token is not None:
            init.zeros_(self.cls_token)
        for token in (self.register_tokens, self.mask_token):
            if token is not None:
                init.normal_(token, std=self.initializer_range)
