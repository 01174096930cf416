# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint on images: accuracy and calibration, probes of its features, resolutions."""


def argument_classes() -> list[type]:
    """Returns the dataclasses whose fields are the flags."""
    from ..experiment.arguments import DataArguments, EvaluationArguments

    return [EvaluationArguments, DataArguments]


def run(evaluation, data) -> int:
    """Evaluates; returns the exit status."""
    from ..experiment.evaluating import evaluate
    from .progress import hide_progress_bars

    if evaluation.disable_tqdm:
        hide_progress_bars()
    evaluate(evaluation, data)
    return 0
