# SPDX-License-Identifier: Apache-2.0
"""The classification losses, and what accumulated batches make of every loss."""

import pytest
import torch
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from vit_hf import VisionTransformerForImageClassification as Classifier
from vit_hf import VisionTransformerForMaskedPatchPrediction as Predictor

LOSSES = [
    {"classification_loss": "softmax"},
    {"classification_loss": "sigmoid"},
    {"problem_type": "single_label_classification"},
    {"problem_type": "multi_label_classification"},
    {"problem_type": "regression"},
]
TARGETS = ["mean_color", "downsampled_color", "raw_pixels"]
NUM_LABELS = 5


def soft_labels(batch: int) -> torch.Tensor:
    """Returns shares `(B, K)` that sum to 1, as mixing makes them."""
    generator = torch.Generator().manual_seed(2)
    return torch.rand(batch, NUM_LABELS, generator=generator).softmax(-1)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_indices_and_one_hot_shares_are_equal(build, images, loss):
    model = build(Classifier, num_labels=NUM_LABELS, classification_loss=loss)
    index = torch.tensor([3, 0, 4])
    one_hot = functional.one_hot(index, NUM_LABELS)
    by_index = model(images(3), labels=index).loss
    for labels in (one_hot, one_hot.float(), one_hot.half(), index.int()):
        torch.testing.assert_close(model(images(3), labels=labels).loss, by_index)


@torch.no_grad()
def test_losses_against_their_definitions(build, images):
    labels, index = soft_labels(3), torch.tensor([3, 0, 4])
    model = build(Classifier, num_labels=NUM_LABELS)
    logits = model(images(3)).logits
    softmax = -(labels * logits.log_softmax(-1)).sum(-1).mean()
    binary = -(labels * logits.sigmoid().log() + (1 - labels) * (-logits).sigmoid().log())
    expected = {
        "softmax": softmax,
        "sigmoid": binary.sum(-1).mean(),
        "multi_label_classification": binary.mean(),
        "regression": (logits - labels).square().mean(),
    }
    for name, value in expected.items():
        is_own = name in ("softmax", "sigmoid")
        settings = {"classification_loss" if is_own else "problem_type": name}
        other = build(Classifier, num_labels=NUM_LABELS, **settings)
        torch.testing.assert_close(other(images(3), labels=labels).loss, value)
    torch.testing.assert_close(
        model(images(3), labels=index).loss, functional.cross_entropy(logits, index)
    )


def test_regression_onto_one_number(build, images):
    model = build(Classifier, num_labels=1, problem_type="regression")
    for labels in (torch.tensor([0.5, 2.0]), torch.tensor([[0.5], [2.0]])):
        outputs = model(images(), labels=labels)
        torch.testing.assert_close(
            outputs.loss, (outputs.logits.flatten() - labels.flatten()).square().mean()
        )


def test_softmax_of_one_number_is_a_regression(build, images):
    labels = torch.tensor([[0.5], [2.0]])
    outputs = build(Classifier, num_labels=1)(images(), labels=labels)
    torch.testing.assert_close(outputs.loss, (outputs.logits - labels).square().mean())


def test_labels_for_every_token(build, images):
    model = build(Classifier, num_labels=NUM_LABELS, pooling="none")
    labels = torch.arange(32).view(2, 16) % NUM_LABELS
    outputs = model(images(), labels=labels)
    assert outputs.logits.shape == (2, 16, NUM_LABELS)
    torch.testing.assert_close(
        outputs.loss, functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())
    )


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(2, 4), r"labels of shape \(2, 4\).*\(2,\).*\(2, 5\)"),
        (torch.zeros(3).long(), r"labels of shape \(3,\)"),
        (torch.zeros(2), "float32.*as integers"),
        (torch.tensor([0, 5]), "got the label 5.*0 ... 4"),
        (torch.tensor([-1, 0]), "got the label -1"),
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_wrong_labels(build, images, loss, labels, words):
    model = build(Classifier, num_labels=NUM_LABELS, classification_loss=loss)
    with pytest.raises(ValueError, match=words):
        model(images(), labels=labels)


def test_wrong_numbers_of_values(build, images):
    model = build(Classifier, num_labels=NUM_LABELS, problem_type="regression")
    with pytest.raises(ValueError, match=r"labels of shape \(2, 3\)"):
        model(images(), labels=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"labels of shape \(5, 2\)"):
        model(images(), labels=torch.zeros(NUM_LABELS, 2))


