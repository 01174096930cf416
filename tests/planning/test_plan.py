# SPDX-License-Identifier: Apache-2.0
"""A plan's parts by hand: sharing between devices, communication, time, what limits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vit_hf import VisionTransformerConfig
from vit_hf.planning import DEVICES, MODELS, Parallel, Run, TrainingStep, forward_flops, make_plan
from vit_hf.planning.communication import bytes_sent
from vit_hf.planning.memory import TRACED_BATCH, StepMemory
from vit_hf.planning.plan import count_parameters, recomputed_flops
from vit_hf.planning.training_step import trace_step

TINY = VisionTransformerConfig(
    image_size=32,
    patch_size=8,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=256,
    num_labels=10,
)
H100 = DEVICES["h100"]
STEP = TrainingStep(optimizer="adamw_torch_fused")


@pytest.fixture(scope="module")
def memory():
    return StepMemory(TINY, STEP)


@pytest.fixture(scope="module")
def parameters():
    return count_parameters(TINY, task="image-classification")


def test_one_trace_holds_for_every_batch(memory):
    """The constants and the bytes an image of one huge batch are those of a small one."""
    for batch_size in (2, 7):
        trace, _ = trace_step(TINY, STEP, batch_size=batch_size)
        fixed, per_image = trace.timelines(TRACED_BATCH)
        assert not per_image.any()
        planned = memory.fixed + batch_size * memory.per_image
        assert fixed.sum(1).max() == planned.sum(1).max()
        assert len(trace.moved) and sum(trace.moved) == memory.bytes_moved(
            batch_size, num_batches=1
        )


def test_nothing_is_lost(memory, parameters):
    """Weights stay, state stays, and after the step nothing of the batch does but the images."""
    weights = 4 * parameters.total
    kinds = dict(zip(memory.kinds, memory.fixed[-1], strict=True))
    assert kinds["weights"] == kinds["gradients"] == weights
    with torch.device("meta"):
        num_weights = len(list(MODELS["image-classification"](TINY).parameters()))
    assert kinds["optimizer"] == 2 * weights + 4 * num_weights  # two moments, and a count of steps
    assert kinds["weight_copies"] == 0
    assert memory.per_image[-1].sum() == 3 * 32 * 32 * 4 + 8  # the image and its label
    copies = memory.fixed[:, memory.kinds.index("weight_copies")].max()
    assert 0.9 < copies / (weights / 2) < 1  # all kernels, in 16 bits


def test_copies_and_shards(memory, parameters):
    weights = 4 * parameters.total
    alone = memory.fixed_on(Parallel(), parameters, average=False)
    assert np.array_equal(alone, memory.fixed)
    averaged = memory.fixed_on(Parallel(), parameters, average=True)
    assert np.all(averaged.sum(1) - alone.sum(1) == weights)
    copies = memory.fixed_on(Parallel(4), parameters, average=False)
    assert np.all(copies.sum(1) - alone.sum(1) == weights)  # the buckets
    shards = memory.fixed_on(Parallel(4, fsdp=True), parameters, average=False)
    last = dict(zip(memory.kinds, shards[-1], strict=True))
    assert last["weights"] == last["gradients"] == weights / 4 and last["weight_copies"] == 0
    assert last["communication"] == 2 * (3 * parameters.layer + parameters.outside)
    accumulating = StepMemory(TINY, replace(STEP, accumulates=True))
    whole = accumulating.gathered_bytes(parameters) - memory.gathered_bytes(parameters)
    assert whole == 2 * parameters.total


def test_the_largest_batch_is_the_largest(memory):
    for capacity in (5e6, 2e7, 1e9):
        largest = memory.largest_batch(capacity, memory.fixed)
        assert sum(memory.at_peak(largest, memory.fixed).values()) <= capacity
        assert sum(memory.at_peak(largest + 1, memory.fixed).values()) > capacity
    assert memory.largest_batch(1e6, memory.fixed) == 0


@pytest.mark.slow
def test_an_accelerator_computes_norms_in_float32():
    """Its GroupNorms keep float32 where the CPU's keep bfloat16; its dropout keeps a byte."""
    hybrid = {**TINY.to_diff_dict(), "stem_blocks": [1], "patch_size": 1}
    dropout = {**TINY.to_diff_dict(), "hidden_dropout_prob": 0.1}
    for settings, more in ((hybrid, True), (dropout, False)):
        here, there = (
            StepMemory(VisionTransformerConfig(**settings), TrainingStep(on_accelerator=where))
            for where in (False, True)
        )
        peaks = [sum(one.at_peak(64, one.fixed).values()) for one in (here, there)]
        assert (peaks[0] < peaks[1]) == more


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({"hidden_dropout_prob": 0.1}, "float32"),
        ({"attention_probs_dropout_prob": 0.1, "drop_path_rate": 0.1}, "bfloat16"),
        ({"qk_norm": True}, "bfloat16"),
        ({"pooling": "gap", "position_embedding": "sincos_2d"}, "bfloat16"),
        ({"pooling": "gap", "position_embedding": "relative"}, "float16"),
        ({"pooling": "gap", "position_embedding": "none"}, "bfloat16"),
        ({"pooling": "none"}, "float32"),
        ({"pooling": "none", "problem_type": "multi_label_classification"}, "bfloat16"),
        ({"problem_type": "regression", "num_labels": 1}, "float32"),
    ],
)
def test_every_variant_is_traced_with_checkpointing(settings, dtype):
    """What is computed again is what was computed: nothing that an accelerator does is lost."""
    size = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "num_attention_heads": 4}
    size |= {"num_hidden_layers": 1, "intermediate_size": 128}
    config = VisionTransformerConfig(**size, **settings)
    step = TrainingStep(dtype=dtype, gradient_checkpointing=True)
    assert StepMemory(config, step).per_image.sum(1).max() > 3 * 32 * 32 * 4  # the image


