# SPDX-License-Identifier: Apache-2.0
"""`vit-hf benchmark model`: what it writes, who takes part, and that all have the same model."""

import dataclasses
import time

import pytest
import torch
import torch._functorch.config

from vit_hf.benchmark import models, subjects
from vit_hf.benchmark.contender import CannotTakePart, Task, profile_of
from vit_hf.benchmark.largest_batch import extrapolated, largest_batch
from vit_hf.benchmark.options import ModelOptions
from vit_hf.benchmark.report import lines_of
from vit_hf.benchmark.running import run_benchmark

from .conftest import Here


class Napping(models.OurModel):
    """Ours, with a nap in the place of a step."""

    nap = 0.02

    def step(self):
        time.sleep(self.nap)


class Asleep(Napping):
    nap = 0.04


class OtherModel(models.TransformersModel):
    """Weights that are not ours."""

    def build(self, attention):
        model = super().build(attention)
        with torch.no_grad():
            model.vit.layers[0].mlp.fc1.weight.neg_()
        return model


def test_what_it_writes(tiny_results):
    results = tiny_results
    assert set(results) == {
        "subject", "command", "measured_at", "options", "task", "machine", "ours", "peers",
        "missing", "limits",
    }  # fmt: skip
    peer, limit = results["peers"]["transformers"], results["limits"]["matrix_products"]
    for found in (results["ours"], peer, limit):
        low, high = found["spread"]
        assert 0 < low <= found["images_per_second"] <= high
        assert found["seconds_per_step"] == pytest.approx(2 / found["images_per_second"])
        assert found["peak_memory_bytes"] > 10**7
        assert found["profile"][0]["share"] >= found["profile"][-1]["share"] > 0
    assert {one["settings"]["attention"] for one in peer["searched"]} == {"sdpa", "eager"}
    assert peer["settings"] in [one["settings"] for one in peer["searched"]]
    for found in (peer, limit):
        assert len(found["ratio"]["pairs"]) == 2
    assert results["ours"]["limit_share"] == limit["ratio"]["median"]
    assert len(results["ours"]["turns"]) == 4
    assert 0 <= peer["difference"] <= peer["allowed_difference"] < 0.01
    machine = results["machine"]
    assert machine["cpu"] and machine["cores"] and machine["memory_copy_bytes_per_second"] > 0
    assert {"torch", "transformers", "vit_hf"} <= set(machine["libraries"])
    assert len(machine["busy_share"]) == 2 and all(0 <= busy <= 1 for busy in machine["busy_share"])
    text = "\n".join(lines_of(results))
    assert "model tiny infer float32, 16 px, batch 2" in text and "aten::" in text


