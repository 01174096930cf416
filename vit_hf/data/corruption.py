# SPDX-License-Identifier: Apache-2.0
"""Which patches are corrupted for masked patch prediction, and how (appendix B.1.2).

Half of the patch embeddings are corrupted; of those 80 % become the mask token, 10 % another
patch's embedding and 10 % stay. The decision is made here, so that the model's forward is a
function of its inputs.

Shapes: `B` batch, `N` patches.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .collation import stack_pixels
from .draws import derive_seed
from .mixing import BatchAugmentation

MASK_TOKEN = -1  # the model's code for "the mask token stands here"


def draw_corruption(
    num_patches: int,
    *,
    ratio: float,
    mix: tuple[float, float, float],
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws the corruption of one image, with exact shares.

    Args:
        num_patches: `N`.
        ratio: share of the patches that are corrupted; at least one patch is.
        mix: shares of the corrupted ones that become the mask token, another patch's embedding, and
            stay.
        generator: source of randomness; torch's own where `None`.

    Returns:
        `bool_masked_pos` `(N,)`, true at corrupted patches, and `patch_replacement` `(N,)`: -1
        where the mask token stands, elsewhere the place of the patch whose embedding stands there.
    """
    num_corrupted = max(1, round(ratio * num_patches))
    num_masked, num_swapped = round(mix[0] * num_corrupted), round(mix[1] * num_corrupted)
    order = torch.randperm(num_patches, generator=generator)
    masked, swapped = (
        order[:num_masked],
        order[num_masked : min(num_masked + num_swapped, num_corrupted)],
    )
    bool_masked_pos = torch.zeros(num_patches, dtype=torch.bool)
    bool_masked_pos[order[:num_corrupted]] = True
    patch_replacement = torch.arange(num_patches)
    patch_replacement[masked] = MASK_TOKEN
    if num_patches > 1:
        step = torch.randint(1, num_patches, (len(swapped),), generator=generator)
        patch_replacement[swapped] = (swapped + step) % num_patches  # any patch but itself
    return bool_masked_pos, patch_replacement


class MaskedPatchCollator:
    """Samples of `ImageDataset` to a batch for `VisionTransformerForMaskedPatchPrediction`.

    In training each image's corruption is drawn from its sample's seed; in evaluation from its
    pixels, so that it is the same in every epoch, order and process.

    Args:
        config: the model's configuration: its grid, `corruption_ratio` and `corruption_mix`.
        augmentation: what happens to the batch on the device in training; mixing has no meaning
            here.
    """

    def __init__(self, config, *, augmentation: BatchAugmentation | None = None):
        self.config, self.augmentation = config, augmentation

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns what `ImageCollator` does, and for the labels `bool_masked_pos` `(B, N)`,
        `patch_replacement` `(B, N)`.
        """
        corruptions = [self.corruption(sample) for sample in samples]
        bool_masked_pos, patch_replacement = (
            torch.stack(drawn) for drawn in zip(*corruptions, strict=True)
        )
        return {
            **stack_pixels(samples, self.augmentation),
            "bool_masked_pos": bool_masked_pos,
            "patch_replacement": patch_replacement,
        }

    def corruption(self, sample: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws the corruption of one sample, see `draw_corruption`."""
        image = sample["pixel_values"]
        rows, columns = self.config.grid_of(image.shape[1:])
        # A number after the seed keeps this from being the generator that the crop was drawn from.
        seed = derive_seed(sample.get("seed", zlib.crc32(image.tobytes())), 1)
        return draw_corruption(
            rows * columns,
            ratio=self.config.corruption_ratio,
            mix=self.config.corruption_mix,
            generator=torch.Generator().manual_seed(seed),
        )
