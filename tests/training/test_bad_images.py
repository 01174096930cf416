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
