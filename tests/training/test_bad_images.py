# SPDX-License-Identifier: Apache-2.0
"""Unreadable images: each is named once, and too many end the run."""

import json

import pytest

from vit_hf.training.bad_images import BadImages


def names_in(folder):
    lines = (folder / "bad_images.jsonl").read_text().splitlines()
    return [json.loads(line)["image"] for line in lines]


def test_each_is_named_once(tmp_path):
    bad = BadImages(tmp_path, 0.5, 10)
    bad.count(4, ["a.jpg"])
    bad.count(4, ["a.jpg", "b.jpg"])
    bad.record(["b.jpg", "c.jpg"])
    assert names_in(tmp_path) == ["a.jpg", "b.jpg", "c.jpg"]


def test_without_any_there_is_no_file(tmp_path):
    BadImages(tmp_path, 0.5, 10).count(4, [])
    assert not list(tmp_path.iterdir())


def test_too_many_end_the_run_and_are_named(tmp_path):
    bad = BadImages(tmp_path, 0.1, 20)
    bad.count(8, ["a", "b"])
    with pytest.raises(ValueError, match=r"3 of 20 images cannot be decoded.*max_bad_fraction"):
        bad.count(8, ["c"])
    assert names_in(tmp_path) == ["a", "b", "c"]


def test_of_a_stream_those_seen_count(tmp_path):
    bad = BadImages(tmp_path, 0.1, None)
    bad.count(8, [str(index) for index in range(100)])
    with pytest.raises(ValueError, match="101 of 1000"):
        bad.count(8, ["x"])


def test_a_resumed_run_counts_on(tmp_path):
    bad = BadImages(tmp_path, 0.1, None)
    for batch in range(100):
        bad.count(100, [f"{batch}-{index}" for index in range(5)])
    checkpoint = tmp_path / "checkpoint-100"
    checkpoint.mkdir()
    for rank in (0, 1):  # two processes
        bad.save(checkpoint, rank=rank)
    resumed = BadImages(tmp_path, 0.1, None)
    resumed.begin(checkpoint, is_main=True)
    resumed.count(100, ["new"])
    assert resumed.num_seen == 20100 and len(resumed.replaced) == 501
    other = BadImages(tmp_path, 0.1, None)
    other.begin(checkpoint, is_main=False)
    other.count(100, [])
    assert other.num_seen == 100 and not other.replaced  # the main process has the rest
    assert names_in(tmp_path)[-1] == "new" and len(names_in(tmp_path)) == 501


def test_a_fresh_run_in_the_folder_of_another_begins_anew(tmp_path):
    BadImages(tmp_path, 0.5, 10).count(4, ["a", "b"])
    bad = BadImages(tmp_path, 0.5, 10)
    bad.begin(None, is_main=True)
    assert not bad.names and not (tmp_path / "bad_images.jsonl").exists()
    bad.count(4, ["b"])
    assert names_in(tmp_path) == ["b"]


def test_evaluated_images_do_not_end_a_training(tmp_path):
    bad = BadImages(tmp_path, 0.1, 50)
    bad.record([f"test-{index}" for index in range(10)])
    bad.count(8, ["train"])
    assert len(bad.names) == 11 and bad.replaced == {"train"}


def test_the_trainer_keeps_the_account_with_its_checkpoints(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path, max_steps=3)
    trainer.train()
    resumed = make_trainer(tmp_path, max_steps=6)
    resumed.train(resume_from_checkpoint="last")
    assert trainer.bad_images.num_seen == 3 * 4 and resumed.bad_images.num_seen == 6 * 4
