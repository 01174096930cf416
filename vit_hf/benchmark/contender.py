# SPDX-License-Identifier: Apache-2.0
"""A contender: one way of doing the work of a benchmark, at its own fastest setting.

A new one, such as another form of our own model, is a subclass and a line in the table of its
subject, see `subjects`.
"""

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.profiler import DeviceType

from ..evaluation.peak_memory import PeakMemory

SEARCH_SHARE = 0.25  # of a turn's seconds, for each setting that is tried
NUM_OPERATORS = 12  # of a profile


class CannotTakePart(RuntimeError):
    """A contender that cannot do the work: not installed, out of memory, a setting that fails."""


@dataclass(frozen=True)
class Task:
    """What all contenders do.

    Args:
        options: of the benchmark, see `options`.
        folder: what they share: weights, photos.
    """

    options: Any
    folder: Path


@dataclass(frozen=True)
class Attempt:
    """What came of a setting: the seconds of a step and its outcome, or why it failed."""

    settings: dict[str, Any]
    seconds: float = math.inf
    outcome: np.ndarray | None = None
    failed: str | None = None

    def told(self, images_per_step: int) -> dict[str, Any]:
        """Returns it as the results hold it."""
        if self.failed is not None:
            return {"settings": self.settings, "failed": self.failed}
        return {"settings": self.settings, "images_per_second": images_per_step / self.seconds}


class Contender:
    """Does the work of a benchmark, a step at a time.

    Attributes:
        libraries: modules that have to be installed.
        is_comparable: whether its outcome has to be ours.
        takes_float8: whether it computes in float8 where the options ask for it.
        num_trials: of each setting.
    """

    libraries: ClassVar[tuple[str, ...]] = ()
    num_trials: ClassVar[int] = 3
    is_comparable: ClassVar[bool] = True
    takes_float8: ClassVar[bool] = False

    def __init__(self, task: Task):
        self.options, self.folder = task.options, task.folder
        self.device = torch.device(task.options.device)

    @property
    def images_per_step(self) -> int:
        """How many images a step takes."""
        return self.options.batch_size

    @property
    def is_float8(self) -> bool:
        """Whether it computes in float8."""
        return self.takes_float8 and self.options.dtype == "float8"

    @property
    def num_warm_up_steps(self) -> int:
        """How many steps of a turn come before those that are timed."""
        return 1

    def candidates(self) -> list[dict[str, Any]]:
        """Returns the settings that are tried first; the fastest of all is measured."""
        return [{}]

    def refinements(self, speeds: list[tuple[float, dict[str, Any]]]) -> list[dict[str, Any]]:
        """Returns the settings that are tried then, by the images a second of those before."""
        return []

    def prepare(self, settings: dict[str, Any]) -> None:
        """Makes ready for steps at a setting, in the place of the one before."""
        raise NotImplementedError

    def forget(self) -> None:
        """Lets go of what was prepared."""

    def step(self) -> None:
        """Does the work once; need not wait for the device."""
        raise NotImplementedError

    def outcome(self) -> np.ndarray | None:
        """Returns what has to be the same for every comparable contender, before the first step."""
        return None

    def settle(self) -> dict[str, Any]:
        """Finds the fastest setting and makes ready for it.

        Returns:
            `settings`, `seconds_per_step`, `images_per_step`, `searched` (each setting with its
            images a second, or why it failed), `outcome`, `num_warm_up_steps` and `num_threads`.

        Raises:
            CannotTakePart: where every setting fails.
        """
        tried = [self.attempt(settings) for settings in self.candidates()]
        speeds = [
            (self.images_per_step / attempt.seconds, attempt.settings)
            for attempt in tried
            if attempt.failed is None
        ]
        tried += [self.attempt(settings) for settings in self.refinements(speeds)]
        best = min(tried, key=lambda attempt: attempt.seconds)
        if best.failed is not None:
            raise CannotTakePart(best.failed)
        if best is not tried[-1]:
            self.make_ready(best.settings)
            self.warm_up()
        give_back(self.device)
        return {
            "settings": best.settings,
            "seconds_per_step": best.seconds,
            "images_per_step": self.images_per_step,
            "searched": [attempt.told(self.images_per_step) for attempt in tried],
            "outcome": best.outcome,
            "num_warm_up_steps": self.num_warm_up_steps,
            "num_threads": torch.get_num_threads(),
        }

    def attempt(self, settings: dict[str, Any]) -> Attempt:
        """Tries a setting, which may fail."""
        try:
            return Attempt(settings, *self.try_setting(settings))
        except (RuntimeError, ValueError, ImportError) as error:
            return Attempt(settings, failed=first_line(error))

    def make_ready(self, settings: dict[str, Any]) -> None:
        """Prepares a setting, with the memory of the one before given back."""
        self.rest()
        torch.compiler.reset()
        self.prepare(settings)

    def try_setting(self, settings: dict[str, Any]) -> tuple[float, np.ndarray | None]:
        """Returns the seconds of a step at a setting, after one that warms up, and the outcome.

        They are those of the fastest trial: a machine that is slow for a while should not decide.
        """
        self.make_ready(settings)
        outcome = self.outcome()
        self.warm_up()
        seconds, enough = self.measure(1), SEARCH_SHARE * self.options.seconds
        num_steps = max(1, int(enough / self.num_trials / seconds))
        trials = [seconds] if num_steps == 1 else []  # a trial of one step there is already
        while len(trials) < self.num_trials:
            trials.append(self.measure(num_steps) / num_steps)
        return min(trials), outcome

    def warm_up(self) -> None:
        """Takes the step that is slower than those after it."""
        self.measure(1)

    def begin(self) -> None:
        """Begins the measurement of the peak of memory, before the first turn."""
        self.peak_memory = PeakMemory(self.device)

    def turn(self, num_steps: int) -> float:
        """Returns the images a second of some steps, after one that warms up."""
        self.warm_up()
        seconds = self.measure(num_steps)
        give_back(self.device)  # the next contender may need the memory
        return num_steps * self.images_per_step / seconds

    def measure(self, num_steps: int) -> float:
        """Returns the seconds that some steps take, until the device is done."""
        with no_garbage_collection():
            wait_for(self.device)
            started = time.perf_counter()
            for _ in range(num_steps):
                self.step()
            wait_for(self.device)
            return time.perf_counter() - started

    def peak(self) -> int | None:
        """Returns the peak of memory since `begin`, in bytes."""
        return self.peak_memory.num_bytes()

    def rest(self) -> None:
        """Lets go of what was prepared and gives its memory back."""
        self.forget()
        gc.collect()
        give_back(self.device)

    def extras(self) -> dict[str, Any]:
        """Returns what else is told of it, measured after the turns, when everyone rests."""
        return {}

    def profile(self) -> list[dict[str, Any]]:
        """Returns where the time of a step goes: the operators with most of it, largest first."""
        told = profile_of(lambda: self.measure(1), device=self.device)
        give_back(self.device)
        return told


