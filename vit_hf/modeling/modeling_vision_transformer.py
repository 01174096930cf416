# SPDX-License-Identifier: Apache-2.0
"""The Vision Transformer: the encoder, the image classifier, the masked patch predictor.

Dosovitskiy et al., 2020, section 3.1. An image's way: patches and prefix tokens, positions, encoder
layers, final norm, pooling, head.

Shapes: `B` batch, `C` channels, `H` and `W` height and width of the image, `N` patches,
`T` tokens, `D` width, `A` heads, `R` width of the representation, `K` classes.
"""

import copy
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack  # pyright: ignore[reportPrivateImportUsage]
from transformers.utils import logging
from transformers.utils.generic import (
    TransformersKwargs,
    can_return_tuple,
    merge_with_config_defaults,
)
from transformers.utils.output_capturing import capture_outputs

from .checkpoint_geometry import load_pretrained
from .configuration_vision_transformer import VisionTransformerConfig
from .dense import Dense
from .embeddings import VisionTransformerEmbeddings
from .encoder import VisionTransformerAttention, VisionTransformerLayer
from .filled_in import filled_in
from .freed_memory import keep_freed_memory
from .hooks import has_hooks_within, is_traced
from .labels import indices_of, named_labels
from .losses import classification_loss
from .patch_dropout import PatchDropout
from .patch_targets import TARGETS, MaskedPatchPredictionOutput, check_pixel_range
from .pooling import VisionTransformerPooler
from .positions import Positions

logger = logging.get_logger(__name__)

# Of a standard normal that is cut off at -2 and 2, as jax's initialisers correct for.
DEVIATION_OF_TRUNCATED_NORMAL = 0.87962566103423978
Size = int | tuple[int, int]  # in pixels, `(height, width)`


