# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint's top-1 and top-5 accuracy on images, prepared as its own processor says."""


def argument_classes() -> list[type]:
    """Returns the dataclasses whose fields are the flags."""
    from ..experiment.arguments import DataArguments, EvaluationArguments

    return [EvaluationArguments, DataArguments]


def run(evaluation, data) -> int:
    """Evaluates; returns the exit status."""
    from ..experiment.evaluating import evaluate

    evaluate(evaluation, data)
    return 0
