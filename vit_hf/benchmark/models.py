# SPDX-License-Identifier: Apache-2.0
"""The contenders of `vit-hf benchmark model`: ours, and the ViTs of transformers, timm and
vit-pytorch, each under every attention backend that it has, and compiled where that is asked for.

All but vit-pytorch's, whose architecture is another, have the same weights. Inference in bfloat16
is with weights in bfloat16, training in it is autocast over weights in float32. AdamW is PyTorch's
fused one for everybody.
"""

import gc
import json
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch._functorch.config
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import ViTForImageClassification
from transformers.utils.import_utils import is_flash_attn_2_available

from ..data import normalize
from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from ..modeling.dense import can_pack_type
from ..modeling.freed_memory import keep_freed_memory
from ..modeling.modeling_vision_transformer import VisionTransformerForImageClassification
from ..training.float8 import convert_to_float8
from .contender import Contender, Task, give_back
from .largest_batch import guessed_batch, largest_batch

SEED = 0
LEARNING_RATE = 1e-5
NEARLY = 0.7  # of the fastest: attention backends that are slower as they are, aren't compiled


def raw_images(options: Any, batch_size: int) -> torch.Tensor:
    """Returns a batch of noise `(B, 3, H, W)` uint8, the same for everyone."""
    generator = torch.Generator().manual_seed(SEED)  # whatever was drawn for the weights
    shape = (batch_size, 3, options.image_size, options.image_size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


class ModelContender(Contender):
    """A classifier on images that are on the device already.

    Attributes:
        weights_format: of the weights that it opens, `None` where it cannot have ours.
    """

    weights_format: ClassVar[str | None]

    def attentions(self) -> list[str]:
        """Returns the names of the attention backends that it has here; `cudnn` is `sdpa` by
        cuDNN's kernels instead of those that PyTorch chooses.
        """
        return ["sdpa", "eager", *(["cudnn"] if self.device.type == "cuda" else [])]

    def build(self, attention: str) -> nn.Module:
        """Makes the model, in float32 on the CPU."""
        raise NotImplementedError

    def logits(self, outputs: Any) -> torch.Tensor:
        """Returns the logits `(B, K)` of what the model returned."""
        return outputs

    def layers(self) -> Iterable[nn.Module]:
        """Returns the encoder's layers of the model that was made."""
        raise NotImplementedError

    def checkpoint_layers(self) -> None:
        """Has the layers computed again in the backward pass."""
        self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def candidates(self) -> list[dict[str, Any]]:
        """Every attention backend that it has and that is asked for, as it is."""
        attentions = self.options.attentions_of(self.attentions())
        return [{"attention": name, "compile": None} for name in attentions]

    def refinements(self, speeds: list[tuple[float, dict[str, Any]]]) -> list[dict[str, Any]]:
        """The attention backends that are nearly as fast as the fastest, compiled."""
        fastest = max((speed for speed, _ in speeds), default=0)
        return [
            {**settings, "compile": mode}
            for speed, settings in speeds
            for mode in self.options.compile_modes
            if speed >= NEARLY * fastest
        ]

    def prepare(self, settings: dict[str, Any]) -> None:
        """Makes the model and a batch."""
        options, self.settings = self.options, settings
        torch.manual_seed(SEED)  # of weights that are random
        choose_kernels(settings["attention"])
        name = "sdpa" if settings["attention"] == "cudnn" else settings["attention"]
        self.model = self.build(name)
        dtype = getattr(torch, options.compute_dtype)
        self.autocast = partial(
            torch.autocast,
            self.device.type,
            torch.bfloat16,
            enabled=options.is_training and dtype == torch.bfloat16,
        )
        if options.gradient_checkpointing:
            self.checkpoint_layers()
        if options.is_training:
            self.model.to(self.device).train()
            self.optimizer = torch.optim.AdamW(
                self.model.parameters(), lr=LEARNING_RATE, fused=True
            )
        else:
            self.model.to(self.device, dtype).eval().requires_grad_(False)
        self.take_batch(options.batch_size)
        self.compile(settings["compile"])

    def take_batch(self, batch_size: int) -> None:
        """Makes the batch that every step takes."""
        images = normalize(raw_images(self.options, batch_size))
        dtype = torch.float32 if self.options.is_training else next(self.model.parameters()).dtype
        self.batch = images.to(self.device, dtype)
        self.labels = torch.arange(batch_size, device=self.device) % self.options.num_labels

    def compile(self, mode: str | None) -> None:
        """Compiles the model: layer by layer, or as a whole in a mode of `torch.compile`."""
        if mode == "layers":
            for layer in self.layers():
                layer.compile()
        elif mode == "freezing":
            self.model.compile(options={"freezing": True})
        elif mode is not None:
            self.model.compile(mode=mode)

    def forget(self) -> None:
        """Lets go of the model."""
        self.model: Any = None
        self.optimizer: Any = None
        self.batch: Any = None
        self.labels: Any = None

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

    def outcome(self) -> np.ndarray:
        """Returns the logits `(B, K)` of the batch, in inference by the very call that is timed."""
        if not self.options.is_training:
            return self.logits(self.infer()).float().cpu().numpy()
        # Without the compiler, which would make another graph for it, and without dropout.
        self.model.eval()
        with self.autocast(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logits = self.logits(self.model.forward(self.batch))
        self.model.train()
        return logits.float().cpu().numpy()

    def peak(self) -> int | None:
        """Returns the peak of memory; `None` with CUDA graphs, whose memory is set aside when they
        are recorded, and counted no more.
        """
        return None if self.settings["compile"] == "reduce-overhead" else super().peak()

    def extras(self) -> dict[str, Any]:
        """Returns the largest batch, where that is asked for."""
        if not self.options.largest_batch:
            return {}
        self.make_ready(self.settings)
        self.step()  # makes the optimizer's state
        guess = guessed_batch(self.fits, self.options.batch_size, device=self.device)
        found = largest_batch(self.fits, guess=guess)
        self.rest()
        return {"largest_batch_size": found}

    def fits(self, batch_size: int) -> bool:
        """Whether an update of so many images fits into the memory."""
        self.batch = self.labels = None
        gc.collect()  # what a step that did not fit has left
        give_back(self.device)
        try:
            self.take_batch(batch_size)
            self.step()
        except torch.OutOfMemoryError:
            return False
        return True


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
    takes_float8 = True
    drops_patches = True  # where the options ask for it

    def __init__(self, task: Task):
        super().__init__(task)
        # As our trainer does, and as packing does; it holds for all that the process tries.
        self.keeps_freed_memory = self.device.type == "cpu" and keep_freed_memory()

    def candidates(self) -> list[dict[str, Any]]:
        """The same; the settings say whether freed memory is kept."""
        kept = {"keeps_freed_memory": True} if self.keeps_freed_memory else {}
        return [settings | kept for settings in super().candidates()]

    def refinements(self, speeds: list[tuple[float, dict[str, Any]]]) -> list[dict[str, Any]]:
        """The same, and packed weights, where there are such."""
        dtype = getattr(torch, self.options.compute_dtype)
        is_packable = self.device.type == "cpu" and can_pack_type(dtype)
        packed = [
            {**settings, "packed": True}
            for settings in self.candidates()
            if is_packable and not self.options.is_training
        ]
        return packed + super().refinements(speeds)

    def prepare(self, settings: dict[str, Any]) -> None:
        """Makes the model and a batch."""
        super().prepare(settings)
        if settings.get("packed"):
            self.model.pack_weights()

    def layers(self) -> Iterable[nn.Module]:
        """Returns the encoder's layers."""
        return self.model.vit.layers

    def checkpoint_layers(self) -> None:
        """Has the layers computed again in the backward pass, by segments."""
        depth = self.model.config.num_hidden_layers
        self.model.gradient_checkpointing_enable({"layers_per_segment": round(depth**0.5)})

    def build(self, attention: str) -> nn.Module:
        """Opens our own checkpoint."""
        rate = self.options.patch_dropout_rate if self.drops_patches else 0
        model = VisionTransformerForImageClassification.from_pretrained(
            self.folder / "vit_hf", attn_implementation=attention, patch_dropout_rate=rate
        )
        if self.is_float8:
            convert_to_float8(model)
        return model


class OurBfloat16Model(OurModel):
    """Ours in bfloat16, beside ours in float8."""

    takes_float8 = False


class OurModelOnAllPatches(OurModel):
    """Ours without patch dropout, beside ours with it."""

    drops_patches = False


class TransformersModel(ModelOfTransformers):
    """transformers' `ViTForImageClassification`."""

    weights_format = "transformers"

    def build(self, attention: str) -> nn.Module:
        """Opens the checkpoint in transformers' format."""
        return ViTForImageClassification.from_pretrained(
            self.folder / "transformers", attn_implementation=attention
        )

    def layers(self) -> Iterable[nn.Module]:
        """Returns the encoder's layers."""
        return self.model.vit.layers

    def extras(self) -> dict[str, float]:
        """Returns the images a second of its pipeline, where ours serves a graph."""
        if self.options.graph is None:
            return super().extras()
        self.make_ready(self.settings)
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

    def layers(self) -> Iterable[nn.Module]:
        """Returns the encoder's layers."""
        return self.model.blocks

    def checkpoint_layers(self) -> None:
        """Has the layers computed again in the backward pass."""
        self.model.set_grad_checkpointing()


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

    def layers(self) -> Iterable[nn.Module]:
        """Returns the encoder's layers, attention and MLP each on its own."""
        return [part for layer in self.model.transformer.layers for part in layer]

    def checkpoint_layers(self) -> None:
        """It has no such thing."""
        raise ValueError("vit-pytorch's ViT has no gradient checkpointing")

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


def choose_kernels(attention: str) -> None:
    """Has scaled-dot-product attention use cuDNN's kernels alone, or those that PyTorch chooses."""
    # Kept on disk, a graph would be taken for another one: attention kernels are not in its key.
    torch._functorch.config.enable_autograd_cache = False
    is_chosen = attention != "cudnn"
    torch.backends.cuda.enable_flash_sdp(is_chosen)
    torch.backends.cuda.enable_mem_efficient_sdp(is_chosen)
    torch.backends.cuda.enable_math_sdp(is_chosen)


def flash_attention(dtype: str) -> list[str]:
    """Returns the name of flash attention where it is installed and computes in the type."""
    return ["flash_attention_2"] if is_flash_attn_2_available() and dtype != "float32" else []
