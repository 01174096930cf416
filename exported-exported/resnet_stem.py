# SPDX-License-Identifier: Apache-2.0
"""The hybrid's ResNet stem: a ResNet v1.5 with GroupNorm and standardised weights (3.1, B.1).

Post-activation bottlenecks; "SAME" padding as TensorFlow means it, the extra pixel at the bottom
right.

Shapes: `B` batch, `C` channels, `H` and `W` height and width of the image, `S` the stem's stride.
"""

import torch
from torch import nn

NUM_GROUPS = 32  # of every GroupNorm in the authors' ResNets
EXPANSION = 4  # of a bottleneck


def pad_same(image: torch.Tensor, *, kernel: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """Pads `(B, C, H, W)` so that windows of `kernel` at `stride` are `ceil(side / stride)`."""
    pads = []
    for side in (image.shape[3], image.shape[2]):
        pad = max(0, (-(-side // stride) - 1) * stride + kernel - side)
        pads += [pad // 2, pad - pad // 2]
    return nn.functional.pad(image, pads, value=value) if any(pads) else image


class StandardizedConv2d(nn.Conv2d):
    """A "SAME" convolution without bias whose kernel is standardised per output channel."""

    def __init__(
        self, config, in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, bias=False)
        self.eps = config.stem_weight_eps
        self.eps_in_variance = config.stem_weight_eps_placement == "variance"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps `(B, C, H, W)` to `(B, C', H / stride, W / stride)`, rounded up."""
        image = pad_same(image, kernel=self.kernel_size[0], stride=self.stride[0])
        return nn.functional.conv2d(image, self.standardized_weight(), stride=self.stride)

    def standardized_weight(self) -> torch.Tensor:
        """Returns the kernel with mean 0 and deviation 1 per output channel, from float32."""
        weight = self.weight.float()
        variance, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
        deviation = (
            (variance + self.eps).sqrt() if self.eps_in_variance else variance.sqrt() + self.eps
        )
        return ((weight - mean) / deviation).to(self.weight.dtype)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the 3x3 carries the stride (v1.5)."""

    def __init__(self, config, in_channels: int, width: int, *, stride: int):
        super().__init__()
        out_channels = EXPANSION * width
        self.conv1 = StandardizedConv2d(config, in_channels, width, kernel_size=1)
        self.norm1 = nn.GroupNorm(NUM_GROUPS, width, eps=config.stem_norm_eps)
        self.conv2 = StandardizedConv2d(config, width, width, kernel_size=3, stride=stride)
        self.norm2 = nn.GroupNorm(NUM_GROUPS, width, eps=config.stem_norm_eps)
        self.conv3 = StandardizedConv2d(config, width, out_channels, kernel_size=1)
        self.norm3 = nn.GroupNorm(NUM_GROUPS, out_channels, eps=config.stem_norm_eps)
        self.has_projection = in_channels != out_channels or stride != 1
        if self.has_projection:
            self.shortcut_conv = StandardizedConv2d(
                config, in_channels, out_channels, kernel_size=1, stride=stride
            )
            self.shortcut_norm = nn.GroupNorm(NUM_GROUPS, out_channels, eps=config.stem_norm_eps)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps `(B, C, H, W)` to `(B, C', H / stride, W / stride)`, rounded up."""
        shortcut = self.shortcut_norm(self.shortcut_conv(image)) if self.has_projection else image
        image = self.norm1(self.conv1(image)).relu()
        image = self.norm2(self.conv2(image)).relu()
        return (shortcut + self.norm3(self.conv3(image))).relu()


class ResNetStem(nn.Module):
    """Root convolution, max-pool and the stages of `config.stem_blocks`."""

    def __init__(self, config):
        super().__init__()
        self.conv = StandardizedConv2d(
            config, config.num_channels, config.stem_width, kernel_size=7, stride=2
        )
        self.norm = nn.GroupNorm(NUM_GROUPS, config.stem_width, eps=config.stem_norm_eps)
        self.stages = nn.ModuleList()
        self.num_output_channels = config.stem_width
        for stage, num_blocks in enumerate(config.stem_blocks):
            blocks = []
            for block in range(num_blocks):
                width, stride = config.stem_width * 2**stage, 2 if stage > 0 and block == 0 else 1
                blocks.append(Bottleneck(config, self.num_output_channels, width, stride=stride))
                self.num_output_channels = EXPANSION * width
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps `(B, C, H, W)` to `(B, C', H / S, W / S)`, rounded up."""
        image = self.norm(self.conv(image)).relu()  # (B, width, H / 2, W / 2)
        image = pad_same(image, kernel=3, stride=2, value=-torch.inf)
        image = nn.functional.max_pool2d(image, 3, stride=2)
        for stage in self.stages:
            image = stage(image)
        return image