class VisionTransformerPreTrainedModel(PreTrainedModel):
    """What all Vision Transformers share: initialisation, loading at another geometry, resizing."""

    config: VisionTransformerConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # pyright: ignore[reportAssignmentType]
    supports_gradient_checkpointing = True
    # The Trainer then averages over accumulated batches; the losses are means over images.
    accepts_loss_kwargs = False
    _no_split_modules = ["VisionTransformerEmbeddings", "VisionTransformerLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": VisionTransformerLayer,
        "attentions": VisionTransformerAttention,
    }
    _input_embed_layer = "patch_embeddings"
    # The head of another task is left behind without a word; a missing one is still told.
    _keys_to_ignore_on_load_unexpected = [
        r"(^|\.)mask_token$",
        r"^prediction_head\.",
        r"^classifier\.",
    ]

    def __init__(self, config: VisionTransformerConfig):
        config.validate()
        super().__init__(config)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """Loads a checkpoint, on request at another size or with other labels.

        Any setting of the configuration may be given as a keyword: `image_size` and `patch_size`
        resample the position tables and resize the patch projection (FlexiViT), other labels
        (`num_labels`, `id2label`) get a fresh zero head. Each is logged, none needs
        `ignore_mismatched_sizes`. The other arguments are those of transformers.

        Raises:
            ValueError: for an unknown setting, or a checkpoint of another model type.
        """
        load, path = super().from_pretrained, pretrained_model_name_or_path
        config_class = cls.config_class or VisionTransformerConfig
        return load_pretrained(load, config_class, path, *model_args, config=config, **kwargs)

    def _config_at(self, image_size: Size, patch_size: Size | None) -> VisionTransformerConfig:
        wanted = copy.deepcopy(self.config)
        wanted.image_size = image_size
        wanted.patch_size = self.config.patch_size if patch_size is None else patch_size
        wanted.validate()
        return wanted

    def set_image_size(self, image_size: Size, *, patch_size: Size | None = None):
        """Makes `image_size` the native one: resamples the position tables to its grid, in place.

        Args:
            image_size: pixels, an int or `(height, width)`.
            patch_size: also resizes the patch projection, by FlexiViT's pseudo-inverse resize.

        Raises:
            ValueError: where the sizes leave no patch; the model stays as it was.
        """
        config, wanted = self.config, self._config_at(image_size, patch_size)
        old_grid, old_patch = config.grid, config.patch_hw
        config.image_size, config.patch_size = wanted.image_size, wanted.patch_size
        encoder = cast(VisionTransformerModel, self.base_model)
        encoder.embeddings.patch_embeddings.resize_patches(config.patch_hw)
        encoder.positions.resize(config.grid)
        if old_patch != config.patch_hw:
            logger.warning(f"Resized the patch projection from {old_patch} to {config.patch_hw}.")
        if old_grid != config.grid and any(True for _ in encoder.positions.parameters()):
            logger.warning(
                f"Resampled the position embeddings from the grid {old_grid} to {config.grid} "
                f"({config.position_embedding}, {config.interpolation})."
            )
        elif old_grid != config.grid:
            logger.warning(
                f"There is no position table to resample from the grid {old_grid} to {config.grid} "
                f"({config.position_embedding})."
            )

    def pack_weights(self):
        """Makes inference on a CPU faster, in place: keeps the encoder's weights packed too.

        Packed weights are used where no gradients are asked for and they are faster on this
        processor. They take as much memory as the encoder's weights once more, from their first
        use; the parameters, their names and what is saved stay the same.
        Weights that change are packed anew at the next call (a change behind PyTorch's back,
        through `parameter.data`, is not noticed: call this again). What a pass frees is kept for
        the next one, see `keep_freed_memory`.

        Raises:
            ValueError: for weights that are not on a CPU, or neither float32 nor bfloat16.
        """
        for module in self.modules():
            if isinstance(module, Dense):
                module.pack()
        keep_freed_memory()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func=checkpoint, **kwargs
    ):
        """Takes `layers_per_segment` of `gradient_checkpointing_kwargs` beside what PyTorch does;
        see `VisionTransformerModel.checkpoint_segments`.
        """
        settings = dict(getattr(gradient_checkpointing_func, "keywords", {}))
        layers_per_segment = settings.pop("layers_per_segment", None)
        if layers_per_segment is not None:
            if settings.setdefault("use_reentrant", False):
                raise ValueError(
                    "got layers_per_segment with use_reentrant=True, allowed: use_reentrant=False"
                )
            gradient_checkpointing_func = partial(gradient_checkpointing_func.func, **settings)
        cast(VisionTransformerModel, self.base_model).checkpoint_segments(layers_per_segment)
        super()._set_gradient_checkpointing(
            enable=enable, gradient_checkpointing_func=gradient_checkpointing_func, **kwargs
        )

    def unpack_weights(self):
        """Lets go of the packed weights of `pack_weights`."""
        for module in self.modules():
            if isinstance(module, Dense):
                module.unpack()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """The initialisation of the authors' code, where it differs from torch's."""
        if isinstance(module, nn.Conv2d):  # LeCun-normal, truncated at two deviations
            deviation = module.weight[0].numel() ** -0.5 / DEVIATION_OF_TRUNCATED_NORMAL
            bounds = {"a": -2 * deviation, "b": 2 * deviation}
            init.trunc_normal_(module.weight, std=deviation, **bounds)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        # transformers skips modules that own no parameter, so `init_weights` is of those that do.
        if not isinstance(module, PreTrainedModel):
            getattr(module, "init_weights", lambda: None)()