def profile_of(work: Callable[[], Any], *, device: torch.device) -> list[dict[str, Any]]:
    """Runs some work under PyTorch's profiler.

    Returns:
        For each operator its `operator` name, `share` of the time, `seconds` and `calls`; on an
        accelerator they are its kernels, and the time is its own.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        work()
    operators, name = list(profiler.key_averages()), "self_cpu_time_total"
    if device.type == "cuda":
        # Kernels alone: what called them is told the same time once more.
        operators, name = [one for one in operators if is_kernel(one)], "self_device_time_total"
    total = sum(getattr(operator, name) for operator in operators)
    largest = sorted(operators, key=lambda operator: -getattr(operator, name))[:NUM_OPERATORS]
    return [
        {
            "operator": operator.key,
            "share": getattr(operator, name) / total,
            "seconds": getattr(operator, name) / 1e6,
            "calls": operator.count,
        }
        for operator in largest
    ]


def is_kernel(operator: Any) -> bool:
    """Whether one of a profile's operators ran on the accelerator itself."""
    return operator.device_type != DeviceType.CPU and not operator.is_user_annotation


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keeps the collector from running while something is timed."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def wait_for(device: torch.device) -> None:
    """Waits until a device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def give_back(device: torch.device) -> None:
    """Returns an accelerator's unused memory to the other processes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """Returns an error's class and the first line of what it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'nothing more was said'}"