def test_bytes_sent():
    assert bytes_sent(1000, Parallel(), dtype="float32", num_batches=1) == 0
    assert bytes_sent(1000, Parallel(4), dtype="bfloat16", num_batches=3) == 2 * 0.75 * 4000
    sharded = Parallel(4, fsdp=True)
    assert bytes_sent(1000, sharded, dtype="bfloat16", num_batches=1) == 3 * 0.75 * 2000
    assert bytes_sent(1000, sharded, dtype="float32", num_batches=3) == 7 * 0.75 * 4000


def test_what_is_computed_again():
    layers = forward_flops(TINY) - recomputed_flops(TINY, task="image-classification")
    assert 0 < layers < 0.1 * forward_flops(TINY)  # the patches and the head


def plan(**changes):
    run = Run(TINY, 1000, 64, 16, STEP, H100, Parallel(2))
    return make_plan(replace(run, **changes))


@pytest.mark.slow
def test_time():
    found = plan()
    assert found.num_batches_accumulated == 2 and found.num_updates == math.ceil(1000 / 64)
    an_update = 3 * forward_flops(TINY) * 32
    assert found.seconds_per_update["compute"] == pytest.approx(an_update / (0.4 * 989.5e12))
    sent = found.communication_bytes_per_update
    assert found.seconds_per_update["communication"] == pytest.approx(sent / 450e9)
    assert found.limit == "memory_bandwidth"  # so small a model only moves bytes
    slowest = max(found.seconds_per_update.values())
    assert found.hours == pytest.approx(found.num_updates * slowest / 3600)
    assert found.device_hours == 2 * found.hours
    assert found.total_exaflops == 3 * forward_flops(TINY) * 1000 / 1e18
    slow = replace(H100, interconnect=1e6)
    assert plan(device=slow).limit == "communication"
    assert plan(device=replace(H100, half_flops=1e9)).limit == "compute"
    assert plan(device=replace(H100, memory_bandwidth=None)).limit == "communication"


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_patches_that_are_left_out_cost_nothing(checkpointing):
    """A plan is that of smaller images, but for the projection, which is of all patches."""
    size = {**TINY.to_diff_dict(), "image_size": (64, 64), "num_labels": 10}
    step = replace(STEP, gradient_checkpointing=checkpointing)
    half, small, whole = (
        plan(config=VisionTransformerConfig(**{**size, **settings}), step=step)
        for settings in ({"patch_dropout_rate": 0.5}, {"image_size": (32, 64)}, {})
    )
    projection = 2 * 32 * (3 * 8 * 8) * 64  # of the 32 patches that are left out
    assert half.flops_per_image == small.flops_per_image + projection
    assert half.total_exaflops == 3 * half.flops_per_image * 1000 / 1e18
    compute = (one.seconds_per_update["compute"] for one in (half, small))
    assert next(compute) - next(compute) == pytest.approx(3 * projection * 32 / (0.4 * 989.5e12))
    kept = half.memory_bytes["activations"] / whole.memory_bytes["activations"]
    assert 0.5 <= kept < 0.7
    moving = [one.seconds_per_update["memory_bandwidth"] for one in (half, whole)]
    assert moving[0] < moving[1]


@pytest.mark.slow
def test_where_it_does_not_fit():
    own = plan()
    assert own.fits and own.would_fit == []
    found = plan(device=replace(H100, memory=own.memory_bytes_per_device - 1))
    assert not found.fits and found.limit == "memory" and found.largest_per_device_batch == 15
    assert found.would_fit[0] == "--per_device_train_batch_size 15 or less"
    assert "--gradient_checkpointing" in found.would_fit
    checkpointed = plan(step=replace(STEP, gradient_checkpointing=True))
    assert checkpointed.memory_bytes_per_device == own.memory_bytes_other_checkpointing
    assert checkpointed.memory_bytes_per_device < own.memory_bytes_per_device
    again = recomputed_flops(TINY, task="image-classification") / (3 * forward_flops(TINY))
    slower = checkpointed.seconds_per_update["compute"] / own.seconds_per_update["compute"]
    assert slower == pytest.approx(1 + again)
    sharded = plan(device=found.device, parallel=Parallel(2, fsdp=True))
    assert sharded.fits and "--fsdp" in found.would_fit
    nothing = plan(device=replace(H100, memory=1000))
    assert nothing.would_fit == [] and nothing.largest_per_device_batch == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plan(per_device_batch_size=24), "allowed: a multiple of 48"),
        (lambda: plan(num_images=0), "got num_images=0, allowed: 1 or more"),
        (lambda: plan(utilisation=1.5), "got utilisation=1.5, allowed: above 0"),
        (lambda: Parallel(0), "got 0 devices, allowed: 1 or more"),
        (lambda: Parallel(1, fsdp=True), "allowed: 2 devices or more"),
        (lambda: TrainingStep(task="features"), "got task='features', allowed: image-class"),
        (lambda: TrainingStep(optimizer="lion"), "allowed: adamw_torch_fused, adamw_torch, sgd"),
        (lambda: TrainingStep(dtype="int8"), "got dtype='int8', allowed: float32, bfloat16"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
