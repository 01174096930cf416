# SPDX-License-Identifier: Apache-2.0
"""The `evaluate` library's own evaluator on our pipelines, where there is no network."""

import evaluate
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from transformers import pipeline

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.converters.image_processors import authors_processor
from vit_hf.evaluation import TopKAccuracy

NAMES = ["dark", "light"]


@pytest.fixture(autouse=True)
def without_network(monkeypatch):
    """Whoever asks for a connection gets an error at once."""

    def refuse(*args, **kwargs):
        raise ConnectionError("this test has no network")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.fixture
def folder(tmp_path):
    """A classifier by brightness, in a folder."""
    config = VisionTransformerConfig(
        image_size=8,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        id2label=dict(enumerate(NAMES)),
        label2id={name: index for index, name in enumerate(NAMES)},
    )
    torch.manual_seed(0)
    model = VisionTransformerForImageClassification(config).eval()
    with torch.no_grad():
        light, dark = (model.vit(torch.full((1, 3, 8, 8), x)).pooler_output[0] for x in (1.0, -1.0))
        model.classifier.weight[1] = light - dark
        model.classifier.bias[1] = -(light - dark) @ (light + dark) / 2
    model.save_pretrained(tmp_path)
    authors_processor(config).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.fixture
def images():
    """Five light images, of which one is called dark, and three dark ones."""
    pixels = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (250,) * 5 + (5,) * 3]
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"image": pixels, "label": [1] * 4 + [0] * 4}, features=features)


def test_a_pipeline_of_ours_without_a_metric(folder, images):
    pipe = pipeline("image-classification", model=folder)
    result = evaluate.evaluator("image-classification").compute(pipe, images)
    assert result["accuracy"] == 7 / 8 and result["samples_per_second"] > 0


def test_a_folder_with_a_metric_and_intervals(folder, images):
    result = evaluate.evaluator("image-classification").compute(
        folder,
        images,
        metric=TopKAccuracy(),
        label_mapping={"dark": 1, "light": 0},  # turned round
        strategy="bootstrap",
        n_resamples=50,
        random_state=0,
    )
    accuracy = result["accuracy"]
    assert accuracy["score"] == 1 / 8
    assert accuracy["confidence_interval"][0] <= 1 / 8 <= accuracy["confidence_interval"][1]


def test_pipelines_of_other_tasks_are_refused(folder, images):
    pipe = pipeline("image-feature-extraction", model=folder)
    with pytest.raises(ValueError, match="got a pipeline of the task 'image-feature-extraction'"):
        evaluate.evaluator("image-classification").compute(pipe, images)
