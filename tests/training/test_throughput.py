# SPDX-License-Identifier: Apache-2.0
"""Throughput: what its clock counts, and what it is held against."""

import time

import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vit_hf.modeling.freed_memory import give_back_freed_memory
from vit_hf.training import throughput
from vit_hf.training.throughput import Throughput, measured_limit

CPU = torch.device("cpu")


def run_steps(meter, num_steps, *, num_fetches=1, waiting=0.02, computing=0.03, between=0.0):
    """Steps of known durations: fetching, computing, and what lies between two steps."""
    for _ in range(num_steps):
        for _ in range(num_fetches):
            with meter.waiting():
                time.sleep(waiting / num_fetches)
            time.sleep(computing / num_fetches)
        meter.step(num_images=10)
        time.sleep(between)


@pytest.mark.parametrize("num_fetches", [1, 2])
def test_images_a_second_and_the_wait_for_input(num_fetches):
    meter = Throughput(device=CPU)
    time.sleep(0.8)  # before the first batch: does not count
    run_steps(meter, 4, num_fetches=num_fetches)
    entries = meter.log_entries()
    # 4 steps of 0.05 s. A sleep may be longer than asked for, which lowers the rate.
    assert 50 < entries["images_per_second"] <= 200
    assert entries["input_wait_share"] == pytest.approx(0.4, abs=0.15)


def test_what_happens_between_steps_does_not_count():
    meter = Throughput(device=CPU)
    run_steps(meter, 2, between=0.5)
    with meter.waiting():
        pass
    meter.step(num_images=0)
    assert meter.log_entries()["images_per_second"] > 40  # of 200; with what lies between, 18


def test_each_log_starts_anew():
    meter = Throughput(device=CPU)
    assert meter.log_entries() == {}
    run_steps(meter, 1, waiting=0.1, computing=0.0)
    slow = meter.log_entries()
    assert meter.log_entries() == {}
    run_steps(meter, 1, waiting=0.0, computing=0.02)
    fast = meter.log_entries()
    assert slow["images_per_second"] < 105 < fast["images_per_second"]
    assert slow["input_wait_share"] > 0.8 and fast["input_wait_share"] < 0.2


def test_a_step_that_is_forgotten_before_it_ends_does_not_count():
    meter = Throughput(device=CPU)
    with meter.waiting():
        pass
    time.sleep(0.3)
    meter.start_anew()  # as where a benchmark's warm-up ends
    meter.step(num_images=0)
    run_steps(meter, 1, waiting=0.1, computing=0.0)
    assert meter.input_wait_share() > 0.8  # with the whole of the step before it, 0.25


def test_a_loop_that_does_not_say_when_it_waits():
    meter = Throughput(device=CPU)
    time.sleep(0.1)
    meter.step(num_images=10)
    entries = meter.log_entries()
    assert 10 < entries["images_per_second"] <= 100 and entries["input_wait_share"] == 0


def test_flops_of_one_device_against_the_limit():
    meter = Throughput(model_flops_per_image=3e9, device=CPU, num_devices=4, limit=2e12)
    run_steps(meter, 2)
    entries = meter.log_entries()
    tflops = entries["images_per_second"] * 3e9 / 4 / 1e12
    assert entries["model_tflops_per_second"] == pytest.approx(tflops)
    assert entries["mfu"] == pytest.approx(tflops / 2)


def test_no_share_of_a_limit_that_was_passed():
    meter = Throughput(model_flops_per_image=3e9, device=CPU, limit=1.0)
    run_steps(meter, 1)
    entries = meter.log_entries()
    assert entries["model_tflops_per_second"] > 0 and "mfu" not in entries


def test_nothing_is_claimed_that_is_not_known():
    meter = Throughput(device=CPU)
    run_steps(meter, 1)
    assert set(meter.log_entries()) == {
        "images_per_second",
        "input_wait_share",
        "resident_memory_gib",
    }
    meter = Throughput(model_flops_per_image=3e9, device=CPU)
    run_steps(meter, 1)
    entries = meter.log_entries()
    assert "model_tflops_per_second" in entries and "mfu" not in entries


def test_resident_memory_follows_what_is_allocated():
    give_back_freed_memory()  # what a training before this one has kept
    meter = Throughput(device=CPU)
    run_steps(meter, 1)
    before = meter.log_entries()["resident_memory_gib"]
    assert before == pytest.approx(psutil.Process().memory_info().rss / 2**30, rel=0.1)
    kept = torch.ones(2**26)  # a quarter of a GiB
    run_steps(meter, 1)
    assert 0.2 < meter.log_entries()["resident_memory_gib"] - before < 0.3
    del kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_limit_is_measured_fast_and_leaves_randomness_alone(dtype):
    state = torch.get_rng_state()
    started = time.perf_counter()
    limit = measured_limit(width=64, dtype=dtype, device=CPU, seconds=0.05)
    assert time.perf_counter() - started < 1
    assert 1e7 < limit < 1e14
    assert torch.equal(state, torch.get_rng_state())


def test_the_limit_counts_the_products_that_are_timed(monkeypatch):
    products = throughput.time_of_products
    num_flops = set()

    def counted(*matrices):
        with FlopCounterMode(display=False) as counter:
            products(*matrices)
        num_flops.add(counter.get_total_flops())
        return 0.5

    monkeypatch.setattr(throughput, "time_of_products", counted)
    limit = measured_limit(width=32, dtype=torch.float32, device=CPU, seconds=0)
    assert num_flops == {limit / 2}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs a GPU")
def test_peak_memory_of_an_accelerator():
    device = torch.accelerator.current_accelerator()
    meter = Throughput(device=device)
    with meter.waiting():
        pass
    torch.ones(2**28, device=device)  # a GiB, freed at once
    meter.step(num_images=1)
    entries = meter.log_entries()
    assert 1 <= entries["peak_memory_gib"] < 2 and "resident_memory_gib" not in entries
    meter.step(num_images=1)
    assert meter.log_entries()["peak_memory_gib"] < 1
    assert measured_limit(width=768, dtype=torch.bfloat16, device=device) > 1e11
