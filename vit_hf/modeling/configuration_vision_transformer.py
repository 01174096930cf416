# SPDX-License-Identifier: Apache-2.0
"""The configuration of a Vision Transformer: every architectural choice of the paper, by name.

Dosovitskiy et al., 2020, "An Image Is Worth 16x16 Words" (arXiv 2010.11929): table 1 for the sizes,
section 3.1 for the hybrid stem, appendix B.1.2 for masked patch prediction, D.3 and D.4 for pooling
and position embeddings.
"""

from dataclasses import fields
from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from .labels import check_indices, default_names, indices_of, named_labels
from .setting_errors import nearest, raise_value_errors

logger = logging.get_logger(__name__)

# The root convolution and the max-pool of the stem halve the resolution once each; so does every
# stage after the first (section B.1; the authors' ResNet v1.5).
STEM_ROOT_HALVINGS = 2
RATES = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "patch_dropout_rate",
)  # fmt: skip
# Names that transformers itself writes into a config.json or passes to a constructor.
TRANSFORMERS_NAMES = {
    "attn_implementation", "auto_map", "custom_pipelines", "distributed_config", "dtype",
    "experts_implementation", "fusion_config", "is_decoder", "model_type", "name_or_path",
    "num_labels", "output_attentions", "per_layer_config", "quantization_config",
    "tie_last_hidden_states", "tie_word_embeddings", "torch_dtype", "use_cache",
}  # fmt: skip


def is_known(name: str, settings) -> bool:
    """Whether `name` is one of `settings`, or a name that transformers itself uses."""
    return name in settings or name in TRANSFORMERS_NAMES or name.startswith("_")


