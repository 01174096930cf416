# SPDX-License-Identifier: Apache-2.0
"""What a benchmark is asked to do: its options, a class for each subject.

The defaults and what is allowed stand here; the command line's flags are these fields.
"""

import difflib
from dataclasses import dataclass, field
from typing import Any, ClassVar

PEERS = {
    "model": ("transformers", "timm", "vit_pytorch"),
    "input": ("transformers", "transformers_fast", "torchvision"),
    "train": ("transformers", "transformers_default"),
}
MODES = ("infer", "train")
DTYPES = ("float32", "bfloat16", "float8")
DEVICES = ("cpu", "cuda")
ATTENTIONS = ("sdpa", "eager", "cudnn", "flash_attention_2")


@dataclass(kw_only=True)
class Options:
    """What every benchmark is asked.

    Args:
        peers: whom we are held against; `None` is everyone there is.
        batch_size: images at once.
        image_size: pixels a side.
        device: `"cpu"` or `"cuda"`; `None` is a GPU where there is one.
        turns: of each peer, each next to one of ours.
        seconds: of a turn, about; a step at least.
        profile: whether to say where the time of a step goes.

    Raises:
        ValueError: for what is not allowed.
    """

    subject: ClassVar[str]

    peers: list[str] | None = None
    batch_size: int = 8
    image_size: int = 224
    device: str | None = None
    turns: int = 7
    seconds: float = 5.0
    profile: bool = False

    def __post_init__(self):
        import torch

        usual, others = PEERS[self.subject], self.further_peers()
        self.peers = list(dict.fromkeys((*usual, *others) if self.peers is None else self.peers))
        for peer in self.peers:
            self.allow("peers", peer, (*usual, *others))
        self.device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.allow("device", self.device, DEVICES)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("got --device cuda, and PyTorch finds no GPU here; allowed: cpu")
        for name in ("batch_size", "image_size", "turns"):
            self.at_least(name, 1)
        if not self.seconds > 0:
            raise ValueError(f"got --seconds {self.seconds:g}, allowed: above 0")

    def further_peers(self) -> tuple[str, ...]:
        """Returns the peers that there are beside the usual ones: other forms of ours."""
        return ()

    def allow(self, name: str, value: str, allowed: tuple[str, ...]) -> None:
        """Raises a `ValueError` for a word that is none of those allowed."""
        if value not in allowed:
            nearest = difflib.get_close_matches(value, allowed, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"got --{name} {value}, allowed: {', '.join(allowed)}.{hint}")

    def at_least(self, name: str, least: float) -> None:
        """Raises a `ValueError` for a number that is too small."""
        value = getattr(self, name)
        if value is not None and value < least:
            raise ValueError(f"got --{name} {value:g}, allowed: {least:g} and more")


@dataclass(kw_only=True)
class OfModel(Options):
    """What a benchmark with a model is asked beside that.

    Args:
        model: the paper's name, as it is shown.
        size: the settings of `VisionTransformerConfig` that it stands for.
        num_labels: classes.
        dtype: that is computed in; in training bfloat16 is mixed precision, with weights in
            float32, and float8 the same with our dense layers in 8 bits, where the peers and the
            limit stay in bfloat16.
        compile: whether compiled models are tried too, for everyone.
        attention: the attention backends that are tried; `None` is each that there is.
    """

    model: str = "B/16"
    size: dict[str, Any] = field(default_factory=dict)
    num_labels: int = 1000
    dtype: str = "float32"
    compile: bool = False
    attention: list[str] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.allow("dtype", self.dtype, DTYPES)
        for name in self.attention or []:
            self.allow("attention", name, ATTENTIONS)
        self.at_least("num_labels", 1)
        if self.dtype == "float8" and (self.device != "cuda" or not self.is_training):
            raise ValueError(
                "got --dtype float8, allowed: in training on a GPU; otherwise float32, bfloat16"
            )
        if self.dtype != "float32" and self.device == "cuda":
            import torch

            if not torch.cuda.is_bf16_supported(including_emulation=False):
                raise ValueError(
                    f"got --dtype {self.dtype}, which this GPU has not; allowed: float32"
                )

    def further_peers(self) -> tuple[str, ...]:
        """Returns ours in bfloat16 beside ours in float8."""
        return ("ours_bfloat16",) if self.dtype == "float8" else ()

    def attentions_of(self, there_are: list[str]) -> list[str]:
        """Returns those of a contender's attention backends which are tried.

        Raises:
            CannotTakePart: where it has none of those that are asked for.
        """
        from .contender import CannotTakePart

        if self.attention is None:
            return there_are
        tried = [name for name in there_are if name in self.attention]
        if not tried:
            raise CannotTakePart(
                f"its attention is {', '.join(there_are)}, and --attention asks for "
                f"{', '.join(self.attention)}"
            )
        return tried

    @property
    def compute_dtype(self) -> str:
        """The type that everyone computes in, but for dense layers in float8."""
        return "bfloat16" if self.dtype == "float8" else self.dtype

    @property
    def is_training(self) -> bool:
        """Whether a step updates the weights."""
        raise NotImplementedError

    @property
    def model_settings(self) -> dict[str, Any]:
        """The settings of our configuration."""
        return {**self.size, "image_size": self.image_size, "num_labels": self.num_labels}

    @property
    def our_settings(self) -> dict[str, Any]:
        """The settings with what ours alone has."""
        return self.model_settings


