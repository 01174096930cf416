# SPDX-License-Identifier: Apache-2.0
"""The few-shot evaluation against a plain ridge regression, and on one process against two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from vit_hf import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
    VisionTransformerModel,
)
from vit_hf.data.transforms import normalize
from vit_hf.evaluation import (
    collect_features,
    evaluate_few_shot,
    few_shot,
    few_shot_accuracy,
    mean_accuracies,
    representation,
)
from vit_hf.evaluation.few_shot import choose_shots, fit_least_squares

SMALL = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_dropout_prob": 0.5,
}


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small lose more to waiting threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(model_class, **settings):
    torch.manual_seed(0)
    return model_class(VisionTransformerConfig(**{**SMALL, **settings}))


def colored_rows(num_images, *, num_classes=3, seed=0):
    """Noisy images whose mean colour tells their class, as uint8."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(num_images):
        label = index % num_classes
        color = np.array([80, 128, 176])[(label + np.arange(3)) % 3]
        pixels = generator.normal(color[:, None, None], 60, (3, 8, 8)).clip(0, 255)
        rows.append({"pixel_values": pixels.astype(np.uint8), "labels": label})
    return rows


def collate(rows):
    return {
        "pixel_values": torch.from_numpy(np.stack([row["pixel_values"] for row in rows])),
        "labels": torch.tensor([row["labels"] for row in rows]),
        "is_undecodable": torch.tensor([row.get("is_undecodable", False) for row in rows]),
    }


def load(rows, batch_size=8, **settings):
    return DataLoader(rows, batch_size=batch_size, collate_fn=collate, **settings)