@raise_value_errors
@strict
class VisionTransformerConfig(PreTrainedConfig):
    """The configuration of every `VisionTransformer*` model; the defaults are ViT-B/16 (table 1).

    Args:
        hidden_size: width `D` of the tokens.
        num_hidden_layers: number `L` of encoder layers.
        num_attention_heads: number `A` of attention heads; divides `hidden_size`.
        intermediate_size: width of the hidden layer of the MLP.
        hidden_act: activation of the MLP, a name transformers knows. `"gelu"` is the exact GELU;
            the authors' code and its checkpoints use the tanh form, `"gelu_pytorch_tanh"`.
        hidden_dropout_prob: dropout after the position embedding and after every dense layer but q,
            k and v (B.1).
        attention_probs_dropout_prob: dropout of the attention weights.
        drop_path_rate: stochastic depth of the last layer; it grows linearly from 0 at the first.
        patch_dropout_rate: share of each image's patches that are left out in training, so that a
            step computes so much less; of `N` patches, `N * (1 - rate)` are kept, rounded to the
            nearest whole number (a half to the even one), and 1 at least. For positions that enter
            at the stem, and one vector an image.
        layer_norm_eps: epsilon of every LayerNorm. 1e-6 in the authors' code and in timm, 1e-12 in
            transformers.
        initializer_range: standard deviation of a fresh position table and mask token.
        qkv_bias: whether the query, key and value projections have a bias.
        image_size: native image size in pixels, an int or `(height, width)`. Forward takes any
            size; positions are interpolated from the grid of this one.
        patch_size: patch size, an int or `(height, width)`, in pixels, or in cells of the stem's
            feature map.
        num_channels: channels of the image.
        patch_bias: whether the patch projection has a bias.
        position_embedding: one of table 8 (`"learned_1d"` is the paper's), or the fixed
            `"sincos_2d"`.
        position_embedding_placement: where positions enter (table 8). Given as `None` it is
            `"stem"`, and `"every_layer"` for relative positions, where `"stem"` means the first
            layer alone.
        prefix_position_embedding: whether the learned 1-D table has entries for the class and
            register tokens too, as the authors', transformers' and timm's have. `None` is yes where
            there are such a table and such tokens.
        class_token: whether a class token is prepended. `None` is yes for `pooling="cls"` alone.
        num_register_tokens: further learned tokens behind the class token.
        pooling: what the head sees: `"cls"` the class token, `"gap"` the mean of the patch tokens
            (D.3), `"map"` multi-head attention pooling, `"none"` every token, so that logits are
            `(B, T, K)`.
        final_norm: `"tokens"` normalises every token before pooling (the paper); `"pooled"` the
            pooled vector alone (timm's `fc_norm`).
        pre_encoder_norm: a LayerNorm between the position embedding and the first layer.
        representation_size: width of the tanh layer before the head (3.1), `None` for none.
        qk_norm: LayerNorm of queries and keys over each head's width.
        layer_scale_init_value: initial value of a learned scale on each residual branch, `None` for
            none.
        stem_blocks: blocks in each stage of the hybrid's ResNet stem: `None` no stem, `[]` its root
            only (R+Ti/16), `[3, 4, 9]` R50 with stage 4 moved to stage 3 (B.1).
        stem_width: channels of the stem's root, a multiple of 32.
        stem_norm_eps: epsilon of the stem's GroupNorms; 1e-6 in the authors' code, 1e-5 in timm.
        stem_weight_eps: epsilon of the stem's weight standardisation; 1e-5 in the authors' code,
            1e-8 in timm.
        stem_weight_eps_placement: `"deviation"` divides by `std + eps` (authors), `"variance"` by
            `sqrt(var + eps)`.
        classification_loss: `"softmax"` cross-entropy, or `"sigmoid"` cross-entropy summed over the
            classes. transformers' `problem_type` names others, with `"softmax"` here.
        classifier_bias_init: bias of a fresh head; the authors use -10 with the sigmoid loss.
        interpolation: how tables are resized: `"bilinear_corners"` the authors', `"bicubic"`
            transformers', `"bicubic_antialias"` timm's.
        prediction_target: what masked patch prediction predicts (B.1.2): the patch's mean 3-bit
            colour, its 4x4 downsized version in 3-bit colours, or its pixels.
        corruption_ratio: share of patch embeddings that are corrupted in masked patch prediction.
        corruption_mix: shares of the corrupted ones that become the mask token, another patch's
            embedding, and stay.
        source_layout: how the checkpoint that the model came from spelled its arrays (their prefix
            and names), so that `vit_hf.converters` writes it back the same way; `None` where it did
            not come from a foreign one. It says nothing about the model.

    Raises:
        ValueError: for a name, type, value or combination that is not allowed; the message says
            what is.
    """

    model_type = "vision_transformer"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["hidden_states", "attentions", "grid"]
    base_model_tp_plan: ClassVar[dict[str, str]] = {
        "layers.*.attention.q_proj": "colwise",
        "layers.*.attention.k_proj": "colwise",
        "layers.*.attention.v_proj": "colwise",
        "layers.*.attention.o_proj": "rowwise",
        "layers.*.mlp.fc1": "colwise",
        "layers.*.mlp.fc2": "rowwise",
    }
    base_model_fsdp_plan: ClassVar[dict[str, str]] = {"layers.*": "free_full_weight"}

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    patch_dropout_rate: float | int = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    qkv_bias: bool = True
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    patch_bias: bool = True

    position_embedding: Literal["learned_1d", "learned_2d", "relative", "sincos_2d", "none"] = (
        "learned_1d"
    )
    position_embedding_placement: Literal["stem", "every_layer", "every_layer_shared"] | None = None
    prefix_position_embedding: bool | None = None

    class_token: bool | None = None
    num_register_tokens: int = 0
    pooling: Literal["cls", "gap", "map", "none"] = "cls"
    final_norm: Literal["tokens", "pooled"] = "tokens"
    pre_encoder_norm: bool = False
    representation_size: int | None = None
    qk_norm: bool = False
    layer_scale_init_value: float | int | None = None

    stem_blocks: list[int] | tuple[int, ...] | None = None
    stem_width: int = 64
    stem_norm_eps: float = 1e-6
    stem_weight_eps: float = 1e-5
    stem_weight_eps_placement: Literal["deviation", "variance"] = "deviation"

    classification_loss: Literal["softmax", "sigmoid"] = "softmax"
    classifier_bias_init: float | int = 0.0
    interpolation: Literal["bilinear_corners", "bicubic", "bicubic_antialias"] = "bilinear_corners"

    # transformers' own, whose annotations it keeps as strings, which are not checked.
    id2label: dict | None = None
    label2id: dict | None = None
    problem_type: (
        Literal["regression", "single_label_classification", "multi_label_classification"] | None
    ) = None
    return_dict: bool | None = True

    prediction_target: Literal["mean_color", "downsampled_color", "raw_pixels"] = "mean_color"
    corruption_ratio: float | int = 0.5
    corruption_mix: list[float] | tuple[float, float, float] = (0.8, 0.1, 0.1)
    source_layout: dict | None = None

    def __post_init__(self, **kwargs):
        if self.class_token is None:
            self.class_token = self.pooling == "cls"
        if self.position_embedding_placement is None:
            self.position_embedding_placement = (
                "every_layer" if self.position_embedding == "relative" else "stem"
            )
        if self.prefix_position_embedding is None:
            self.prefix_position_embedding = (
                self.position_embedding == "learned_1d" and self.num_prefix_tokens > 0
            )
        num_labels = kwargs.pop("num_labels", None)
        self.id2label = named_labels(num_labels, self.id2label, self.label2id)
        self.label2id = indices_of(self.id2label)
        super().__post_init__(**kwargs)

    # Sizes: an int or a pair outside, `(height, width)` everywhere inside.

    @property
    def image_hw(self) -> tuple[int, int]:
        """Native image size `(height, width)` in pixels."""
        return as_pair(self.image_size)

    @property
    def patch_hw(self) -> tuple[int, int]:
        """Patch size `(height, width)` in pixels, or in cells of the stem's feature map."""
        return as_pair(self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches `(rows, columns)` of an image of the native size."""
        return self.grid_of(self.image_hw)

    @property
    def num_patches(self) -> int:
        """Patches of an image of the native size."""
        return self.grid[0] * self.grid[1]

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patch tokens: the class token, then the registers."""
        return int(bool(self.class_token)) + self.num_register_tokens

    @property
    def stem_stride(self) -> int:
        """Pixels per cell of the stem's feature map; 1 without a stem."""
        if self.stem_blocks is None:
            return 1
        return 2 ** (STEM_ROOT_HALVINGS + max(0, len(self.stem_blocks) - 1))

    @property
    def pixels_per_patch(self) -> tuple[int, int]:
        """Height and width in pixels of the part of the image that one patch token stands for."""
        return self.patch_hw[0] * self.stem_stride, self.patch_hw[1] * self.stem_stride

    def grid_of(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Patches `(rows, columns)` of an image of `image_hw` pixels; a remainder is not seen."""
        # Every halving of the stem rounds up ("SAME" padding), and so does one division by all.
        cells = (-(-side // self.stem_stride) for side in image_hw)
        rows, columns = (side // patch for side, patch in zip(cells, self.patch_hw, strict=True))
        return rows, columns

    @property
    def num_labels(self) -> int:
        """Number of labels; set to another one, they lose their names."""
        return len(self.id2label or {})

    @num_labels.setter
    def num_labels(self, num_labels: int):
        unnamed = default_names(num_labels)
        if num_labels != self.num_labels:
            self.id2label, self.label2id = unnamed, indices_of(unnamed)

    # Validation, run by `@strict` at the end of the constructor and again when a model is built.

    def validate_sizes(self):
        """Checks the image, the patch and the channels."""
        for name, pair in (("image_size", self.image_hw), ("patch_size", self.patch_hw)):
            if len(pair) != 2 or min(pair) < 1:
                raise ValueError(
                    f"got {name}={getattr(self, name)!r}, "
                    "allowed: a positive int or (height, width)"
                )
        height, width = self.pixels_per_patch
        if self.image_hw[0] < height or self.image_hw[1] < width:
            cells = self.stem_blocks is not None
            raise ValueError(
                f"got image_size={self.image_size} and patch_size={self.patch_size}, which leave "
                f"no patch: a patch stands for {height}x{width} pixels"
                + (", as it counts cells of the stem's feature map" if cells else "")
            )
        widths = ("num_channels", "hidden_size", "num_attention_heads", "intermediate_size")
        require_at_least(self, 1, *widths, "num_hidden_layers")
        require_at_least(self, 0, "num_register_tokens")

    def validate_encoder(self):
        """Checks the encoder's widths, rates, epsilons and activation."""
        if self.hidden_size % self.num_attention_heads:
            heads = [n for n in range(1, self.hidden_size + 1) if self.hidden_size % n == 0]
            closest = min(heads, key=lambda n: abs(n - self.num_attention_heads))
            raise ValueError(
                f"got num_attention_heads={self.num_attention_heads}, which does not divide "
                f"hidden_size={self.hidden_size}; the nearest that does is {closest}"
            )
        for name in RATES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)}, allowed: 0 <= {name} < 1")
        for name in ("layer_norm_eps", "stem_norm_eps", "stem_weight_eps", "initializer_range"):
            if not getattr(self, name) > 0:
                raise ValueError(f"got {name}={getattr(self, name)}, allowed: a number above 0")
        if self.hidden_act not in ACT2FN:
            raise ValueError(
                f"got hidden_act={self.hidden_act!r}, allowed: "
                f"{', '.join(ACT2FN)}.{nearest(self.hidden_act, ACT2FN)}"
            )
        if self.representation_size is not None:
            require_at_least(self, 1, "representation_size")

    def validate_numbers(self):
        """Checks that no number is infinite or none."""
        for field in fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, field.name)
            if isinstance(value, float) and not abs(value) < float("inf"):
                raise ValueError(f"got {field.name}={value}, allowed: a finite number")

    def validate_positions(self):
        """Checks that the position embedding, its placement and its reach go together."""
        kind = self.position_embedding
        if kind == "none" and self.position_embedding_placement != "stem":
            raise ValueError(
                f"got position_embedding='none' with position_embedding_placement="
                f"{self.position_embedding_placement!r}: there is nothing to place. Allowed: 'stem'"
            )
        if kind == "learned_2d" and self.hidden_size % 2:
            raise ValueError(
                f"got hidden_size={self.hidden_size}; "
                "position_embedding='learned_2d' needs an even one"
            )
        if kind == "sincos_2d" and (self.hidden_size % 4 or self.hidden_size < 8):
            raise ValueError(
                f"got hidden_size={self.hidden_size}; "
                "position_embedding='sincos_2d' needs a multiple of 4, at least 8"
            )
        if self.prefix_position_embedding and (kind != "learned_1d" or not self.num_prefix_tokens):
            raise ValueError(
                "got prefix_position_embedding=True, which needs position_embedding='learned_1d' "
                f"and a class or register token; got position_embedding={kind!r} and "
                f"{self.num_prefix_tokens} such tokens; set prefix_position_embedding=False, which "
                "a configuration that was made with such a table has as True"
            )

    def validate_patch_dropout(self):
        """Checks that the model can do with some of the patches."""
        if self.patch_dropout_rate == 0:
            return
        got = None
        if self.position_embedding_placement != "stem":
            got = f"position_embedding_placement={self.position_embedding_placement!r}"
        elif self.position_embedding == "relative":
            got = "position_embedding='relative'"
        elif self.pooling == "none":
            got = "pooling='none'"
        if got is not None:
            raise ValueError(
                f"got patch_dropout_rate={self.patch_dropout_rate} with {got}, which needs every "
                "patch in every layer; allowed: patch_dropout_rate=0, or absolute positions at the "
                "stem and one vector an image"
            )

    def validate_pooling(self):
        """Checks that what is pooled exists."""
        if self.pooling == "cls" and not self.class_token:
            raise ValueError(
                "got pooling='cls' with class_token=False; "
                "allowed without one: 'gap', 'map', 'none'"
            )

    def validate_stem(self):
        """Checks the hybrid's stem."""
        if self.stem_blocks is None:
            return
        if any(blocks < 1 for blocks in self.stem_blocks):
            raise ValueError(
                f"got stem_blocks={self.stem_blocks}, allowed: a list of positive ints, [] or None"
            )
        if self.stem_width < 32 or self.stem_width % 32:
            raise ValueError(
                f"got stem_width={self.stem_width}, allowed: a multiple of 32, as GroupNorm has "
                f"32 groups; the nearest is {max(32, round(self.stem_width / 32) * 32)}"
            )

    def validate_loss(self):
        """Checks that one loss is named, not two."""
        if self.classification_loss == "sigmoid" and self.problem_type is not None:
            raise ValueError(
                f"got classification_loss='sigmoid' with problem_type={self.problem_type!r}, which "
                "names another loss; give one of them: classification_loss='softmax' with a "
                "problem_type, or problem_type=None"
            )

    def validate_labels(self):
        """Checks that every logit has one name."""
        check_indices(self.id2label or {})

    def validate_corruption(self):
        """Checks the shares of masked patch prediction (B.1.2)."""
        if not 0 < self.corruption_ratio <= 1:
            raise ValueError(
                f"got corruption_ratio={self.corruption_ratio}, allowed: 0 < corruption_ratio <= 1"
            )
        mix = self.corruption_mix
        if not (len(mix) == 3 and min(mix) >= 0 and abs(sum(mix) - 1) <= 1e-6):  # not for NaN
            raise ValueError(
                f"got corruption_mix={mix}, allowed: three shares that sum to 1 (mask token, "
                "another patch, unchanged)"
            )

    def validate_output_attentions(self):
        """Allows `output_attentions` under every attention backend, not eager alone."""

    @property
    def output_attentions(self) -> bool | None:
        """Whether forward returns the attention maps; works under every attention backend."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool | None):
        self._output_attentions = value

    # Names

    @classmethod
    def refuse_unknown_names(cls, names):
        """Raises a `ValueError` for names that are no setting, with the nearest that is."""
        settings = [field.name for field in fields(cls)]
        for name in names:
            if not is_known(name, settings):
                own = sorted(set(settings) - {field.name for field in fields(PreTrainedConfig)})
                raise ValueError(
                    f"got {name!r}, which is not a setting of "
                    f"{cls.__name__}.{nearest(name, settings)} Its settings are: {', '.join(own)}"
                )

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Builds a configuration from a `config.json`.

        Settings in it that are unknown are said and left out, not refused: another version of
        transformers may have written them.
        """
        settings = [field.name for field in fields(cls)]
        for name in [name for name in config_dict if not is_known(name, settings)]:
            logger.warning(
                f"{cls.__name__} has no setting {name!r}; it is left out.{nearest(name, settings)}"
            )
            config_dict = {key: value for key, value in config_dict.items() if key != name}
        if not kwargs.get("return_unused_kwargs"):  # those unused are otherwise another's to judge
            cls.refuse_unknown_names(kwargs)
        config_dict, num_labels = dict(config_dict), kwargs.pop("num_labels", None)
        given = {name: kwargs.pop(name, None) for name in ("id2label", "label2id")}
        if any(names is not None for names in given.values()):
            config_dict |= {"id2label": named_labels(num_labels, **given)}
        if config_dict.get("id2label") is not None:
            config_dict["label2id"] = None  # its inverse, which may be that of other names
        built = super().from_dict(config_dict, **kwargs)
        config = built[0] if isinstance(built, tuple) else built
        if num_labels is not None:
            config.num_labels = num_labels
        config.validate()
        return built


def as_pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """Returns `(height, width)` of a size given as an int or as a pair."""
    return (size, size) if isinstance(size, int) else tuple(size)  # pyright: ignore[reportReturnType]


def require_at_least(config: VisionTransformerConfig, minimum: int, *names: str):
    """Raises a `ValueError` where one of the named settings is below `minimum`."""
    for name in names:
        if getattr(config, name) < minimum:
            raise ValueError(f"got {name}={getattr(config, name)}, allowed: {minimum} or more")


__all__ = ["VisionTransformerConfig"]
