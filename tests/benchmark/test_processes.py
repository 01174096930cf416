# SPDX-License-Identifier: Apache-2.0
"""A contender's process: it works there, and whatever goes wrong there is said here."""

import multiprocessing
import os

import pytest

from vit_hf.benchmark.contender import CannotTakePart, Task
from vit_hf.benchmark.models import TimmModel
from vit_hf.benchmark.options import ModelOptions
from vit_hf.benchmark.processes import ContenderProcess
from vit_hf.benchmark.products import MatrixProducts


def start_method() -> str:
    """How the processes of this one start."""
    return multiprocessing.get_start_method()


@pytest.mark.slow
def test_a_process(tiny, tmp_path):
    process = ContenderProcess(
        MatrixProducts, Task(options=ModelOptions(peers=[], **tiny), folder=tmp_path)
    )
    try:
        settled = process.call("settle")
        assert settled["seconds_per_step"] > 0 and settled["flops_per_image"] > 0
        assert process.call("turn", 2) > 0
        assert process.pool.submit(os.getpid).result() != os.getpid()
        # Those that load images start as they do for whoever trains.
        assert process.pool.submit(start_method).result() == start_method()
        with pytest.raises(CannotTakePart, match=r"TypeError: .*turn"):
            process.call("turn")
        process.pool.submit(os._exit, 1)
        with pytest.raises(CannotTakePart, match="its process was ended"):
            process.call("rest")
    finally:
        process.close()


def test_a_library_that_is_not_installed(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(TimmModel, "libraries", ("timm_of_another_planet",))
    task = Task(options=ModelOptions(peers=[], **tiny), folder=tmp_path)
    with pytest.raises(CannotTakePart, match="timm_of_another_planet is not installed"):
        ContenderProcess(TimmModel, task)
