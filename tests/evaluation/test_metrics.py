# SPDX-License-Identifier: Apache-2.0
"""Accuracies against scikit-learn's, images that could not be read, and Trainer's way of asking."""

import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from transformers import EvalPrediction, Trainer, TrainingArguments

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.evaluation import StreamingAccuracy, TopKAccuracy, top_classes

NUM_CLASSES = 30


def random_batches(num_batches=7, batch_size=9):
    """Batches of logits and labels, the right class being a little likelier."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_batches):
        labels = torch.randint(NUM_CLASSES, (batch_size,), generator=generator)
        logits = torch.randn(batch_size, NUM_CLASSES, generator=generator)
        yield logits + 2 * torch.nn.functional.one_hot(labels, NUM_CLASSES), labels


FORMS = {
    "logits": lambda logits: logits,
    "numpy logits": lambda logits: logits.numpy(),
    "lists of logits": lambda logits: logits.tolist(),
    "classes": top_classes,
    "lists of classes": lambda logits: top_classes(logits).tolist(),
}


@pytest.mark.parametrize("form", FORMS)
def test_against_sklearn(form):
    metric = TopKAccuracy()
    for logits, labels in random_batches():
        metric.add_batch(predictions=FORMS[form](logits), references=labels.tolist())
    logits, labels = (torch.cat(parts) for parts in zip(*random_batches()))
    expected = [
        top_k_accuracy_score(labels, logits, k=k, labels=range(NUM_CLASSES)) for k in (1, 5)
    ]
    assert isinstance(metric, evaluate.Metric) and len(metric) == len(labels)
    result = metric.compute()
    assert result == {"accuracy": expected[0], "top5_accuracy": expected[1]}
    assert 0.1 < result["accuracy"] < result["top5_accuracy"] < 0.9  # both are told apart


def test_fewer_classes_than_five():
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert top_classes(logits).tolist() == [[1, 0], [0, 1], [1, 0]]
    result = TopKAccuracy().compute(predictions=top_classes(logits), references=[1, 1, 1])
    assert result == {"accuracy": 2 / 3, "top5_accuracy": 1.0}


def test_only_the_first_class_makes_no_claim_about_five():
    assert TopKAccuracy().compute(predictions=[1, 2, 3], references=[1, 2, 0]) == {
        "accuracy": 2 / 3
    }


def test_images_without_a_class_count_as_wrong():
    metric = TopKAccuracy()
    metric.add(prediction=[3, 1, 0, 2, 4], reference=3)
    metric.add(prediction=[3, 1, 0, 2, 4], reference=-1)  # could not be decoded
    metric.add(prediction=[-1] * 5, reference=-1)
    metric.add(prediction=[-1] * 5, reference=0)  # what nan predicts
    assert metric.compute() == {"accuracy": 1 / 4, "top5_accuracy": 1 / 4}


def test_nan_predicts_no_class():
    logits = torch.zeros(3, 6)
    logits[1, 4] = float("nan")
    assert (top_classes(logits)[1] == -1).all() and (top_classes(logits)[[0, 2]] >= 0).all()
    assert top_classes((logits, "attentions")).shape == (3, 5)


def test_computing_starts_anew():
    metric = TopKAccuracy()
    assert metric.compute(predictions=[1, 1], references=[1, 0])["accuracy"] == 0.5
    with pytest.raises(ValueError, match="no image"):
        metric.compute()
    metric.add_batch(predictions=[1], references=[0])
    assert metric.compute(predictions=[1], references=[1])["accuracy"] == 0.5
    ranked = [[1, 0, 2, 3, 4]]
    assert "top5_accuracy" in metric.compute(predictions=ranked, references=[1])


def test_nothing_is_kept_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    metric, other = TopKAccuracy(), TopKAccuracy()
    counts = {name for name, value in vars(metric).items() if isinstance(value, int)}
    before = {name: value for name, value in vars(metric).items() if name not in counts}
    for logits, labels in random_batches():
        metric.add_batch(predictions=logits, references=labels)
        other.add_batch(predictions=logits, references=labels + 1)
        after = {name: value for name, value in vars(metric).items() if name not in counts}
        assert after == before
    assert metric.compute()["accuracy"] > other.compute()["accuracy"]
    assert not list(tmp_path.iterdir())


def test_it_combines_with_other_metrics():
    combined = evaluate.combine({"one": TopKAccuracy(), "two": TopKAccuracy()})
    result = combined.compute(predictions=[1, 2], references=[1, 0])
    assert result == {"one_accuracy": 0.5, "two_accuracy": 0.5}


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        (torch.zeros(2, 7), torch.full((2, 7), 1 / 7), r"shape \(2, 7\)"),  # shares of mixing
        (torch.zeros(2, 7), torch.zeros(2, 7, dtype=torch.long), r"shape \(2, 7\)"),  # many labels
        (torch.zeros(2, 7), torch.zeros(2), "float32"),
        (torch.zeros(2, 7), torch.tensor([1, -100]), "reference -100"),
        (torch.zeros(2, 7), torch.tensor([1, 0, 0]), "for 3 references"),
        (torch.zeros(2, 3, 7), torch.tensor([1, 0]), r"shape \(2, 3, 7\)"),
        (torch.zeros(2, 7), None, "give both"),
    ],
)
def test_what_it_refuses(predictions, references, words):
    with pytest.raises(ValueError, match=words):
        TopKAccuracy().add_batch(predictions=predictions, references=references)


def test_logits_of_tokens_are_refused():
    with pytest.raises(ValueError, match="pooling='none'"):
        top_classes(torch.zeros(2, 4, 7))


@pytest.mark.parametrize("by_batch", [True, False])
def test_as_trainer_asks(tmp_path, by_batch):
    torch.manual_seed(0)
    config = VisionTransformerConfig(
        image_size=8,
        patch_size=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        num_labels=NUM_CLASSES,
    )
    model = VisionTransformerForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    rows = [
        {"pixel_values": torch.randn(3, 8, 8), "labels": label % NUM_CLASSES} for label in range(50)
    ]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            per_device_eval_batch_size=8,
            batch_eval_metrics=by_batch,
            report_to="none",
            use_cpu=True,
        ),
        eval_dataset=rows,
        preprocess_logits_for_metrics=top_classes,
        compute_metrics=StreamingAccuracy(),
    )
    metrics = [trainer.evaluate() for _ in range(2)]  # the second counts only itself
    with torch.no_grad():
        logits = model.eval()(torch.stack([row["pixel_values"] for row in rows])).logits
    labels = torch.tensor([row["labels"] for row in rows])
    for k, name in ((1, "eval_accuracy"), (5, "eval_top5_accuracy")):
        expected = top_k_accuracy_score(labels, logits, k=k, labels=range(NUM_CLASSES))
        assert [some[name] for some in metrics] == pytest.approx([expected] * 2, abs=1e-12)
    assert expected > 0


def test_an_evaluation_that_was_broken_off_is_forgotten():
    accuracy = StreamingAccuracy()
    wrong = EvalPrediction(predictions=np.array([[0, 1]]), label_ids=np.array([1]))
    right = EvalPrediction(predictions=np.array([[1, 0]]), label_ids=np.array([1]))
    assert accuracy(wrong, compute_result=False) == {}
    accuracy.reset()
    assert accuracy(right, compute_result=True) == {"accuracy": 1.0, "top5_accuracy": 1.0}
