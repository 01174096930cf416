# SPDX-License-Identifier: Apache-2.0
"""`evaluate.evaluator("image-classification")` with our pipelines, and without a network.

The evaluator of the `evaluate` library (0.4) downloads its default metric, and looks for a class
that transformers 5 no longer has when it is given a pipeline. Importing `vit_hf.evaluation` enters
this one in the library's table of tasks in its place.
"""

from typing import Any

from evaluate.evaluator import SUPPORTED_EVALUATOR_TASKS, ImageClassificationEvaluator
from transformers import Pipeline

from .metrics import TopKAccuracy

TASK = "image-classification"


class PipelineEvaluator(ImageClassificationEvaluator):
    """The library's evaluator, which takes pipelines, and counts with `TopKAccuracy`.

    A metric that is given counts in the place of it. The pipeline's own classes map its labels to
    those of the dataset, where no `label_mapping` is given.
    """

    label2id: dict[str, int] | None = None

    def prepare_pipeline(
        self, model_or_pipeline: Any, tokenizer=None, feature_extractor=None, device=None
    ):
        """Returns the pipeline that was given, or makes one of a checkpoint's name."""
        if not isinstance(model_or_pipeline, Pipeline):
            pipe: Any = super().prepare_pipeline(
                model_or_pipeline, tokenizer, feature_extractor, device
            )
        elif model_or_pipeline.task != self.task:
            raise ValueError(
                f"got a pipeline of the task {model_or_pipeline.task!r}, allowed: {self.task!r}"
            )
        else:
            pipe = model_or_pipeline
        self.label2id = getattr(getattr(pipe, "model", None), "config", None) and (
            pipe.model.config.label2id
        )
        return pipe

    def prepare_metric(self, metric: Any):
        """Returns the metric that was given, or `TopKAccuracy`."""
        return TopKAccuracy() if metric is None else super().prepare_metric(metric)

    def predictions_processor(self, predictions: Any, label_mapping: Any):
        """Returns the class of each prediction as the dataset numbers it."""
        return super().predictions_processor(predictions, label_mapping or self.label2id)


def register_evaluator() -> None:
    """Enters `PipelineEvaluator` in the table from which `evaluate.evaluator` takes its class."""
    SUPPORTED_EVALUATOR_TASKS[TASK]["implementation"] = PipelineEvaluator
