# SPDX-License-Identifier: Apache-2.0
"""The few-shot evaluation during pre-training: the dial by which the paper compares pre-trained
models (sections 4.1 and 4.3, appendix B.1.2).

It works on any pre-training, supervised or masked patch prediction, and leaves no trace in it: the
weights of a run with the probe are bit-identical to those of a run without.
"""

import contextlib
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from ..evaluation.features import collect_labels
from ..evaluation.few_shot import L2, SEEDS, evaluate_few_shot, mean_accuracies


class FewShotProbe(TrainerCallback):
    """Runs the few-shot evaluation at every evaluation, or every so many steps, and logs it.

    The features are what the head sees; in masked patch prediction, where nothing is pooled, the
    mean of the patch tokens. Every process takes part. At an evaluation the accuracies are also put
    among its metrics, so that `metric_for_best_model="few_shot_5_accuracy"` works, and the weights
    are those that are evaluated, averaged where there is an average.

    Args:
        train: a loader of the training images to choose from, see `evaluation.stream_features`.
        test: a loader of the test images.
        log: the trainer's `log`, so `trainer.add_callback(FewShotProbe(..., log=trainer.log))`.
        every_steps: run after every so many steps; `None` is at every evaluation.
        train_labels: the labels of the dataset of `train`, where they are known; otherwise they
            are read once, with all of the images.
        shots: numbers of images of each class.
        seeds: of their choice.
        l2: of the regularisation.
    """

    def __init__(
        self,
        train: DataLoader,
        test: DataLoader,
        *,
        log: Callable[[dict[str, float]], None],
        every_steps: int | None = None,
        train_labels: Sequence[int] | torch.Tensor | None = None,
        shots: Sequence[int] = (5,),
        seeds: Sequence[int] = SEEDS,
        l2: float = L2,
    ):
        if every_steps is not None and every_steps < 1:
            raise ValueError(
                f"got every_steps={every_steps}, allowed: at least 1, or None for every evaluation"
            )
        self.train, self.test, self.log, self.every_steps = train, test, log, every_steps
        self.train_labels, self.shots, self.seeds, self.l2 = train_labels, shots, seeds, l2

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        metrics: dict[str, float],
        **kwargs,
    ):
        """Runs the probe, where it belongs to evaluations."""
        if self.every_steps is None:
            accuracies = self.probe(args, control, model)
            metrics.update({f"eval_{name}": value for name, value in accuracies.items()})

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **kwargs,
    ):
        """Runs the probe, where it is this step's turn."""
        if self.every_steps is not None and state.global_step % self.every_steps == 0:
            self.probe(args, control, model)

    def probe(
        self, args: TrainingArguments, control: TrainerControl, model: PreTrainedModel
    ) -> dict[str, float]:
        """Evaluates and logs; returns the mean accuracies by name, see `mean_accuracies`."""
        autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        with untouched_randomness(model.device):
            if self.train_labels is None:
                self.train_labels = collect_labels(self.train, device=model.device)
            accuracies = evaluate_few_shot(
                model,
                self.train,
                self.test,
                train_labels=self.train_labels,
                shots=self.shots,
                seeds=self.seeds,
                l2=self.l2,
                autocast=autocast,
            )
        means = mean_accuracies(accuracies)
        should_log = control.should_log
        self.log(dict(means))
        control.should_log = should_log  # a log counts as this step's own, which is still to come
        return means


@contextlib.contextmanager
def untouched_randomness(device: torch.device):
    """Gives every global generator its state back at the end: torch's, numpy's and Python's."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    is_forked = device.type not in ("cpu", "mps")  # beside the CPU's; mps has nothing to fork with
    devices, device_type = ([device], device.type) if is_forked else ([], "cuda")
    try:
        with torch.random.fork_rng(devices, device_type=device_type):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
