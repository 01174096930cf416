# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are whole or not there."""

import json

import pytest

from vit_hf.training.checkpoints import find_checkpoint, of_groups, publish, read_places


def make_checkpoint(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    state = {"global_step": step, "best_model_checkpoint": "elsewhere"}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    return checkpoint


def test_last_is_the_newest_and_nothing_where_there_is_none(tmp_path):
    assert find_checkpoint("last", tmp_path) is None
    assert find_checkpoint("last", tmp_path / "missing") is None
    for step in (5, 20, 10):
        make_checkpoint(tmp_path, step)
    make_checkpoint(tmp_path / ".saving", 25)  # half written
    for wanted in ("last", True, "True"):
        assert find_checkpoint(wanted, tmp_path) == str(tmp_path / "checkpoint-20")


def test_no_wish_is_a_fresh_start(tmp_path):
    make_checkpoint(tmp_path, 5)
    assert find_checkpoint(None, tmp_path) is None and find_checkpoint(False, tmp_path) is None


def test_a_folder_is_taken_and_another_refused(tmp_path):
    checkpoint = make_checkpoint(tmp_path, 5)
    assert find_checkpoint(str(checkpoint), tmp_path) == str(checkpoint)
    with pytest.raises(ValueError, match=r"is no folder with a trainer_state.json"):
        find_checkpoint(str(tmp_path), tmp_path)
    with pytest.raises(ValueError, match="holds no checkpoint; 'last' starts afresh"):
        find_checkpoint(True, tmp_path / "missing")


def test_publishing_replaces_and_points_to_the_best(tmp_path):
    old = make_checkpoint(tmp_path, 5)
    (old / "stale").touch()
    staged = make_checkpoint(tmp_path / ".saving", 5)
    final = publish(staged, tmp_path, best_step=3)
    assert final == old and not (old / "stale").exists() and not staged.exists()
    state = json.loads((final / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-3")


def test_a_schedule_of_more_groups_that_learned_alike_is_that_of_fewer():
    state = {
        "base_lrs": [0.1] * 8,
        "_last_lr": [0.05] * 8,
        "lr_lambdas": [None] * 8,
        "last_epoch": 3,
    }
    assert of_groups(state, 8) == state and of_groups({"best": 1.0}, 2) == {"best": 1.0}
    assert of_groups(state, 2) == {
        "base_lrs": [0.1] * 2,
        "_last_lr": [0.05] * 2,
        "lr_lambdas": [None] * 2,
        "last_epoch": 3,
    }
    unlike = {"base_lrs": [0.1, 0.05, 0.025], "last_epoch": 3}
    for state, num_groups in ((unlike, 2), ({"base_lrs": [0.1] * 2}, 8)):
        with pytest.raises(ValueError, match=r"got a checkpoint with the learning rates of [23] "):
            of_groups(state, num_groups)


def test_of_each_lane_the_furthest_place_is_taken(tmp_path):
    """Each of two resumed processes has read on in one lane, and knows where the other began."""
    began, moved = ({"epoch": 1, "block": 0, "row": row, "shards": None} for row in (8, 12))
    for rank in (0, 1):
        places = {lane: moved if lane == rank else began for lane in (0, 1)}
        (tmp_path / f"stream_places_{rank}.json").write_text(json.dumps(places))
    assert read_places(tmp_path) == {0: moved, 1: moved}
