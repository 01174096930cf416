# SPDX-License-Identifier: Apache-2.0
"""What a classifier says of each image, and what is made of it: calibration, label sets, losses."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.data.transforms import normalize
from vit_hf.evaluation import (
    Predictions,
    StreamingAccuracy,
    TopClassesAndLosses,
    calibration_error,
    collect_predictions,
    label_set_hits,
    read_label_sets,
)
from vit_hf.evaluation.cost import Meter
from vit_hf.evaluation.intervals import by_bootstrap, of_share, over_seeds
from vit_hf.experiment.classifying import classes_of

NUM_CLASSES = 7


def build(**settings):
    torch.manual_seed(0)
    config = VisionTransformerConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=NUM_CLASSES,
        **settings,
    )
    model = VisionTransformerForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


def rows_of(num_images, unreadable=()):
    generator = np.random.default_rng(0)
    return [
        {
            "pixel_values": generator.integers(0, 256, (3, 8, 8), dtype=np.uint8),
            "labels": index % NUM_CLASSES,
            "is_undecodable": index in unreadable,
        }
        for index in range(num_images)
    ]


def collate(rows):
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {name: torch.from_numpy(values) for name, values in columns.items()}


def load(rows, batch_size=4):
    return DataLoader(rows, batch_size=batch_size, collate_fn=collate)


@torch.no_grad()
def logits_of(model, rows):
    return model(normalize(collate(rows)["pixel_values"])).logits


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_every_image_of_a_dataset(loss):
    model, rows = build(classification_loss=loss), rows_of(10, unreadable={3})
    found = collect_predictions(model, load(rows))
    logits, labels = logits_of(model, rows), torch.arange(10) % NUM_CLASSES
    assert torch.equal(found.top_classes, logits.topk(5).indices)
    assert found.labels.tolist() == [0, 1, 2, -1, 4, 5, 6, 0, 1, 2]
    probabilities = logits.softmax(1) if loss == "softmax" else logits.sigmoid()
    torch.testing.assert_close(found.confidences, probabilities.max(1).values)
    one_hot = torch.nn.functional.one_hot(labels, NUM_CLASSES).float()
    expected = {
        "softmax": torch.nn.functional.cross_entropy(logits, labels, reduction="none"),
        "sigmoid": torch.nn.functional.binary_cross_entropy_with_logits(
            logits, one_hot, reduction="none"
        ).sum(1),
    }[loss]
    expected[3] = 0
    torch.testing.assert_close(found.losses, expected)
    right = (logits.argmax(1) == labels) & (torch.arange(10) != 3)
    assert torch.equal(found.is_right(), right)
    assert found.is_right(5).sum() > right.sum() and not found.is_right(5)[3]


def test_a_name_of_two_classes_is_not_guessed():
    cranes = {0: "crane", 1: "heron", 2: "crane"}
    assert classes_of(["crane", "heron", "crane"], cranes) == [0, 1, 2]
    assert classes_of(["heron"], cranes) == [1]
    with pytest.raises(ValueError, match="the classes crane, each of which is the name of several"):
        classes_of(["crane", "heron"], cranes)


def test_classes_of_the_dataset_are_mapped_to_those_of_the_model():
    model, rows = build(), rows_of(10, unreadable={3})
    turned = [6, 5, 4, 3, 2, 1, 0]
    found = collect_predictions(model, load(rows), classes=turned)
    assert found.labels.tolist() == [6, 5, 4, -1, 2, 1, 0, 6, 5, 4]


def test_the_trainers_loss_is_over_the_images_that_can_be_read(tmp_path):
    model, rows = build(), rows_of(11, unreadable={2, 10})
    rows = [{**row, "labels": -1 if row.pop("is_undecodable") else row["labels"]} for row in rows]

    class Given(Trainer):  # -1 is kept from the model's own loss, as our trainer does
        def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
            labels = inputs["labels"].clone()
            pixels = normalize(inputs.pop("pixel_values"))
            inputs = {"pixel_values": pixels, "labels": labels.clamp(min=0)}
            loss, logits, _ = super().prediction_step(model, inputs, prediction_loss_only)
            return loss, logits, labels

    trainer = Given(
        model=model,
        args=TrainingArguments(
            str(tmp_path),
            per_device_eval_batch_size=4,
            batch_eval_metrics=True,
            report_to="none",
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        ),
        eval_dataset=rows,
        data_collator=collate,
        preprocess_logits_for_metrics=TopClassesAndLosses(model.config),
        compute_metrics=StreamingAccuracy(),
    )
    losses = [trainer.evaluate()["eval_loss"] for _ in range(2)]
    found = collect_predictions(model, load(rows, batch_size=3))
    expected = found.losses[found.is_readable].double().mean().item()
    assert losses == pytest.approx([expected] * 2, rel=1e-6)


def test_calibration_error_by_hand():
    # Two images in the bin (0.8, 0.8667], one right: |0.5 - 0.84|. One in the last: |1 - 0.99|.
    error = calibration_error(np.array([0.83, 0.85, 0.99]), np.array([1, 0, 1]))
    assert error == pytest.approx((2 * 0.34 + 0.01) / 3)
    # An edge belongs to the bin below it, zero to the first.
    apart = calibration_error(np.array([0.5, 0.9]), np.array([0, 1]), num_bins=2)
    assert apart == pytest.approx((0.5 + 0.1) / 2)
    assert calibration_error(np.array([0.0]), np.array([1])) == 1.0
    with pytest.raises(ValueError, match="no image"):
        calibration_error(np.array([]), np.array([]))
    with pytest.raises(ValueError, match=r"from 0\.5 to 1\.5"):
        calibration_error(np.array([0.5, 1.5]), np.array([0, 1]))


def test_a_calibrated_classifier_has_a_small_error():
    generator = np.random.default_rng(0)
    confidences = generator.uniform(0.3, 1, 20_000)
    is_right = generator.uniform(size=20_000) < confidences
    assert calibration_error(confidences, is_right) < 0.02
    assert calibration_error(confidences**0.5, is_right) > 0.1


def predictions(guesses, labels):
    guesses, zeros = torch.tensor(guesses).unsqueeze(1), torch.zeros(len(guesses))
    return Predictions(guesses, torch.tensor(labels), zeros, zeros)


def test_no_guess_is_not_right_about_an_unreadable_image():
    found = predictions([-1, -1, 2], [-1, 0, 2])  # -1 is what logits that are nan predict
    assert found.is_right().tolist() == [False, False, True]


def test_label_sets(tmp_path):
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[0, "dog"], [], ["cat"], [0], [2]]))
    classes = {"cat": 5, "dog": 6, "owl": 7, 0: 5, 1: 6, 2: 7}
    sets = read_label_sets(path, num_images=5, classes=classes)
    assert sets == [{5, 6}, set(), {5}, {5}, {7}]
    found = predictions([6, 6, 6, 5, 7], [5, 5, 5, -1, 7])  # the fourth could not be decoded
    assert label_set_hits(found, sets).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[[0], [1]]", "labels of 2 images for 3 images"),
        ('[[0], ["dgo"], []]', "label 'dgo' for image 1, allowed: 'cat'"),
        ("[[0], [true], []]", "label True for image 1"),
        ("[[0], [[1]], []]", r"label \[1\] for image 1"),
        ("[[], [], []]", "every image has no label"),
        ("[0, 1, 2]", "give a JSON list with a list of labels"),
        ('{"a": [0]}', "give a JSON list"),
        ("[[0],", "which is no JSON"),
    ],
)
def test_other_label_sets_are_refused(content, expected, tmp_path):
    path = tmp_path / "sets.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=expected):
        read_label_sets(path, num_images=3, classes={"cat": 0, 0: 0})


def test_intervals():
    wilson = of_share(8, 10)  # Brown, Cai and DasGupta 2001, equation 4
    assert (wilson.low, wilson.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert by_bootstrap(np.mean, np.array([1.0])) is None
    assert over_seeds(np.ones((3, 50))).low == 1
    # Three seeds that agree on the mean say nothing about other images.
    agreeing = over_seeds(np.tile([1.0, 0.0], (3, 50)))
    assert agreeing.high - agreeing.low == pytest.approx(2 * 1.959964 * 0.5 / 10)
    apart = over_seeds(np.stack([np.zeros(100), np.ones(100)]))
    assert (apart.low, apart.high) == (0, 1)
    values = np.random.default_rng(0).normal(size=400)
    drawn, reach = by_bootstrap(np.mean, values), 1.959964 * values.std() / 20
    assert drawn is not None
    expected = (values.mean() - reach, values.mean() + reach)
    assert (drawn.low, drawn.high) == pytest.approx(expected, abs=0.01)
    assert drawn == by_bootstrap(np.mean, values)


def test_a_meter_counts_the_models_time_alone():
    model, rows = build(), rows_of(10)
    meter = Meter(torch.device("cpu"))
    calls = []
    model.vit.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    collect_predictions(model, load(rows), around=meter.around)
    assert calls == [4, 4, 4, 4] and meter.num_images == 12  # warmed up by the first; filled up
    assert meter.images_per_second() == pytest.approx(12 / meter.seconds)


def test_the_peak_of_memory_begins_anew_with_each_meter():
    meter = Meter(torch.device("cpu"))
    before = meter.peak_memory_bytes()
    if before is None:
        pytest.skip("this system keeps no peak of a process's memory")
    block = torch.ones(2**26)  # 256 MiB, touched
    del block
    peak = meter.peak_memory_bytes()
    assert peak is not None and peak > before + 2**27
    again = Meter(torch.device("cpu")).peak_memory_bytes()
    assert again is not None and again < peak - 2**27
