# SPDX-License-Identifier: Apache-2.0
"""What the account of a run calls its dataset, and links to."""

import pytest

from vit_hf.experiment.results import called, hub_id_of


@pytest.mark.parametrize(
    ("dataset_name", "hub_id", "name"),
    [
        ("uoft-cs/cifar10", "uoft-cs/cifar10", "uoft-cs/cifar10"),
        ("uoft-cs/cifar10:plain_text", "uoft-cs/cifar10", "uoft-cs/cifar10"),
        ("mnist", "mnist", "mnist"),
        ("photos", None, "photos"),
        ("../here/photos", None, "photos"),
        (".", None, "here"),
        ("photos/*.tar", None, "photos"),
        ("photos/train.parquet", None, "train.parquet"),
        ("https://host/train.tar", None, "https://host/train.tar"),
        (None, None, "scikit-learn digits"),
    ],
)
def test_datasets_have_their_own_names(dataset_name, hub_id, name, tmp_path, monkeypatch):
    (tmp_path / "here" / "photos").mkdir(parents=True)
    (tmp_path / "here" / "photos" / "train.parquet").touch()
    monkeypatch.chdir(tmp_path / "here")
    assert hub_id_of(dataset_name) == hub_id and called(dataset_name) == name
