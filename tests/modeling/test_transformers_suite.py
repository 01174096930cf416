# SPDX-License-Identifier: Apache-2.0
"""transformers' own common model tests, run on ours.

They live in transformers' repository, not in its wheel. Check out the release that is installed
and say where, in `TRANSFORMERS_CHECKOUT=../transformers`, before
`pytest -o addopts= tests/modeling/test_transformers_suite.py`.
"""

import os
import sys
import unittest
from pathlib import Path

import pytest
import torch

CHECKOUT = os.environ.get("TRANSFORMERS_CHECKOUT")
if not CHECKOUT:
    pytest.skip("TRANSFORMERS_CHECKOUT names no checkout of transformers", allow_module_level=True)
os.environ.setdefault("TRANSFORMERS_TEST_DEVICE", "cpu")
sys.path.insert(0, str(Path(CHECKOUT).resolve()))
for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
    del sys.modules[name]  # pytest's names for our folders, which are also the checkout's

from tests.test_configuration_common import ConfigTester  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin, floats_tensor  # noqa: E402
from tests.test_pipeline_mixin import PipelineTesterMixin  # noqa: E402

from vit_hf import (  # noqa: E402
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)

pytestmark = pytest.mark.slow


class VisionTransformerModelTester:
    """Makes the small configuration and inputs that the common tests run on."""

    batch_size, image_size, patch_size, num_channels, num_labels = 13, 30, 2, 3, 10
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size = 32, 2, 4, 37
    is_training = True
    attn_implementation = "eager"

    def __init__(self, parent):
        self.parent = parent
        self.mask_length = (self.image_size // self.patch_size) ** 2
        self.seq_length = self.mask_length + 1
        self.num_masks = self.mask_length // 2

    def get_config(self, **settings) -> VisionTransformerConfig:
        return VisionTransformerConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            attn_implementation=self.attn_implementation,
            **settings,
        )

    def pixel_values(self, num_channels=3):
        return floats_tensor([self.batch_size, num_channels, self.image_size, self.image_size])

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": self.pixel_values()}


class VisionTransformerModelTest(ModelTesterMixin, PipelineTesterMixin, unittest.TestCase):
    """The common tests; those below them stand in for the ones that each model's own file holds."""

    all_model_classes = (
        VisionTransformerModel,
        VisionTransformerForImageClassification,
        VisionTransformerForMaskedPatchPrediction,
    )
    pipeline_model_mapping = {
        "image-feature-extraction": VisionTransformerModel,
        "image-classification": VisionTransformerForImageClassification,
    }
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = VisionTransformerModelTester(self)
        self.config_tester = ConfigTester(
            self, config_class=VisionTransformerConfig, has_text_modality=False, hidden_size=48
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        batch_size = inputs["pixel_values"].shape[0]
        if return_labels and model_class is VisionTransformerForImageClassification:
            inputs["labels"] = torch.arange(batch_size) % 2
        if return_labels and model_class is VisionTransformerForMaskedPatchPrediction:
            inputs["bool_masked_pos"] = (torch.arange(self.model_tester.seq_length - 1) % 2).repeat(
                batch_size, 1
            )
        return inputs

    def test_training(self):
        self.all_model_classes = self.all_model_classes[1:]  # the encoder alone has no loss
        super().test_training()

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs=None):
        self.all_model_classes = self.all_model_classes[1:]
        super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)

    def test_config(self):
        self.config_tester.run_common_tests()

    @unittest.skip(reason="images have no inputs_embeds")
    def test_inputs_embeds(self):
        pass

    def test_model_get_set_embeddings(self):
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIs(
                model.get_input_embeddings(), model.base_model.embeddings.patch_embeddings
            )
            self.assertIsNone(model.get_output_embeddings())

    def test_model(self):
        tester = self.model_tester
        outputs = VisionTransformerModel(tester.get_config()).eval()(tester.pixel_values())
        self.assertEqual(
            outputs.last_hidden_state.shape,
            (tester.batch_size, tester.seq_length, tester.hidden_size),
        )

    def test_for_image_classification(self):
        tester = self.model_tester
        for num_channels in (3, 1):
            config = tester.get_config(num_labels=tester.num_labels, num_channels=num_channels)
            logits = (
                VisionTransformerForImageClassification(config)
                .eval()(tester.pixel_values(num_channels))
                .logits
            )
            self.assertEqual(logits.shape, (tester.batch_size, tester.num_labels))

    def test_for_masked_image_modeling(self):
        tester = self.model_tester
        for num_channels in (3, 1):
            model = VisionTransformerForMaskedPatchPrediction(
                tester.get_config(num_channels=num_channels)
            ).eval()
            picture = model(tester.pixel_values(num_channels)).to_picture(
                (tester.image_size, tester.image_size)
            )
            self.assertEqual(
                picture.shape,
                (tester.batch_size, num_channels, tester.image_size, tester.image_size),
            )
