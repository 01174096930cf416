# SPDX-License-Identifier: Apache-2.0
"""The contenders of `vit-hf benchmark input`: from the bytes of JPEG files to a normalised batch
on the device, on one thread, so that what is counted is images a second and core.

Every one squashes the whole picture to the size and maps its pixels to [-1, 1], as the authors do.
Decoding alone, ours and of the whole picture, is the limit.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data import ImageTransform, normalize
from ..data.decoding import decode_image, open_image, reduce_jpeg
from .contender import Contender

PHOTOS = "photos"  # the folder with the files
NUM_COMPARED = 16  # images whose pixels are held against ours
LEVELS = 127.5  # of [-1, 1], in levels of uint8
HALF = [0.5, 0.5, 0.5]  # mean and deviation that map [0, 1] to [-1, 1]


class InputContender(Contender):
    """An input path; its step makes the next batch."""

    def prepare(self, settings: dict[str, Any]) -> None:
        """Reads the files' bytes: what a disk takes is not measured."""
        torch.set_num_threads(1)
        self.settings = settings
        files = sorted((self.folder / PHOTOS).iterdir())
        self.encoded = [path.read_bytes() for path in files]
        self.place = 0
        self.image_hw = (self.options.image_size, self.options.image_size)

    def batch(self, encoded: list[bytes]) -> torch.Tensor:
        """Returns `(B, 3, H, W)` float32 in [-1, 1], on the device."""
        raise NotImplementedError

    def step(self) -> None:
        """Makes the next batch."""
        size = self.options.batch_size
        chosen = [self.encoded[(self.place + i) % len(self.encoded)] for i in range(size)]
        self.place += size
        self.batch(chosen)

    def outcome(self) -> np.ndarray | None:
        """Returns the pixels of some images, in levels from 0 to 255."""
        pixels = self.batch(self.encoded[:NUM_COMPARED])
        return (pixels.float().cpu().numpy() + 1) * LEVELS


class OurInput(InputContender):
    """`ImageTransform`; uint8 to the device, normalised there."""

    def prepare(self, settings: dict[str, Any]) -> None:
        """Makes the transform."""
        super().prepare(settings)
        exact = self.options.exact_decoding
        self.transform = ImageTransform(self.image_hw, exact_decoding=exact)

    def batch(self, encoded: list[bytes]) -> torch.Tensor:
        """Returns the batch."""
        pixels = torch.from_numpy(np.stack([self.transform(one) for one in encoded]))
        return normalize(pixels.to(self.device, non_blocking=True))


class TransformersInput(InputContender):
    """transformers' `ViTImageProcessor` over Pillow."""

    def processor(self):
        """Makes the processor."""
        from transformers import ViTImageProcessorPil

        return ViTImageProcessorPil(**self.processor_settings())

    def processor_settings(self) -> dict[str, Any]:
        """Returns what makes it do what everyone does."""
        height, width = self.image_hw
        size = {"height": height, "width": width}
        return {"size": size, "image_mean": HALF, "image_std": HALF}

    def prepare(self, settings: dict[str, Any]) -> None:
        """Makes the processor."""
        super().prepare(settings)
        self.made = self.processor()

    def batch(self, encoded: list[bytes]) -> torch.Tensor:
        """Returns the batch."""
        pictures = [Image.open(BytesIO(one)).convert("RGB") for one in encoded]
        return self.made(pictures, return_tensors="pt")["pixel_values"].to(self.device)


class FastTransformersInput(TransformersInput):
    """transformers' `ViTImageProcessor` over torchvision, on the CPU or the device."""

    libraries = ("torchvision",)

    def candidates(self) -> list[dict[str, Any]]:
        """Resizing on the CPU, or on an accelerator."""
        return [{"resized_on": device} for device in dict.fromkeys(("cpu", self.device.type))]

    def processor(self):
        """Makes the processor."""
        from transformers import ViTImageProcessor

        return ViTImageProcessor(**self.processor_settings())

    def batch(self, encoded: list[bytes]) -> torch.Tensor:
        """Returns the batch."""
        pictures = [Image.open(BytesIO(one)).convert("RGB") for one in encoded]
        on = self.settings["resized_on"]
        batch = self.made(pictures, return_tensors="pt", device=on)["pixel_values"]
        return batch.to(self.device)


class TorchvisionInput(InputContender):
    """torchvision's transforms, on Pillow's pictures or on those of its own decoder."""

    libraries = ("torchvision",)

    def candidates(self) -> list[dict[str, Any]]:
        """Either decoder."""
        return [{"decoder": "pillow"}, {"decoder": "torchvision"}]

    def prepare(self, settings: dict[str, Any]) -> None:
        """Makes the transforms."""
        super().prepare(settings)
        from torchvision.transforms import v2  # pyright: ignore[reportMissingImports]

        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.Resize(list(self.image_hw), antialias=True),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(HALF, HALF),
            ]
        )

    def decode(self, encoded: bytes):
        """Returns a picture that the transforms take."""
        if self.settings["decoder"] == "pillow":
            return Image.open(BytesIO(encoded)).convert("RGB")
        from torchvision import io  # pyright: ignore[reportMissingImports]

        buffer = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        return io.decode_jpeg(buffer, mode=io.ImageReadMode.RGB)

    def batch(self, encoded: list[bytes]) -> torch.Tensor:
        """Returns the batch."""
        pictures = [self.transform(self.decode(one)) for one in encoded]
        return torch.stack(pictures).to(self.device)


class DecodingAlone(InputContender):
    """Our decoding and nothing else: reduced while it is decoded, unless exactness is asked for."""

    is_comparable = False

    def batch(self, encoded: list[bytes]) -> torch.Tensor:
        """Decodes; there is no batch."""
        for one in encoded:
            if self.options.exact_decoding:
                decode_image(one)
                continue
            picture = open_image(one)
            reduce_jpeg(picture, (0, 0, *picture.size), target=self.image_hw[::-1])
            picture.load()
        return torch.empty(0)

    def outcome(self) -> None:
        """Nothing that could be compared."""
        return None


class DecodingOfTheWhole(DecodingAlone):
    """Pillow's decoding of the whole picture and nothing else."""

    def batch(self, encoded: list[bytes]) -> torch.Tensor:
        """Decodes; there is no batch."""
        for one in encoded:
            Image.open(BytesIO(one)).load()
        return torch.empty(0)


def decoding_error(files: list[Path], *, image_size: int) -> dict[str, float]:
    """Holds the pixels of fast decoding against those of the exact one.

    Returns:
        In levels from 0 to 255: the `mean` difference, its `root_mean_square` and the `largest`.
    """
    fast, exact = (
        np.stack(
            [
                ImageTransform((image_size, image_size), exact_decoding=is_exact)(path)
                for path in files[:NUM_COMPARED]
            ]
        ).astype(np.float64)
        for is_exact in (False, True)
    )
    difference = np.abs(fast - exact)
    return {
        "mean": float(difference.mean()),
        "root_mean_square": float(np.sqrt((difference**2).mean())),
        "largest": float(difference.max()),
    }
