# SPDX-License-Identifier: Apache-2.0
"""The contenders of `vit-hf benchmark model`: ours, and the ViTs of transformers, timm and
vit-pytorch, each under every attention backend that it has, and compiled where that is asked for.

All but vit-pytorch's, whose architecture is another, have the same weights. Inference in bfloat16
is with weights in bfloat16, training in it is autocast over weights in float32. AdamW is PyTorch's
fused one for everybody.
"""

import json
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import ViTForImageClassification
from transformers.utils.import_utils import is_flash_attn_2_available

from ..data import normalize
from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from ..modeling.modeling_vision_transformer import VisionTransformerForImageClassification
from .contender import Contender

SEED = 0
LEARNING_RATE = 1e-5
COMPILE_MODES = {"cpu": ("default",), "cuda": ("default", "reduce-overhead")}


def raw_images(options: Any) -> torch.Tensor:
    """Returns a batch of noise `(B, 3, H, W)` uint8, the same for everyone."""
    generator = torch.Generator().manual_seed(SEED)  # whatever was drawn for the weights
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


class ModelContender(Contender):
    """A classifier on images that are on the device already.

    Attributes:
        weights_format: of the weights that it opens, `None` where it cannot have ours.
    """

    weights_format: ClassVar[str | None]

    def attentions(self) -> list[str]:
        """Returns the names of the attention backends that it has here."""
        return ["sdpa", "eager"]

    def build(self, attention: str) -> nn.Module:
        """Makes the model, in float32 on the CPU."""
        raise NotImplementedError

    def logits(self, outputs: Any) -> torch.Tensor:
        """Returns the logits `(B, K)` of what the model returned."""
        return outputs

    def candidates(self) -> list[dict[str, Any]]:
        """Every backend, as it is and, where asked for, in each mode of the compiler."""
        modes = COMPILE_MODES[self.device.type] if self.options.compile else ()
        if self.device.type == "cpu" and not self.options.is_training:
            modes = (*modes, "freezing") if modes else ()
        return [
            {"attention": attention, "compile": mode}
            for attention in self.attentions()
            for mode in (None, *modes)
        ]

    def prepare(self, settings: dict[str, Any]) -> None:
        """Makes the model and a batch."""
        options, self.settings = self.options, settings
        torch.manual_seed(SEED)  # of weights that are random
        model = self.build(settings["attention"])
        dtype = getattr(torch, options.dtype)
        self.autocast = partial(
            torch.autocast,
            self.device.type,
            torch.bfloat16,
            enabled=options.is_training and dtype == torch.bfloat16,
        )
        images = normalize(raw_images(options))
        if options.is_training:
            self.model = model.to(self.device).train()
            self.batch = images.to(self.device)
            self.labels = torch.arange(options.batch_size, device=self.device) % options.num_labels
            self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
        else:
            self.model = model.to(self.device, dtype).eval().requires_grad_(False)
            self.batch = images.to(self.device, dtype)
        if settings["compile"] == "freezing":
            self.model.compile(options={"freezing": True})
        elif settings["compile"] is not None:
            self.model.compile(mode=settings["compile"])

    def forget(self) -> None:
        """Lets go of the model."""
        self.model: Any = None
        self.optimizer: Any = None

    def step(self) -> None:
        """A forward pass; in training, forward, backward and update."""
        if self.options.is_training:
            self.update()
        else:
            self.infer()

    def infer(self) -> Any:
        """A forward pass; freezing takes weights for constants where no gradients are asked for,
        and not in inference mode.
        """
        is_frozen = self.settings["compile"] == "freezing"
        with torch.no_grad() if is_frozen else torch.inference_mode():
            return self.model(self.batch)

    def update(self) -> None:
        """One update of the weights."""
        self.optimizer.zero_grad()
        with self.autocast():
            logits = self.logits(self.model(self.batch))
        functional.cross_entropy(logits.float(), self.labels).backward()
        self.optimizer.step()

    @torch.no_grad()
    def outcome(self) -> np.ndarray:
        """Returns the logits `(B, K)` of the batch, in inference by the very call that is timed."""
        # The forward pass of training is computed without the compiler, which would make another
        # graph for it.
        model = self.model.forward if self.options.is_training else self.model
        with self.autocast():
            return self.logits(model(self.batch)).float().cpu().numpy()