def features_of(num_images, *, width=10, num_classes=4, seed=0):
    """Random features around a centre for each class, one of them constant, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % num_classes
    centres = torch.randn(num_classes, width, generator=torch.Generator().manual_seed(9))
    features = 3 * (centres[labels] + torch.randn(num_images, width, generator=generator)) + 5
    features[:, 0] = 7
    return features, labels


def plain_ridge(features, labels, test_features, *, l2):
    """The same by the textbook: `(X'X + l2)^-1 X'Y` in float64, whatever the shapes."""
    mean, std = features.mean(0), features.std(0) + 1e-5
    inputs, test_inputs = (
        np.column_stack([(some - mean) / std, np.full(len(some), 100.0)])
        for some in (features, test_features)
    )
    targets = np.where(labels[:, None] == np.unique(labels), 1.0, -1.0)
    gram = inputs.T @ inputs + l2 * np.eye(inputs.shape[1])
    return test_inputs @ np.linalg.solve(gram, inputs.T @ targets)


@pytest.mark.parametrize("num_images", [4, 8, 10, 11, 12, 60])  # of 10 features and a constant
@pytest.mark.parametrize("l2", [1024.0, 1e-3])
def test_both_closed_forms_are_the_plain_ridge(num_images, l2):
    features, labels = features_of(num_images)
    test_features, _ = features_of(50, seed=1)
    classifier = fit_least_squares(features, labels, l2=l2)
    expected = plain_ridge(
        features.double().numpy(), labels.numpy(), test_features.double().numpy(), l2=l2
    )
    got = test_features.double() @ classifier.weight + classifier.bias
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6, atol=1e-6)
    assert classifier.classify(test_features).tolist() == expected.argmax(1).tolist()


def test_the_smaller_matrix_is_decomposed(monkeypatch):
    sizes = []
    solve = few_shot.solve_ridge
    monkeypatch.setattr(
        few_shot,
        "solve_ridge",
        lambda matrix, *a, **k: sizes.append(len(matrix)) or solve(matrix, *a, **k),
    )
    for num_images in (8, 10, 11, 60):
        fit_least_squares(*features_of(num_images))
    assert sizes == [8, 10, 11, 11]


def test_blocks_make_no_difference(monkeypatch):
    features, labels = features_of(60)
    whole = fit_least_squares(features, labels)
    monkeypatch.setattr(few_shot, "BLOCK_SIZE", 7)
    in_blocks = fit_least_squares(features, labels)
    torch.testing.assert_close(in_blocks.weight, whole.weight, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(in_blocks.bias, whole.bias, rtol=1e-10, atol=1e-12)


def test_shots_are_drawn_by_class_and_seed():
    labels = torch.randint(3, (90,), generator=torch.Generator().manual_seed(0)) * 2 + 4
    chosen = choose_shots(labels, shots=5, seed=0)
    assert chosen.shape == (3, 5) and len(chosen.unique()) == 15
    assert (labels[chosen] == torch.tensor([[4], [6], [8]])).all()
    assert torch.equal(chosen, choose_shots(labels, shots=5, seed=0))
    assert torch.equal(chosen[:, :2], choose_shots(labels, shots=2, seed=0))
    assert not torch.equal(chosen, choose_shots(labels, shots=5, seed=1))
    labels[chosen[:, 0]] = -1  # could not be decoded
    again = choose_shots(labels, shots=5, seed=0)
    assert torch.equal(again[:, :4], chosen[:, 1:])


@pytest.mark.parametrize(
    ("labels", "shots", "words"),
    [
        ([0] * 9 + [1] * 3 + [5] * 9, 4, "got 4 shots and images of 3 classes, only 3 of class 1"),
        ([0, 1, 0, 1], 0, "got 0 shots"),
        ([0, 0, 0], 1, "1 classes"),
        ([], 1, "0 classes"),
    ],
)
def test_a_class_with_too_few_images(labels, shots, words):
    with pytest.raises(ValueError, match=words):
        choose_shots(torch.tensor(labels, dtype=torch.long), shots=shots, seed=0)


def test_accuracy_from_features():
    train, test = features_of(400, width=40), features_of(300, width=40, seed=1)
    accuracies = [few_shot_accuracy(*train, *test, shots=n, seed=0) for n in (1, 5, 25)]
    assert 0.4 < accuracies[0] < accuracies[1] < accuracies[2] and accuracies[2] > 0.95
    assert accuracies[1] != few_shot_accuracy(*train, *test, shots=5, seed=1)
    features, labels = test
    labels[:100] = -1  # could not be decoded: wrong, in an unchanged denominator
    assert few_shot_accuracy(*train, features, labels, shots=25, seed=0) < 0.67


def test_a_test_class_without_training_images():
    train, (features, labels) = features_of(40), features_of(8, seed=1)
    labels[3] = 9
    with pytest.raises(ValueError, match="class 9"):
        few_shot_accuracy(*train, features, labels, shots=2, seed=0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "gap", "num_register_tokens": 2},
        {"pooling": "map", "representation_size": 12},
        {"final_norm": "pooled", "pooling": "gap"},
    ],
)
def test_the_representation_is_what_the_head_sees(settings):
    model = build(VisionTransformerForImageClassification, **settings).eval()
    seen = []
    model.classifier.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    pixel_values = torch.randn(2, 3, 8, 8)
    got = representation(model, pixel_values)
    assert not seen and not got.requires_grad  # the head is not computed
    model(pixel_values)
    assert torch.equal(got, seen[0])
    assert torch.equal(representation(model.vit, pixel_values), got)


def test_without_pooling_it_is_the_mean_of_the_patches():
    pixel_values = torch.randn(2, 3, 8, 8)
    masked = build(VisionTransformerForMaskedPatchPrediction, num_register_tokens=1).eval()
    tokens = masked.vit(pixel_values).last_hidden_state
    assert tokens.shape[1] == 2 + 4
    assert torch.equal(representation(masked, pixel_values), tokens[:, 2:].mean(1))
    unpooled = build(VisionTransformerModel, pooling="none", class_token=True).eval()
    tokens = unpooled(pixel_values).last_hidden_state
    assert tokens.shape[1] == 1 + 4
    assert torch.equal(representation(unpooled, pixel_values), tokens[:, 1:].mean(1))


@pytest.mark.parametrize("batch_size", [4, 32])  # the last batch is not full; neither is the first
def test_features_of_a_dataset(batch_size):
    rows = colored_rows(11)
    rows[4]["is_undecodable"] = True
    model = build(VisionTransformerForImageClassification).train()
    model.vit.layers[0].eval()
    modes = [module.training for module in model.modules()]
    features, labels = collect_features(model, load(rows, batch_size, shuffle=True))
    assert [module.training for module in model.modules()] == modes
    pixel_values = normalize(collate(rows)["pixel_values"])
    torch.testing.assert_close(features, representation(model.eval(), pixel_values))
    assert labels.tolist() == [0, 1, 2, 0, -1, 2, 0, 1, 2, 0, 1]
    floats = [
        {**row, "pixel_values": pixels} for row, pixels in zip(rows, pixel_values.numpy())
    ]  # normalised already
    again, _ = collect_features(model, load(floats, batch_size))
    torch.testing.assert_close(again, features)


def test_autocast_computes_in_another_type():
    model, loader = build(VisionTransformerForImageClassification), load(colored_rows(6))
    full, _ = collect_features(model, loader)
    half, _ = collect_features(model, loader, autocast=torch.bfloat16)
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "model_class",
    [VisionTransformerForImageClassification, VisionTransformerForMaskedPatchPrediction],
)
def test_a_model_from_its_images(model_class):
    rows, test_rows = colored_rows(60), colored_rows(90, seed=1)
    test_rows[0]["is_undecodable"] = True
    model = build(model_class).train()
    num_seen = []
    model.vit.register_forward_hook(lambda module, args, output: num_seen.append(len(args[0])))
    arguments = {"shots": (1, 5), "seeds": (0, 3), "l2": 512.0}
    result = evaluate_few_shot(model, load(rows), load(test_rows), **arguments)
    assert model.training
    assert sum(num_seen) < 60 + 96  # of the training images only those that were chosen
    train, test = (collect_features(model, load(some)) for some in (rows, test_rows))
    expected = {
        shots: [few_shot_accuracy(*train, *test, shots=shots, seed=s, l2=512.0) for s in (0, 3)]
        for shots in (1, 5)
    }
    assert result == expected
    assert 0.5 < result[5][0] < 1
    labels = [row["labels"] for row in rows]
    assert (
        evaluate_few_shot(model, load(rows), load(test_rows), train_labels=labels, **arguments)
        == result
    )
    assert mean_accuracies(result) == {
        "few_shot_1_accuracy": sum(result[1]) / 2,
        "few_shot_5_accuracy": sum(result[5]) / 2,
    }


def test_images_without_a_label_are_not_chosen():
    rows = colored_rows(12)
    for row in rows[:3]:
        row["is_undecodable"] = True
    model, test = build(VisionTransformerModel), load(colored_rows(6))
    evaluate_few_shot(model, load(rows), test, shots=(3,), seeds=(0,))
    with pytest.raises(ValueError, match="3 of class 0"):
        evaluate_few_shot(model, load(rows), test, shots=(4,), seeds=(0,))


def test_a_chosen_image_that_cannot_be_read_is_replaced_by_another():
    rows = colored_rows(24)
    for row in rows[:9]:
        row["is_undecodable"] = True
    model, labels = build(VisionTransformerModel), [row["labels"] for row in rows]
    arguments = {"train_labels": labels, "seeds": (0, 1)}
    test = load(colored_rows(60, seed=1))
    known = [-1 if row.get("is_undecodable") else row["labels"] for row in rows]
    expected = evaluate_few_shot(model, load(rows), test, train_labels=known, shots=(2, 5))
    assert expected == evaluate_few_shot(model, load(rows), test, shots=(2, 5))
    found = evaluate_few_shot(model, load(rows), test, **arguments, shots=(2, 5))
    assert found == {shots: values[:2] for shots, values in expected.items()}
    assert labels == [row["labels"] for row in rows]  # the caller's own
    with pytest.raises(ValueError, match="only 5 of class 0"):
        evaluate_few_shot(model, load(rows), test, **arguments, shots=(6,))


def test_wrong_labels_and_streams_are_refused():
    model, rows = build(VisionTransformerModel), colored_rows(12)
    test = load(rows)
    with pytest.raises(
        ValueError, match="training image 1 has the label 1, but train_labels has 2"
    ):
        labels = [0, 2, 1] * 4
        evaluate_few_shot(model, test, test, train_labels=labels, shots=(4,), seeds=(0,))

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(rows)

    with pytest.raises(ValueError, match="got a stream"):
        collect_features(model, load(Stream()))
    with pytest.raises(ValueError, match="0 images"):
        collect_features(model, load([]))
    with pytest.raises(ValueError, match="no labels"):
        loader = DataLoader(
            rows, collate_fn=lambda some: {"pixel_values": collate(some)["pixel_values"]}
        )
        collect_features(model, loader)
    with pytest.raises(ValueError, match="3 images where 4"):
        collect_features(
            model, DataLoader(rows, batch_size=4, collate_fn=lambda some: collate(some[1:]))
        )


# What every process of a run computes; the numbers must not depend on how many there are.
SCRIPT = """
import json, os, sys
import torch
from torch import distributed
from transformers import Trainer, TrainingArguments
sys.path.insert(0, FOLDER)
from test_few_shot import build, collate, colored_rows, load
from vit_hf import VisionTransformerForImageClassification
from vit_hf.evaluation import StreamingAccuracy, collect_features, evaluate_few_shot, top_classes
from vit_hf.training.trainer import leave_process_group

