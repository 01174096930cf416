# SPDX-License-Identifier: Apache-2.0
"""A run that was broken off and resumed ends with the very weights of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from vit_hf.training.averaging import AVERAGE

EVERYTHING = {
    "config": {"hidden_dropout_prob": 0.1, "drop_path_rate": 0.1, "patch_dropout_rate": 0.5},
    "ema_decay": 0.9,
    "layer_decay": 0.8,
    "gradient_accumulation_steps": 2,
    "drop_path_warmup": 0.5,
}


class BreakOff(TrainerCallback):
    """Ends a run without any ceremony, where a kill would."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise InterruptedError


def weights_of(trainer):
    found = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for name, parameter in trainer.model.named_parameters():
        state = trainer.optimizer.state[parameter]
        found |= {f"{name} {key}": torch.as_tensor(value) for key, value in state.items()}
    return found


def assert_identical(found, expected):
    assert found.keys() == expected.keys()
    differing = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not differing


@pytest.mark.parametrize("streaming", [False, True], ids=["in_memory", "streaming"])
@pytest.mark.parametrize(
    ("num_workers", "step"), [(0, 2), pytest.param(2, 7, marks=pytest.mark.slow), (0, 12)]
)
def test_resumed_equals_uninterrupted(tmp_path, make_trainer, streaming, num_workers, step):
    flags = {**EVERYTHING, "streaming": streaming, "dataloader_num_workers": num_workers}
    whole = make_trainer(tmp_path / "whole", **flags)
    whole.train()
    assert any(AVERAGE in name for name in weights_of(whole))
    broken = make_trainer(tmp_path / "broken", callbacks=[BreakOff(step)], **flags)
    with pytest.raises(InterruptedError):
        broken.train()
    torch.manual_seed(99)  # a fresh process would not have this generator either
    resumed = make_trainer(tmp_path / "broken", **flags)
    resumed.train(resume_from_checkpoint="last")
    assert resumed.state.global_step == 12
    assert_identical(weights_of(resumed), weights_of(whole))


def test_an_optimizer_without_a_state_is_resumed(tmp_path, make_trainer):
    whole = make_trainer(tmp_path, optim="sgd", max_steps=6)
    whole.train()
    resumed = make_trainer(tmp_path, optim="sgd", max_steps=6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_identical(weights_of(resumed), weights_of(whole))


def test_a_finished_run_is_not_trained_on(tmp_path, make_trainer):
    whole = make_trainer(tmp_path, **EVERYTHING)
    whole.train()
    again = make_trainer(tmp_path, **EVERYTHING)
    again.train(resume_from_checkpoint="last")
    assert again.state.global_step == 12
    assert_identical(
        dict(again.model.state_dict()), {k: v for k, v in whole.model.state_dict().items()}
    )


def test_an_evaluation_on_the_way_changes_nothing(tmp_path, make_trainer):
    plain = make_trainer(tmp_path / "plain", **EVERYTHING)
    plain.train()
    watched = make_trainer(tmp_path / "watched", eval_strategy="steps", eval_steps=2, **EVERYTHING)
    watched.train()
    assert_identical(weights_of(watched), weights_of(plain))


def test_checkpoints_are_whole_or_not_there(tmp_path, make_trainer, monkeypatch):
    """While a checkpoint is written, no folder of its name is there."""
    seen = []
    trainer = make_trainer(tmp_path, max_steps=6)
    write = type(trainer)._save_rng_state

    def watching(self, output_dir):
        seen.append(sorted(path.name for path in tmp_path.glob("checkpoint-*")))
        assert Path(output_dir).parent.name == ".saving"
        write(self, output_dir)

    monkeypatch.setattr(type(trainer), "_save_rng_state", watching)
    trainer.train()
    assert seen == [[], ["checkpoint-3"]]
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-6"}


def test_half_written_checkpoints_are_not_taken(tmp_path, make_trainer, monkeypatch):
    trainer = make_trainer(tmp_path, max_steps=9)

    def dying(self, output_dir):
        if self.state.global_step == 6:
            raise InterruptedError
        write(self, output_dir)

    write = type(trainer)._save_optimizer_and_scheduler
    monkeypatch.setattr(type(trainer), "_save_optimizer_and_scheduler", dying)
    with pytest.raises(InterruptedError):
        trainer.train()
    assert (tmp_path / ".saving" / "checkpoint-6").is_dir()
    monkeypatch.undo()
    resumed = make_trainer(tmp_path, max_steps=9)
    resumed.train(resume_from_checkpoint="last")
    whole = make_trainer(tmp_path / "whole", max_steps=9)
    whole.train()
    assert_identical(weights_of(resumed), weights_of(whole))


def test_the_best_checkpoint_is_found_under_its_name(tmp_path, make_trainer):
    trainer = make_trainer(
        tmp_path,
        max_steps=6,
        eval_strategy="steps",
        eval_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        save_total_limit=1,
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.is_dir() and best.parent == tmp_path
    state = json.loads((best / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]) == best
    saved = load_file(best / "model.safetensors")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, saved[name])


def command(folder, checkpoint, output_dir, *further):
    words = ["--dataset_name", folder, "--model_name_or_path", checkpoint]
    words += ["--output_dir", output_dir, "--max_steps", 40, "--save_steps", 5]
    words += ["--per_device_train_batch_size", 8, "--dataloader_num_workers", 2, "--seed", 0]
    words += ["--resume_from_checkpoint", "last", "--use_cpu", *further]
    code = "import sys; from vit_hf.cli import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", code, "finetune", *map(str, words)]


def run_and_kill(words, seconds):
    """Runs a command in a process group of its own, and kills it all after some seconds; returns
    how many it took where it ended before, else `None`.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None
    return time.perf_counter() - started


def finish(words):
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    "further",
    [
        [],
        ["--ema_decay", 0.9, "--mixup_alpha", 0.8, "--gradient_accumulation_steps", 2],
    ],
    ids=["plain", "everything"],
)
def test_random_kills_end_the_same(tmp_path, color_folder, tiny_checkpoint, further):
    """Ten runs of the command, each killed once or twice anywhere, then run to the end."""
    folder = color_folder(tmp_path / "images", per_class=40)
    started = time.perf_counter()
    finish(command(folder, tiny_checkpoint, tmp_path / "whole", *further))
    duration = time.perf_counter() - started
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    generator = random.Random(0)
    killed = 0
    for attempt in range(10):
        output_dir = tmp_path / f"killed-{attempt}"
        words = command(folder, tiny_checkpoint, output_dir, *further)
        for is_whole in [True, False][: generator.choice([1, 2])]:
            ended = run_and_kill(words, generator.uniform(0.4, 1.0) * duration)
            if ended is not None:
                duration = ended if is_whole else duration  # the machine is less busy than it was
                break
            killed += 1
        finish(words)
        found = load_file(output_dir / "model.safetensors")
        assert_identical(found, expected)
    print(f"{killed} kills, 10 identical ends")
    assert killed >= 8