@pytest.mark.parametrize("busy", [[0.1, 0.02], [0.6, 0.02]])
def test_a_machine_that_was_not_idle_is_said(busy, tiny_results):
    results = {**tiny_results, "machine": {**tiny_results["machine"], "busy_share": busy}}
    said = [line for line in lines_of(results) if "was not idle: other work took 60%" in line]
    assert len(said) == (busy[0] > 0.5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_updates_the_weights(dtype, tiny, tmp_path):
    task = models_task(
        ModelOptions(peers=["transformers"], mode="train", dtype=dtype, **tiny), tmp_path
    )
    for contender in (models.OurModel(task), models.TransformersModel(task)):
        contender.prepare({"attention": "sdpa", "compile": None})
        before = {name: weights.clone() for name, weights in contender.model.named_parameters()}
        contender.step()
        after = dict(contender.model.named_parameters())
        assert all(weights.dtype == torch.float32 for weights in after.values())
        same = [name for name in before if torch.equal(before[name], after[name])]
        assert [name for name in same if "mask_token" not in name] == []


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_attention_that_is_nearly_as_fast_is_compiled_in_every_way(mode, tiny, tmp_path):
    options = ModelOptions(peers=[], mode=mode, compile=True, **tiny)
    contender = models.OurModel(models_task(options, tmp_path))
    kept = {"keeps_freed_memory": True} if contender.keeps_freed_memory else {}
    assert contender.candidates() == [
        {"attention": name, "compile": None, **kept} for name in ("sdpa", "eager")
    ]
    slow_eager = [(1.0, contender.candidates()[0]), (0.5, contender.candidates()[1])]
    refined = contender.refinements(slow_eager)
    compiled = [one for one in refined if one["compile"] is not None]
    assert {one["attention"] for one in compiled} == {"sdpa"}
    assert all(one.get("keeps_freed_memory", False) == bool(kept) for one in compiled)
    assert [one["compile"] for one in compiled] == options.compile_modes
    assert [one["attention"] for one in refined if one.get("packed")] == (
        ["sdpa", "eager"] if mode == "infer" else []
    )
    good_eager = [(1.0, contender.candidates()[0]), (0.9, contender.candidates()[1])]
    assert {one["attention"] for one in contender.refinements(good_eager)} == {"sdpa", "eager"}


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_settings_say_whether_freed_memory_is_kept(is_kept, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "keep_freed_memory", lambda: is_kept)
    options = ModelOptions(peers=[], compile=True, **tiny)
    contender = models.OurModel(models_task(options, tmp_path))
    tried = contender.candidates() + contender.refinements([(1.0, contender.candidates()[0])])
    assert {one["compile"] for one in tried} == {None, *options.compile_modes}
    assert {one.get("keeps_freed_memory", False) for one in tried} == {is_kept}


def test_only_the_attention_that_is_asked_for_is_tried(tiny, tmp_path):
    options = ModelOptions(peers=[], attention=["eager", "cudnn"], **tiny)
    contender = models.OurModel(models_task(options, tmp_path))
    kept = {"keeps_freed_memory": True} if contender.keeps_freed_memory else {}
    assert contender.candidates() == [{"attention": "eager", "compile": None, **kept}]
    options.attention = ["cudnn"]
    with pytest.raises(CannotTakePart, match="--attention asks for cudnn"):
        contender.settle()


def test_layers_are_compiled_each_on_its_own(tiny, tmp_path):
    contender = models.OurModel(models_task(ModelOptions(peers=[], **tiny), tmp_path))
    contender.prepare({"attention": "sdpa", "compile": None})
    compiled = []
    for layer in contender.model.vit.layers:
        layer.compile = lambda layer=layer: compiled.append(layer)
    contender.compile("layers")
    assert compiled == list(contender.model.vit.layers) != []


def test_everyone_checkpoints_its_layers(tiny, tmp_path):
    options = ModelOptions(
        peers=["transformers"], mode="train", gradient_checkpointing=True, **tiny
    )
    task = models_task(options, tmp_path)
    for contender in (models.OurModel(task), models.TransformersModel(task)):
        contender.prepare({"attention": "sdpa", "compile": None})
        assert all(layer.gradient_checkpointing for layer in contender.layers())
        contender.step()


@pytest.mark.slow
def test_patches_are_dropped_by_ours_alone(tiny, run_here):
    tiny["image_size"] = 32
    options = ModelOptions(
        peers=["transformers", "ours_all_patches"], mode="train", patch_dropout_rate=0.5, **tiny
    )
    results = run_here(options)
    assert set(results["peers"]) == {"transformers", "ours_all_patches"}
    assert all(peer["difference"] < 1e-5 for peer in results["peers"].values())
    whole = run_here(ModelOptions(peers=[], mode="train", **tiny))
    shares = [one["limits"]["matrix_products"]["flops_per_image"] for one in (results, whole)]
    assert 0.4 < shares[0] / shares[1] < 0.75  # class token, patches and head stay


@pytest.mark.parametrize("guess", [1, 2, 60, 1000])
@pytest.mark.parametrize("capacity", [0, 1, 2, 5, 64, 100, 1000])
def test_the_largest_batch(capacity, guess):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= capacity

    found = largest_batch(fits, guess=guess)
    assert found <= capacity < found + max(2, found / 32)
    assert len(tried) == len(set(tried)) < 20


@pytest.mark.parametrize("capacity", [64, 100, 1000])
def test_a_good_guess_saves_trials(capacity):
    peaks = (10 + 3 * 4, 10 + 3 * 8)  # bytes, of 4 images and of 8
    guess, tried = extrapolated(4, peaks, 10 + 3 * capacity), []
    assert guess == capacity
    largest_batch(lambda size: tried.append(size) or size <= capacity, guess=guess)
    assert len(tried) == 2
    assert extrapolated(4, peaks, 0) == 4 and extrapolated(4, (10, 10), 90) == 324


def test_no_graph_is_kept_on_disk_for_another_attention(tiny, tmp_path, monkeypatch):
    """Attention kernels are not in the key by which PyTorch keeps a graph."""
    monkeypatch.setattr(torch._functorch.config, "enable_autograd_cache", True)
    contender = models.OurModel(models_task(ModelOptions(peers=[], **tiny), tmp_path))
    contender.prepare(contender.candidates()[0])
    assert torch._functorch.config.enable_autograd_cache is False


def models_task(options, folder):
    task = Task(options=options, folder=folder)
    subjects.share_weights(task)
    return task


@pytest.mark.slow
def test_twice_the_time_is_a_ratio_of_two(tiny, run_here, monkeypatch):
    slept = subjects.Subject(
        ours=Napping,
        peers={"transformers": Asleep},
        limits={"matrix_products": subjects.MatrixProducts},
        shared="weights",
        share=subjects.share_weights,
        compare=subjects.compare_logits,
    )
    monkeypatch.setitem(subjects.SUBJECTS, "model", slept)
    results = run_here(ModelOptions(peers=["transformers"], **{**tiny, "seconds": 0.1}))
    assert results["peers"]["transformers"]["ratio"]["median"] == pytest.approx(2, rel=0.25)
    # Two images a nap, five naps a turn.
    assert 50 < results["ours"]["images_per_second"] <= 2 / Napping.nap


def test_another_model_is_refused(tiny, run_here, monkeypatch):
    monkeypatch.setitem(subjects.MODEL.peers, "transformers", OtherModel)
    with pytest.raises(ValueError, match=r"got a difference of .* two different things"):
        run_here(ModelOptions(peers=["transformers"], **tiny))


def test_a_peer_that_is_not_installed_is_named(tiny, run_here, monkeypatch):
    class Missing(models.TimmModel):
        libraries = ("timm_of_another_planet",)

    monkeypatch.setitem(subjects.MODEL.peers, "timm", Missing)
    results = run_here(ModelOptions(peers=["timm"], **tiny))
    assert results["peers"] == {} and "timm_of_another_planet" in results["missing"]["timm"]
    assert any(line.startswith("timm ") and "left out" in line for line in lines_of(results))


@pytest.mark.slow
def test_a_peer_that_cannot_hold_the_model_is_left_out(tiny, run_here):
    tiny["size"] = {**tiny["size"], "pooling": "gap"}
    results = run_here(ModelOptions(peers=["transformers"], **tiny))
    assert "cannot hold class_token=False" in results["missing"]["transformers"]


def test_a_setting_that_fails_is_left_out_and_told(tiny, tmp_path):
    class Picky(models.OurModel):
        def build(self, attention):
            if attention == "sdpa":
                raise RuntimeError("no such kernel\nand more")
            return super().build(attention)

    found = Picky(models_task(ModelOptions(peers=[], **tiny), tmp_path)).settle()
    assert found["settings"]["attention"] == "eager"
    assert found["searched"][0]["failed"] == "RuntimeError: no such kernel"


def test_a_machine_that_is_slow_for_a_while_does_not_choose_the_setting(tiny, tmp_path):
    class Timed(models.OurModel):
        seconds = iter(())

        def candidates(self):
            return [{"attention": name, "compile": None} for name in ("sdpa", "eager")]

        def refinements(self, speeds):
            return []

        def prepare(self, settings):
            is_fast = settings["attention"] == "sdpa"
            self.seconds = iter([1.0, 3.0, 3.0, 1.0, 3.0] if is_fast else [2.0] * 5)

        def outcome(self):
            return None

        def measure(self, num_steps):
            return next(self.seconds) * num_steps

    found = Timed(models_task(ModelOptions(peers=[], **tiny), tmp_path)).settle()
    assert found["settings"]["attention"] == "sdpa" and found["seconds_per_step"] == 1.0


@pytest.mark.slow
def test_a_peer_that_fails_in_a_turn_costs_no_others(tiny, run_here, monkeypatch):
    class Exhausted(models.TransformersModel):
        num_turns = 0

        def turn(self, num_steps):
            self.num_turns += 1
            if self.num_turns > 1:
                raise CannotTakePart("OutOfMemoryError: no more")
            return super().turn(num_steps)

    monkeypatch.setitem(subjects.MODEL.peers, "transformers", Exhausted)
    options = ModelOptions(
        peers=["transformers", "ours_all_patches"],
        mode="train",
        patch_dropout_rate=0.5,
        **{**tiny, "turns": 3},
    )
    results = run_here(options)
    assert results["missing"] == {"transformers": "OutOfMemoryError: no more"}
    assert set(results["peers"]) == {"ours_all_patches"}
    assert len(results["peers"]["ours_all_patches"]["ratio"]["pairs"]) == 3


def test_without_ours_there_is_no_result(tiny, run_here, monkeypatch):
    class Exhausted(models.OurModel):
        def turn(self, num_steps):
            raise CannotTakePart("OutOfMemoryError: no more")

    replaced = dataclasses.replace(subjects.MODEL, ours=Exhausted)
    monkeypatch.setitem(subjects.SUBJECTS, "model", replaced)
    with pytest.raises(ValueError, match="ours cannot take part: OutOfMemoryError"):
        run_here(ModelOptions(peers=[], **tiny))


@pytest.mark.slow
def test_a_profile_that_fails_costs_no_results(tiny, monkeypatch):
    class Unprofiled(models.OurModel):
        def profile(self):
            raise CannotTakePart("no memory for it")

    replaced = dataclasses.replace(subjects.MODEL, ours=Unprofiled)
    monkeypatch.setitem(subjects.SUBJECTS, "model", replaced)
    said = []
    options = ModelOptions(peers=[], profile=True, **tiny)
    results = run_benchmark(options, host=Here, say=said.append)
    assert "ours: no profile, as no memory for it" in said
    assert any(line.startswith("ours: ") and "images/s with attention=" in line for line in said)
    assert any(line.startswith("2 turns of each") and "minutes" in line for line in said)
    assert results["ours"]["images_per_second"] > 0 and "profile" not in results["ours"]
    assert results["limits"]["matrix_products"]["profile"]


@pytest.mark.parity
def test_timm_has_our_logits(tiny, run_here):
    pytest.importorskip("timm")
    results = run_here(ModelOptions(peers=["timm"], **tiny))
    assert results["peers"]["timm"]["difference"] < 1e-5


def test_graphs_that_hide_their_memory_have_no_peak(tiny, tmp_path):
    contender = models.OurModel(models_task(ModelOptions(peers=[], **tiny), tmp_path))
    contender.begin()
    contender.settings = {"attention": "sdpa", "compile": "layers"}
    assert contender.peak() is None or contender.peak() > 10**7  # None where no peak is kept
    contender.settings = {"attention": "sdpa", "compile": "reduce-overhead"}
    assert contender.peak() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_profile_of_a_gpu_counts_its_time_once():
    left = torch.randn(4096, 4096, device="cuda")
    told = profile_of(lambda: (left @ left).relu(), device=left.device)
    assert told[0]["share"] > 0.9 and sum(one["share"] for one in told) <= 1 + 1e-9