is_one_of_many = "WORLD_SIZE" in os.environ
if is_one_of_many:
    distributed.init_process_group("gloo")
torch.set_num_threads(1)
model = build(VisionTransformerForImageClassification, num_labels=7)
torch.nn.init.normal_(model.classifier.weight)
shares = []
model.vit.register_forward_hook(lambda module, args, output: shares.append(len(args[0])))
train, test_rows = load(colored_rows(40)), colored_rows(21, seed=1)
results = {"few_shot": evaluate_few_shot(model, train, load(test_rows, 4), shots=(1, 5))}
results["features"] = collect_features(model, load(test_rows, 4))[0].tolist()
num_forwarded = sum(shares)

metric = StreamingAccuracy()
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        OUTPUT, per_device_eval_batch_size=4, batch_eval_metrics=True, report_to="none",
        use_cpu=True, remove_unused_columns=False, ddp_backend="gloo" if is_one_of_many else None,
    ),
    eval_dataset=[{**row, "pixel_values": row["pixel_values"] / 255} for row in test_rows],
    data_collator=lambda rows: {
        "pixel_values": collate(rows)["pixel_values"].float(), "labels": collate(rows)["labels"]
    },
    preprocess_logits_for_metrics=top_classes,
    compute_metrics=lambda prediction, compute_result: (
        counted.append(len(prediction.label_ids)) or metric(prediction, compute_result)
    ),
)
counted = []
metrics = trainer.evaluate()
results["metrics"] = [metrics["eval_accuracy"], metrics["eval_top5_accuracy"], sum(counted)]

if is_one_of_many:
    from torch.distributed.fsdp import fully_shard
    model = build(VisionTransformerForImageClassification)
    for part in (*model.vit.layers, model):
        fully_shard(part)
    results["sharded"] = evaluate_few_shot(model, train, load(test_rows, 4), shots=(1, 5))
    results["num_forwarded"] = num_forwarded
    with open(f"{OUTPUT}/{distributed.get_rank()}.json", "w") as file:
        json.dump(results, file)
    leave_process_group()
"""


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    folder = str(Path(__file__).parent)
    source = f"FOLDER, OUTPUT = {folder!r}, {str(tmp_path)!r}\n{SCRIPT}"
    script = tmp_path / "script.py"
    script.write_text(source)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    run = subprocess.run(
        [sys.executable, *launch],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    alone = {}
    exec(source, alone)
    expected = json.loads(json.dumps(alone["results"]))
    assert expected["metrics"][2] == 21
    for rank in range(2):
        got = json.loads((tmp_path / f"{rank}.json").read_text())
        assert got.pop("sharded") == expected["few_shot"]
        assert got.pop("num_forwarded") < 0.7 * alone["num_forwarded"]  # the work is shared
        assert got == expected
