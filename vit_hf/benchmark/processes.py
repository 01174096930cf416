# SPDX-License-Identifier: Apache-2.0
"""A contender in a process of its own: its memory is its own, and nothing of another's caches,
compiled graphs or thread pools is in its way. Only one of them works at a time.
"""

import importlib
import importlib.util
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, get_start_method, set_start_method
from typing import Any

from transformers.utils import logging

from .contender import CannotTakePart, Contender, Task, first_line

PRESENT: dict[str, Contender] = {}  # in a contender's process: the contender


class ContenderProcess:
    """Starts a contender's process; `call` does there what its methods do.

    Args:
        contender_class: the contender.
        task: what it is made with.

    Raises:
        CannotTakePart: where a library is not installed.
    """

    def __init__(self, contender_class: type[Contender], task: Task):
        missing = [
            name for name in contender_class.libraries if importlib.util.find_spec(name) is None
        ]
        if missing:
            raise CannotTakePart(
                f"{', '.join(missing)} is not installed: pip install {' '.join(missing)}"
            )
        self.pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
        # Beside the others.
        self.starting = self.pool.submit(start, contender_class, task, get_start_method())

    def wait(self) -> None:
        """Waits until the process has started, or failed to."""
        self.starting.exception()

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the contender.

        Raises:
            CannotTakePart: for whatever goes wrong there, also while it started.
        """
        try:
            self.starting.result()
            return self.pool.submit(carry_out, method, arguments).result()
        except BrokenProcessPool as error:
            raise CannotTakePart("its process was ended, as for want of memory") from error

    def close(self) -> None:
        """Ends the process."""
        self.pool.shutdown()


def start(contender_class: type[Contender], task: Task, start_method: str | None = None) -> None:
    """Makes the contender, in its process.

    Args:
        contender_class: the contender.
        task: what it is made with.
        start_method: of the processes that load its images, as whoever trains has it; `None` is as
            it is, in a process that was spawned to spawn them too.
    """
    if start_method is not None:
        set_start_method(start_method, force=True)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in contender_class.libraries:
        try:
            importlib.import_module(name)
        except Exception as error:  # a library that is installed can fail in any way
            raise CannotTakePart(f"{name} cannot be imported: {first_line(error)}") from None
    PRESENT["contender"] = contender_class(task)


def carry_out(method: str, arguments: tuple) -> Any:
    """Calls a method of the contender, in its process."""
    try:
        return getattr(PRESENT["contender"], method)(*arguments)
    except CannotTakePart:
        raise
    except Exception as error:  # not every library's errors survive the way between processes
        raise CannotTakePart(first_line(error)) from None