def gradients(model, batches) -> torch.Tensor:
    """Returns the mean over `batches` of the loss's gradients, in one vector."""
    model.zero_grad()
    for batch in batches:
        (model(**batch).loss / len(batches)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def split(batch: dict, num_parts: int) -> list[dict]:
    """Returns the batch in parts of one size."""
    parts = [value.chunk(num_parts) for value in batch.values()]
    return [dict(zip(batch, values, strict=True)) for values in zip(*parts, strict=True)]


@pytest.mark.parametrize("settings", LOSSES, ids=str)
@pytest.mark.parametrize("num_parts", [2, 4, 8])
def test_parts_average_to_the_gradient_of_the_whole(build, images, settings, num_parts):
    model = build(Classifier, num_labels=NUM_LABELS, **settings)
    batch = {"pixel_values": images(8), "labels": soft_labels(8)}
    whole = gradients(model, [batch])
    torch.testing.assert_close(
        gradients(model, split(batch, num_parts)), whole, atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize("target", TARGETS)
def test_parts_of_masked_images_average_too(build, images, target):
    # The images have different numbers of corrupted patches.
    model = build(Predictor, prediction_target=target)
    mask = (
        torch.rand(8, 16, generator=torch.Generator().manual_seed(5))
        < torch.arange(1, 9)[:, None] / 9
    )
    batch = {"pixel_values": images(8), "bool_masked_pos": mask}
    whole = gradients(model, [batch])
    torch.testing.assert_close(gradients(model, split(batch, 4)), whole, atol=1e-6, rtol=1e-4)


class Rows(torch.utils.data.Dataset):
    """A batch, row by row."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch["pixel_values"])

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.batch.items()}


@pytest.mark.parametrize(
    ("model_class", "settings"),
    [
        pytest.param(Classifier, LOSSES[0], marks=pytest.mark.slow),
        (Classifier, LOSSES[1]),
        (Predictor, {"prediction_target": "mean_color"}),
        pytest.param(Predictor, {"prediction_target": "downsampled_color"}, marks=pytest.mark.slow),
        pytest.param(Predictor, {"prediction_target": "raw_pixels"}, marks=pytest.mark.slow),
    ],
)
def test_trainer_takes_the_same_step_however_it_accumulates(
    build, images, tmp_path, model_class, settings
):
    batch = {"pixel_values": images(8)}
    if model_class is Classifier:
        batch["labels"] = torch.arange(8) % NUM_LABELS
        settings = {**settings, "num_labels": NUM_LABELS}
    else:
        batch["bool_masked_pos"] = (
            torch.rand(8, 16, generator=torch.Generator().manual_seed(5)) < 0.5
        )
    reached = []
    for num_parts in (1, 4):
        model = build(model_class, **settings)
        arguments = TrainingArguments(
            output_dir=tmp_path,
            max_steps=2,
            per_device_train_batch_size=8 // num_parts,
            gradient_accumulation_steps=num_parts,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        Trainer(model=model, args=arguments, train_dataset=Rows(batch)).train()
        reached.append(torch.cat([value.flatten() for value in model.state_dict().values()]))
    start = torch.cat(
        [value.flatten() for value in build(model_class, **settings).state_dict().values()]
    )
    assert (reached[0] - start).abs().max() > 1e-3
    torch.testing.assert_close(reached[0], reached[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "gap", "map", "none"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"class_token": True, "num_register_tokens": 2, "representation_size": 16},
        {"position_embedding": "relative"},
        {"position_embedding": "learned_2d", "position_embedding_placement": "every_layer"},
        {"stem_blocks": [1], "stem_width": 32, "patch_size": 2},
        {"qk_norm": True, "layer_scale_init_value": 0.1, "pre_encoder_norm": True},
        {"final_norm": "pooled"},
    ],
    ids=str,
)
def test_every_parameter_is_reached_by_the_loss(build, images, pooling, settings):
    model = build(Classifier, num_labels=NUM_LABELS, **{**settings, "pooling": pooling}).train()
    logits = model(images()).logits
    labels = (torch.arange(logits[..., 0].numel()) % NUM_LABELS).view(logits.shape[:-1])
    model(images(), labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # The class token has no offset, so what the last layer's relative keys do it does not see.
        is_unseen = pooling == "cls" and name == "vit.positions.1.keys"
        assert parameter.grad.any() != is_unseen, name