class VisionTransformerModel(VisionTransformerPreTrainedModel):
    """The encoder: images to tokens and to one representation each.

    Args:
        config: the configuration.
        add_pooling_layer: whether to pool; the masked patch predictor does not, so that no
            parameter is left untrained.
        use_mask_token: whether there is a mask token; the masked patch predictor alone trains one.
    """

    def __init__(
        self,
        config: VisionTransformerConfig,
        add_pooling_layer: bool = True,
        use_mask_token: bool = False,
    ):
        super().__init__(config)
        width, depth, eps = config.hidden_size, config.num_hidden_layers, config.layer_norm_eps
        self.embeddings = VisionTransformerEmbeddings(config, use_mask_token=use_mask_token)
        self.positions = Positions(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.patch_dropout = PatchDropout(config)
        self.pre_layernorm = (
            nn.LayerNorm(width, eps=eps) if config.pre_encoder_norm else nn.Identity()
        )
        self.layers = nn.ModuleList(
            VisionTransformerLayer(
                config, drop_path_rate=config.drop_path_rate * layer / max(1, depth - 1)
            )
            for layer in range(depth)
        )
        self.layernorm = (
            nn.LayerNorm(width, eps=eps) if config.final_norm == "tokens" else nn.Identity()
        )
        self.pooler = VisionTransformerPooler(config) if add_pooling_layer else None
        self.layers_per_segment: int | None = None  # of gradient checkpointing
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        patch_replacement: torch.Tensor | None = None,
        pooled_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: `(B, C, H, W)`, of any size of at least one patch.
            bool_masked_pos: `(B, N)`, nonzero at corrupted patches; needs `use_mask_token`.
            patch_replacement: `(B, N)`, what stands at a corrupted patch: -1 the mask token,
                otherwise the place of the patch whose embedding it is. `None` is the mask token
                everywhere.
            pooled_only: leaves `last_hidden_state` out. The last layer then computes only the
                tokens that pooling reads, see `num_tokens_read`.
            **kwargs: `output_attentions`, `output_hidden_states`, `return_dict`, as in
                transformers.

        Returns:
            `last_hidden_state` `(B, T, D)`: class token, registers, patches (in training those that
            patch dropout keeps, in any order); `pooler_output` `(B, R)`, the representation that
            the head sees; `hidden_states` and `attentions` where asked for.

        Raises:
            ValueError: for another number of channels, an image smaller than one patch, and
                `pooled_only` of an encoder that does not pool.
        """
        if pooled_only and self.pooler is None:
            raise ValueError(
                "got pooled_only=True for an encoder without a pooling layer, which has nothing to "
                "return then; leave it out, or make the encoder with add_pooling_layer=True"
            )
        grid = self.embeddings.patch_embeddings.grid_of(pixel_values)
        for name in ("output_attentions", "output_hidden_states"):
            kwargs.setdefault(name, getattr(self.config, name))
        tokens = self.embeddings(pixel_values, bool_masked_pos, patch_replacement)  # (B, T, D)
        encode = partial(
            self.encode,
            grid=grid,
            num_outputs=self.num_tokens_read(**kwargs) if pooled_only else None,
            **kwargs,
        )
        depth = len(self.layers)
        if self.training and self.layers_per_segment is not None:
            for first in range(0, depth, self.layers_per_segment):
                segment = range(first, min(first + self.layers_per_segment, depth))
                tokens = checkpoint(encode, tokens, indices=segment, use_reentrant=False)
        else:
            tokens = encode(tokens, indices=range(depth))
        tokens = self.layernorm(tokens)
        return BaseModelOutputWithPooling(
            last_hidden_state=None if pooled_only else tokens,
            pooler_output=None if self.pooler is None else self.pooler(tokens),  # (B, R)
        )

    def encode(
        self,
        tokens: torch.Tensor,
        *,
        grid: tuple[int, int],
        indices: range,
        num_outputs: int | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Maps tokens `(B, T, D)` of patches `(rows, columns)` through the layers of some indices;
        before the first come the positions, dropout and the first norm. The last returns all
        tokens, or the first so many.
        """
        for index in indices:
            tokens, relative_keys = self.positions(tokens, grid, layer=index)
            if index == 0:
                tokens = self.pre_layernorm(self.dropout(self.patch_dropout(tokens)))
            is_last = index == len(self.layers) - 1
            tokens = self.layers[index](
                tokens, relative_keys, num_outputs=num_outputs if is_last else None, **kwargs
            )
        return tokens

    def num_tokens_read(self, **kwargs: Unpack[TransformersKwargs]) -> int | None:
        """Returns how many of the first tokens are all that is read behind the last layer, or
        `None` for all of them.

        A class token is pooled alone, and what the last layer makes of the others changes nothing:
        of its dense layers only keys and values need them. That is 7 % of B/16. All are computed
        where someone looks (hooks on the last layer or the final norm, hidden states or attention
        maps) and with relative positions, which belong to pairs of tokens.
        """
        num_read = getattr(self.pooler, "num_tokens_read", None)
        needs_all = (
            num_read is None
            or kwargs.get("output_attentions")
            or kwargs.get("output_hidden_states")
            or self.config.position_embedding == "relative"
            or has_hooks_within(self.layers[-1])
            or has_hooks_within(self.layernorm)
        )
        return None if needs_all else num_read

    def checkpoint_segments(self, layers_per_segment: int | None):
        """Has gradient checkpointing keep, in the forward pass, only what goes into each so many
        layers (Chen et al., 2016, arXiv 1604.06174, section 4.2).

        The backward pass makes what goes into each layer again, a segment at a time: with depth
        `L` and segments of about the root of `L` layers there are `2 sqrt(L)` tensors `(B, T, D)`
        at once instead of `L`, for a second more forward pass. `None` keeps one for each layer.

        Raises:
            ValueError: for a number that is not positive.
        """
        if layers_per_segment is not None and layers_per_segment < 1:
            raise ValueError(
                f"got layers_per_segment={layers_per_segment}, allowed: 1 and more; about the root "
                f"of the depth, here {round(len(self.layers) ** 0.5)}, takes the least memory"
            )
        self.layers_per_segment = layers_per_segment


class VisionTransformerForImageClassification(VisionTransformerPreTrainedModel):
    """The encoder with one linear layer on the representation, zero before it is trained (section
    3.2).
    """

    def __init__(self, config: VisionTransformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vit = VisionTransformerModel(config)
        self.classifier = self._new_classifier()
        self._head_is_checked = False
        self.post_init()

    def _new_classifier(self) -> nn.Module:
        width = self.config.representation_size or self.config.hidden_size
        return nn.Linear(width, self.config.num_labels) if self.config.num_labels else nn.Identity()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if module is self.classifier and isinstance(module, nn.Linear):
            init.zeros_(module.weight)
            init.constant_(module.bias, self.config.classifier_bias_init)

    def reset_classifier(self, num_labels: int | None = None, *, id2label: dict | None = None):
        """Puts in a fresh zero head, in place; its bias is `classifier_bias_init`.

        Args:
            num_labels: number of classes; 0 removes the head, so that logits are the
                representation.
            id2label: the classes' names, in place of `num_labels`.
        """
        if (num_labels is None) == (id2label is None):
            raise ValueError(
                f"got num_labels={num_labels} and id2label={id2label}; give one of them"
            )
        self.config.id2label = named_labels(num_labels, id2label)
        self.config.label2id = indices_of(self.config.id2label)
        self.num_labels = self.config.num_labels
        like = next(self.classifier.parameters(), next(self.vit.parameters()))
        self.classifier = self._new_classifier().to(device=like.device, dtype=like.dtype)
        self._init_weights(self.classifier)
        self._head_is_checked = False

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """Classifies images.

        Args:
            pixel_values: `(B, C, H, W)`, of any size of at least one patch.
            labels: class indices `(B,)`, or a share for each class `(B, K)`, as mixing makes.
            **kwargs: `output_attentions`, `output_hidden_states`, `return_dict`, as in
                transformers.

        Returns:
            `loss` `()` where labels are given, the mean over images; `logits` `(B, K)`, or
            `(B, T, K)` without pooling; `hidden_states` and `attentions` where asked for.
        """
        outputs = self.vit(pixel_values, pooled_only=True, return_dict=True, **kwargs)
        logits = self.classifier(outputs.pooler_output)  # (B, K)
        self._say_if_head_is_zero()
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        return ImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _say_if_head_is_zero(self):
        """Warns, once and outside training, that an all-zero head predicts nothing."""
        if self.training or self._head_is_checked or is_traced():
            return
        self._head_is_checked = True
        weight = getattr(self.classifier, "weight", None)
        if isinstance(weight, torch.Tensor) and not weight.is_meta and not weight.any():
            logger.warning(
                "The classification head is all zeros, so every image gets the same logits: "
                "fine-tune it, or load a checkpoint whose head is trained."
            )


class VisionTransformerForMaskedPatchPrediction(VisionTransformerPreTrainedModel):
    """The encoder with a linear layer that predicts corrupted patches (appendix B.1.2)."""

    def __init__(self, config: VisionTransformerConfig):
        super().__init__(config)
        if config.patch_dropout_rate:
            raise ValueError(
                f"got patch_dropout_rate={config.patch_dropout_rate} for masked patch prediction, "
                "which predicts every patch; allowed: 0. Set patch_dropout_rate=0"
            )
        self.vit = VisionTransformerModel(config, add_pooling_layer=False, use_mask_token=True)
        self.target = TARGETS[config.prediction_target](config)
        self.prediction_head = self._new_prediction_head()
        self._range_is_checked = False
        self.post_init()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if module is self.prediction_head and isinstance(module, nn.Linear):
            init.zeros_(module.weight)

    def _new_prediction_head(self) -> nn.Linear:
        return nn.Linear(self.config.hidden_size, torch.Size(self.target.shape).numel())

    def set_image_size(self, image_size: Size, *, patch_size: Size | None = None):
        """See `VisionTransformerPreTrainedModel`; a target of another shape gets a fresh head."""
        wanted = self._config_at(image_size, patch_size)
        old_shape, self.target = self.target.shape, TARGETS[wanted.prediction_target](wanted)
        super().set_image_size(image_size, patch_size=patch_size)
        if old_shape != self.target.shape:
            like = self.prediction_head.weight
            self.prediction_head = self._new_prediction_head().to(like.device, like.dtype)
            self._init_weights(self.prediction_head)
            logger.warning(
                f"Put in a fresh zero head: the patch size changes the prediction target's shape "
                f"from {tuple(old_shape)} to {tuple(self.target.shape)}."
            )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        patch_replacement: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedPatchPredictionOutput:
        """Predicts the target of every patch, and the loss on the corrupted ones.

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1], of any size of at least one patch.
            bool_masked_pos: `(B, N)`, nonzero at corrupted patches, on which the loss is taken.
                Alone it means that all of them become the mask token.
            patch_replacement: `(B, N)`, what stands at a corrupted patch: -1 the mask token,
                otherwise the place of the patch whose embedding it is (its own leaves it as it is).
            **kwargs: `output_attentions`, `output_hidden_states`, `return_dict`, as in
                transformers.

        Returns:
            A `MaskedPatchPredictionOutput`; `loss` is `None` without `bool_masked_pos`.

        Raises:
            ValueError: for `pixel_values` outside [-1, 1] where a loss is asked for, or masks of
                another grid.
        """
        grid = self.vit.embeddings.patch_embeddings.grid_of(pixel_values)
        outputs = self.vit(
            pixel_values, bool_masked_pos, patch_replacement, return_dict=True, **kwargs
        )
        patches = outputs.last_hidden_state[:, self.config.num_prefix_tokens :]
        logits = self.prediction_head(patches).unflatten(-1, self.target.shape)  # (B, N, *target)
        loss = None
        if bool_masked_pos is not None:
            self._check_range(pixel_values)
            corrupted = bool_masked_pos.to(torch.float32)  # (B, N)
            losses = self.target.losses(logits, pixel_values, grid) * corrupted
            loss = (losses.sum(1) / corrupted.sum(1).clamp(min=1)).mean()
        return self.target.output_class(
            loss=loss,
            logits=logits,
            grid=filled_in(grid, logits.device).repeat(logits.shape[0], 1),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _check_range(self, pixel_values: torch.Tensor):
        if self._range_is_checked or pixel_values.is_meta or is_traced():
            return
        check_pixel_range(pixel_values)
        self._range_is_checked = True  # once: it waits for the device


__all__ = [
    "VisionTransformerForImageClassification",
    "VisionTransformerForMaskedPatchPrediction",
    "VisionTransformerModel",
    "VisionTransformerPreTrainedModel",
]