class ModelOfTransformers(ModelContender):
    """A model that is made as transformers makes them."""

    def attentions(self) -> list[str]:
        """Those of transformers, and flash attention where it is installed."""
        return super().attentions() + flash_attention(self.options.dtype)

    def logits(self, outputs: Any) -> torch.Tensor:
        """Returns the logits `(B, K)`."""
        return outputs.logits


class OurModel(ModelOfTransformers):
    """`VisionTransformerForImageClassification`."""

    weights_format = "vit_hf"

    def candidates(self) -> list[dict[str, Any]]:
        """The same with packed weights, where there are such."""
        is_packable = self.device.type == "cpu" and not self.options.is_training
        packed = [
            {"attention": attention, "compile": None, "packed": True}
            for attention in self.attentions()
        ]
        return super().candidates() + (packed if is_packable else [])

    def prepare(self, settings: dict[str, Any]) -> None:
        """Makes the model and a batch."""
        super().prepare(settings)
        if settings.get("packed"):
            self.model.pack_weights()

    def build(self, attention: str) -> nn.Module:
        """Opens our own checkpoint."""
        return VisionTransformerForImageClassification.from_pretrained(
            self.folder / "vit_hf", attn_implementation=attention
        )


class TransformersModel(ModelOfTransformers):
    """transformers' `ViTForImageClassification`."""

    weights_format = "transformers"

    def build(self, attention: str) -> nn.Module:
        """Opens the checkpoint in transformers' format."""
        return ViTForImageClassification.from_pretrained(
            self.folder / "transformers", attn_implementation=attention
        )

    def extras(self) -> dict[str, float]:
        """Returns the images a second of its pipeline, where ours serves a graph."""
        if self.options.graph is None:
            return {}
        from .graphs import served, square_processor

        side = self.options.image_size
        processor = square_processor({"height": side, "width": side})
        return served(self.model.float(), processor, batch_size=self.options.batch_size)


class TimmModel(ModelContender):
    """timm's `VisionTransformer`; `sdpa` is its fused attention."""

    libraries = ("timm",)
    weights_format = "timm"

    def build(self, attention: str) -> nn.Module:
        """Makes timm's model from its `config.json`, and loads the weights."""
        from timm.layers import get_act_layer  # pyright: ignore[reportMissingImports]
        from timm.models import vision_transformer  # pyright: ignore[reportMissingImports]

        folder = self.folder / "timm"
        config = json.loads((folder / "config.json").read_text())
        arguments = dict(config["model_args"])
        if isinstance(arguments.get("act_layer"), str):
            arguments["act_layer"] = get_act_layer(arguments["act_layer"])
        model = vision_transformer.VisionTransformer(num_classes=config["num_classes"], **arguments)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        for block in model.blocks:
            block.attn.fused_attn = attention == "sdpa"
        return model


class VitPytorchModel(ModelContender):
    """vit-pytorch's `ViT`, of the same sizes.

    It has other LayerNorms and no biases of q, k and v, so our weights do not fit: its are random.
    """

    libraries = ("vit_pytorch",)
    weights_format = None
    is_comparable = False

    def attentions(self) -> list[str]:
        """Its one way, written out."""
        return ["eager"]

    def build(self, attention: str) -> nn.Module:
        """Makes the model with random weights."""
        from vit_pytorch import ViT  # pyright: ignore[reportMissingImports]

        config = VisionTransformerConfig(**self.options.model_settings)
        if config.stem_blocks is not None:
            raise ValueError(f"vit-pytorch's ViT has no ResNet stem, as {self.options.model} has")
        return ViT(
            image_size=config.image_hw,
            patch_size=config.patch_hw,
            num_classes=config.num_labels,
            dim=config.hidden_size,
            depth=config.num_hidden_layers,
            heads=config.num_attention_heads,
            dim_head=config.hidden_size // config.num_attention_heads,
            mlp_dim=config.intermediate_size,
        )


def flash_attention(dtype: str) -> list[str]:
    """Returns the name of flash attention where it is installed and computes in the type."""
    return ["flash_attention_2"] if is_flash_attn_2_available() and dtype == "bfloat16" else []
