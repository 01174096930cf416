# SPDX-License-Identifier: Apache-2.0
"""What happens to a training batch on the device: flip, random erasing, mixup or cutmix, smoothing.

Everything is decided in the workers from the samples' seeds (`BatchAugmentation.draw`), and travels
as small tensors beside the uint8 pixels. On the device the decisions are carried out for the whole
batch at once (`augment`), without waiting for it.

Each image is mixed with the one before it in the batch, the first with the last, as the authors do
(`get_mixup` in big_vision's `utils.py`). DeiT mixes a batch with its reverse, in which the middle
image of an odd batch meets itself. In a batch of one, an image can only meet itself.

Shapes: `B` batch, `H` height, `W` width, `K` classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .boxes import NO_BOX, PixelBox, inside
from .erasing import draw_erasing_box, erase
from .transforms import normalize

Decisions = dict[str, torch.Tensor]


@dataclass(frozen=True)
class BatchAugmentation:
    """The settings of batch augmentation; all is off by default.

    Attributes:
        flip: whether half of the images, by chance, are mirrored left to right.
        mixup_alpha: of the Beta distribution of mixup's share (Zhang et al. 2017); 0 is off.
        cutmix_alpha: likewise for cutmix (Yun et al. 2019).
        mixing_probability: how likely a batch is mixed at all, where one of the two is on.
        cutmix_switch_probability: how likely it is cutmix, where both are on.
        erasing_probability: how likely a box of an image is erased (Zhong et al. 2017); 0 is off.
        label_smoothing: share of the label that is spread over all classes; 0 is off.

    Raises:
        ValueError: for values that are not allowed.
    """

    flip: bool = False
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mixing_probability: float = 1.0
    cutmix_switch_probability: float = 0.5
    erasing_probability: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self):
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"got {name}={getattr(self, name)}, allowed: 0 (off) or more")
        for name in ("mixing_probability", "cutmix_switch_probability", "erasing_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"got {name}={getattr(self, name)}, allowed: 0 to 1")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"got label_smoothing={self.label_smoothing}, allowed: 0 to below 1")

    def draw(self, seeds: Sequence[int], image_hw: tuple[int, int]) -> Decisions:
        """Decides everything about a batch.

        Args:
            seeds: of the samples, non-negative. Flip and erasing of an image depend on its own,
                mixing on the first one's.
            image_hw: height and width of the images.

        Returns:
            Small tensors, each of the batch's length, so that it can be cut like the batch; none
            where everything is off. Their names are those that `augment` looks for.
        """
        decisions: Decisions = {}
        # The words keep these streams of numbers apart from others that begin with the same seed.
        if self.flip:
            drawn = [np.random.default_rng([seed, *b"flip"]).random() for seed in seeds]
            decisions["flip"] = torch.tensor(drawn) < 0.5  # (B,)
        if self.erasing_probability > 0:
            generators = [np.random.default_rng([seed, *b"erasing"]) for seed in seeds]
            boxes = [self.draw_erasing(image_hw, generator) for generator in generators]
            keys = [generator.integers(-(2**31), 2**31) for generator in generators]
            decisions["erasing_box"] = torch.tensor(boxes)  # (B, 4)
            decisions["erasing_key"] = torch.tensor(keys, dtype=torch.int32)  # (B,)
        if self.mixup_alpha > 0 or self.cutmix_alpha > 0:
            generator = np.random.default_rng([seeds[0], *b"mixing"])
            box, pixel_share, label_share = self.draw_mixing(image_hw, generator)
            decisions["mixing_box"] = torch.tensor([box] * len(seeds))  # (B, 4)
            decisions["pixel_share"] = torch.full((len(seeds),), pixel_share)  # (B,)
            decisions["label_share"] = torch.full((len(seeds),), label_share)  # (B,)
        if self.label_smoothing > 0:
            decisions["label_smoothing"] = torch.full((len(seeds),), self.label_smoothing)  # (B,)
        return decisions

    def draw_erasing(self, image_hw: tuple[int, int], generator: np.random.Generator) -> PixelBox:
        """Draws the box of one image that is erased, if any."""
        if generator.random() >= self.erasing_probability:
            return NO_BOX
        return draw_erasing_box(image_hw, generator)

    def draw_mixing(
        self, image_hw: tuple[int, int], generator: np.random.Generator
    ) -> tuple[PixelBox, float, float]:
        """Draws how the images of a batch are mixed.

        Returns:
            The box that is the other image's (cutmix), the image's own share of the pixels outside
            the box (mixup), and its share of the label.
        """
        if generator.random() >= self.mixing_probability:
            return NO_BOX, 1.0, 1.0
        switch = self.cutmix_switch_probability if self.mixup_alpha > 0 else 1.0
        if self.cutmix_alpha > 0 and generator.random() < switch:
            share = generator.beta(self.cutmix_alpha, self.cutmix_alpha)
            box = draw_cutmix_box(image_hw, share, generator=generator)
            top, left, bottom, right = box
            return box, 1.0, 1 - (bottom - top) * (right - left) / math.prod(image_hw)
        share = float(generator.beta(self.mixup_alpha, self.mixup_alpha))
        return NO_BOX, share, share


def draw_cutmix_box(
    image_hw: tuple[int, int], share: float, *, generator: np.random.Generator
) -> PixelBox:
    """Draws the box of cutmix: it leaves `share` of the area, but for what lies over the edge."""
    spans = []
    for length in image_hw:
        size = round(length * math.sqrt(1 - share))
        start = int(generator.integers(length)) - size // 2  # the centre lies anywhere
        spans.append((max(0, start), min(length, start + size)))
    (top, bottom), (left, right) = spans
    return top, left, bottom, right


def augment(
    pixel_values: torch.Tensor,
    labels: torch.Tensor | None,
    decisions: Decisions,
    *,
    num_labels: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Carries out what was decided about a batch, and normalises it.

    The order is DeiT's: flip, normalise, erase, mix. Without decisions it only normalises.

    Args:
        pixel_values: `(B, 3, H, W)` uint8.
        labels: class indices `(B,)`, on the same device; `None` where there are none.
        decisions: of `BatchAugmentation.draw`, on the same device.
        num_labels: `K`.

    Returns:
        Pixels `(B, 3, H, W)` in float32, in [-1, 1] but for the noise of erasing; and the labels,
        which become shares `(B, K)` where images are mixed or labels smoothed.

    Raises:
        ValueError: for pixels that are not uint8, and where shares are wanted of labels that are
            missing or of another shape.
    """
    if pixel_values.dtype != torch.uint8:
        raise ValueError(
            f"got pixel_values of type {pixel_values.dtype}, allowed: torch.uint8, as augment "
            "normalises them"
        )
    if "flip" in decisions:
        is_flipped = decisions["flip"][:, None, None, None]
        pixel_values = torch.where(is_flipped, pixel_values.flip(-1), pixel_values)
    pixel_values = normalize(pixel_values)  # (B, 3, H, W) float32
    if "erasing_box" in decisions:
        pixel_values = erase(pixel_values, decisions["erasing_box"], decisions["erasing_key"])
    if "mixing_box" in decisions:
        is_other = inside(decisions["mixing_box"], pixel_values.shape[-2:])  # (B, 1, H, W)
        share = decisions["pixel_share"][:, None, None, None].masked_fill(is_other, 0.0)
        pixel_values = torch.lerp(before(pixel_values), pixel_values, share)
    if "label_smoothing" in decisions or "label_share" in decisions:
        labels = label_shares(labels, decisions, num_labels=num_labels)
    return pixel_values, labels


def label_shares(
    labels: torch.Tensor | None, decisions: Decisions, *, num_labels: int
) -> torch.Tensor:
    """Returns each class's share `(B, K)` of the smoothed and mixed labels."""
    if labels is None or labels.dim() != 1:
        got = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)}"
        raise ValueError(
            f"got {got} for a batch that is mixed or whose labels are smoothed, allowed: class "
            "indices (B,); else turn mixup, cutmix and label smoothing off"
        )
    shares = torch.zeros(len(labels), num_labels, device=labels.device)
    shares.scatter_(1, labels.long()[:, None], 1.0)  # (B, K); one_hot would wait for the device
    if "label_smoothing" in decisions:
        spread = decisions["label_smoothing"][:, None]
        shares = (1 - spread) * shares + spread / num_labels
    if "label_share" in decisions:
        shares = torch.lerp(before(shares), shares, decisions["label_share"][:, None])
    return shares


def before(batch: torch.Tensor) -> torch.Tensor:
    """Returns for each entry of a batch the one before it, for the first the last."""
    return batch.roll(1, dims=0)