@dataclass(kw_only=True)
class ModelOptions(OfModel):
    """What `vit-hf benchmark model` is asked.

    Args:
        mode: `"infer"`, the forward pass, or `"train"`: forward, backward and AdamW's update.
        compile_modes: how the compiled ones are compiled; `None` is in every way that the device
            and the mode have.
        gradient_checkpointing: whether everyone keeps nothing of a layer for the backward pass, and
            computes it again.
        patch_dropout_rate: of our model in training, see `VisionTransformerConfig`; the peers
            keep every patch.
        largest_batch: whether to find, after the turns, the largest batch that fits into a GPU.
        graph: the format of an exported graph that is ours then; the peers stay what they are.
    """

    subject: ClassVar[str] = "model"

    mode: str = "infer"
    compile_modes: list[str] | None = None
    gradient_checkpointing: bool = False
    patch_dropout_rate: float = 0.0
    largest_batch: bool = False
    graph: str | None = None

    def __post_init__(self):
        super().__post_init__()
        self.allow("mode", self.mode, MODES)
        self.choose_compile_modes()
        for name in ("gradient_checkpointing", "patch_dropout_rate", "largest_batch"):
            if getattr(self, name) and not self.is_training:
                raise ValueError(f"got --{name} with --mode infer, allowed: --mode train")
        if self.largest_batch and self.device != "cuda":
            raise ValueError("got --largest_batch with --device cpu, allowed: cuda")
        if self.graph is None:
            return
        from ..deployment.formats import FORMATS, require

        self.allow("graph", self.graph, tuple(FORMATS))
        require(self.graph)
        if self.mode != "infer" or self.device != "cpu" or self.dtype != "float32":
            raise ValueError(
                f"got --graph {self.graph} with --mode {self.mode}, --device {self.device} and "
                f"--dtype {self.dtype}; allowed: infer, cpu, float32, as a graph is neither "
                "trained nor cast"
            )

    @property
    def our_settings(self) -> dict[str, Any]:
        """The settings with what ours alone has."""
        return {**self.model_settings, "patch_dropout_rate": self.patch_dropout_rate}

    def further_peers(self) -> tuple[str, ...]:
        """Returns ours with every patch too, beside ours with patch dropout."""
        return super().further_peers() + (("ours_all_patches",) if self.patch_dropout_rate else ())

    def choose_compile_modes(self) -> None:
        """Fills in the ways to compile; raises a `ValueError` for one that there is not."""
        there_are = ["layers", "default"]
        if self.device == "cuda":
            there_are.append("reduce-overhead")
        elif not self.is_training:
            there_are.append("freezing")
        if self.compile_modes is None:
            self.compile_modes = there_are if self.compile else []
        elif not self.compile:
            raise ValueError("got --compile_modes without --compile; give that too")
        for mode in self.compile_modes:
            self.allow("compile_modes", mode, tuple(there_are))

    @property
    def is_training(self) -> bool:
        """Whether a step updates the weights."""
        return self.mode == "train"


@dataclass(kw_only=True)
class OfImages(Options):
    """What a benchmark with image files is asked beside that.

    Args:
        images: a folder with JPEG files, also within its folders; `None` is the photos that
            scikit-learn ships.
        num_images: how many of them are taken.
        megapixels: that each is enlarged to beforehand; `None` leaves them as they are.
        exact_decoding: whether we decode every picture whole, as serving does.
    """

    images: str | None = None
    num_images: int = 64
    megapixels: float | None = None
    exact_decoding: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.at_least("num_images", 1)
        if self.megapixels is not None and not self.megapixels > 0:
            raise ValueError(f"got --megapixels {self.megapixels:g}, allowed: above 0")


@dataclass(kw_only=True)
class InputOptions(OfImages):
    """What `vit-hf benchmark input` is asked."""

    subject: ClassVar[str] = "input"


@dataclass(kw_only=True)
class TrainOptions(OfImages, OfModel):
    """What `vit-hf benchmark train` is asked.

    Args:
        num_workers: processes that load images, ours and those of peers with our settings.
    """

    subject: ClassVar[str] = "train"

    num_workers: int = 0

    def __post_init__(self):
        super().__post_init__()
        self.at_least("num_workers", 0)

    @property
    def is_training(self) -> bool:
        """Whether a step updates the weights."""
        return True


SUBJECTS: dict[str, type[Options]] = {
    options.subject: options for options in (ModelOptions, InputOptions, TrainOptions)
}
