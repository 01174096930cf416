# SPDX-License-Identifier: Apache-2.0
"""Rows to samples, and what becomes of images that cannot be read."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image

from vit_hf.data.collation import ImageCollator
from vit_hf.data.dataset import MAX_SUBSTITUTES, ImageDataset
from vit_hf.data.decoding import UndecodableImage
from vit_hf.data.draws import Draw
from vit_hf.data.fingerprint import fingerprint
from vit_hf.data.mixing import BatchAugmentation
from vit_hf.data.transforms import ImageTransform

EVALUATION = ImageTransform((8, 8), exact_decoding=True)
TRAINING = ImageTransform((8, 8), crop_area=0.3)


def test_a_sample_for_evaluation(image_rows):
    sample = ImageDataset(image_rows(3), EVALUATION)[1]
    assert sample["pixel_values"].shape == (3, 8, 8) and sample["pixel_values"].dtype == np.uint8
    assert sample["labels"] == 1 and sample["undecodable"] == [] and "seed" not in sample


def test_a_sample_for_training_is_a_function_of_its_draw(image_rows):
    dataset = ImageDataset(image_rows(3), TRAINING)
    first, again, other = (dataset[Draw(1, (seed,))]["pixel_values"] for seed in (5, 5, 6))
    assert (first == again).all() and (first != other).any()


def test_rows_without_labels(image_rows):
    rows = [{"image": row["image"]} for row in image_rows(2)]
    assert "labels" not in ImageDataset(rows, EVALUATION)[0]
    assert "labels" not in ImageCollator()([ImageDataset(rows, EVALUATION)[0]])


def test_in_training_another_image_stands_for_one_that_cannot_be_read(image_rows):
    rows = image_rows(4)
    rows[2]["image"] = {"bytes": b"no image", "path": "broken.jpg"}
    dataset = ImageDataset(rows, TRAINING)
    sample = dataset[Draw(2, (7,))]
    assert sample["undecodable"] == ["broken.jpg"] and sample["labels"] != 2
    assert dataset[Draw(2, (7,))]["labels"] == sample["labels"]
    batch = ImageCollator()([sample, dataset[Draw(0, (1,))]])
    assert batch["undecodable"] == ["broken.jpg"] and not batch["is_undecodable"].any()


def test_in_evaluation_it_stays_and_is_marked(image_rows, encoded_image):
    rows = image_rows(4)
    rows[2]["image"] = {"bytes": encoded_image(2)[:60], "path": None}
    batch = ImageCollator()([ImageDataset(rows, EVALUATION)[index] for index in range(4)])
    assert batch["is_undecodable"].tolist() == [False, False, True, False]
    assert batch["undecodable"] == ["row 2"] and batch["labels"].tolist() == [0, 1, 2, 3]
    assert not batch["pixel_values"][2].any()


def test_nothing_but_unreadable_images_is_an_error():
    rows = [{"image": {"bytes": b"x", "path": f"{i}.png"}, "label": 0} for i in range(5)]
    with pytest.raises(UndecodableImage, match=f"got {MAX_SUBSTITUTES} images in a row"):
        ImageDataset(rows, TRAINING)[Draw(0, (0,))]


def test_augmentation_is_decided_for_training_alone(image_rows):
    collate = ImageCollator(BatchAugmentation(flip=True))
    dataset = ImageDataset(image_rows(4), TRAINING)
    assert collate([dataset[Draw(0, (1,))]])["augmentation"]
    assert not collate([ImageDataset(image_rows(1), EVALUATION)[0]])["augmentation"]
    first, again = (collate([dataset[Draw(i, (i,))] for i in range(4)]) for _ in range(2))
    for name, tensor in first["augmentation"].items():
        assert torch.equal(tensor, again["augmentation"][name])


def test_the_fingerprint_of_rows_of_which_some_have_no_image(image_rows, tmp_path):
    images = [row["image"] for row in image_rows(4)]
    (tmp_path / "0.png").write_bytes(images[0]["bytes"])
    missing = {"bytes": None, "path": str(tmp_path / "gone.png")}
    there = {"bytes": None, "path": str(tmp_path / "0.png")}
    found = [
        fingerprint(
            Dataset.from_dict({"image": rows}, features=Features({"image": Image(decode=False)}))
        )
        for rows in (images, [there, *images[1:]], [missing, *images[1:]], [None, *images[1:]])
    ]
    assert found[0] == found[1] != found[2] == found[3]
