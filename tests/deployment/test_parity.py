# SPDX-License-Identifier: Apache-2.0
"""What the parity check lets through and what it refuses, and the images that it looks at."""

import numpy as np
import pytest
import torch
from PIL import Image

from vit_hf.deployment.formats import FORMATS
from vit_hf.deployment.parity import NotTheSameModel, check, compare, needed_agreement
from vit_hf.deployment.real_images import MOST_IMAGES, real_images

EXPECTED = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))


def verdict(got, *, to: str, expected=EXPECTED):
    check(compare(expected, got), FORMATS[to], num_images=len(expected))


def change_class(count: int) -> torch.Tensor:
    """Returns outputs of which `count` images have another class."""
    got = EXPECTED.clone()
    got[:count] = got[:count].roll(1, dims=1)
    return got


def test_close_outputs_pass_and_others_do_not():
    verdict(EXPECTED + 0.02, to="onnx")
    with pytest.raises(NotTheSameModel, match=r"differ by up to 1\.0e-01 .* allowed: 5%"):
        verdict(EXPECTED + 0.1, to="onnx")
    verdict(EXPECTED + 0.1, to="int8")  # the classes are the same


@pytest.mark.parametrize("to", FORMATS)
def test_one_class_in_a_hundred_may_change(to):
    with pytest.raises(NotTheSameModel, match=r"class of 98\.5% of 200 images, allowed: 99\.0%"):
        verdict(change_class(3), to=to)
    verdict(change_class(2), to="int8")
    assert needed_agreement(20) == 0.95 and needed_agreement(1000) == 0.99


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="every image gets the same output"):
        verdict(torch.zeros(9, 5), to="onnx", expected=torch.zeros(9, 5))
    with pytest.raises(NotTheSameModel, match=r"\(200, 4\)"):
        verdict(EXPECTED[:, :4], to="int8")
    with pytest.raises(NotTheSameModel, match="999 of them finite"):
        verdict(
            EXPECTED.clone().index_put_([torch.tensor(0)] * 2, torch.tensor(float("nan"))),
            to="int8",
        )


def test_the_photographs_are_of_many_sizes(pictures):
    sizes = {picture.size for picture in pictures}
    assert len(pictures) == 20 and len(sizes) > 9
    assert any(width > height for width, height in sizes)
    assert any(width < height for width, height in sizes)
    assert min(min(size) for size in sizes) < 30 and max(max(size) for size in sizes) == 900


def test_images_of_one_s_own(tmp_path, color_folder, pictures):
    color_folder(tmp_path / "classes", per_class=3)
    pictures[0].save(tmp_path / "photograph.jpg")
    pictures[1].convert("L").save(tmp_path / "grey.png")
    assert len(real_images([str(tmp_path / "classes")])) in (2, 6)  # the test split, or all
    files = [str(tmp_path / name) for name in ("photograph.jpg", "grey.png")]
    assert [image.mode for image in real_images(files)] == ["RGB", "RGB"]
    with pytest.raises(ValueError, match=r"got 1 image in .*at least two"):
        real_images(files[:1])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg.*cannot be decoded"):
        real_images([*files, str(tmp_path / "broken.jpg")])
    with pytest.raises(ValueError, match="nowhere"):
        real_images([str(tmp_path / "nowhere")])


def test_of_many_images_some_are_taken_evenly(tmp_path):
    for index in range(MOST_IMAGES + 200):
        Image.fromarray(np.full((1, 1, 3), index % 256, np.uint8)).save(
            tmp_path / f"{index:04}.png"
        )
    taken = real_images([str(tmp_path)])
    assert len(taken) == MOST_IMAGES
    last = (MOST_IMAGES + 199) % 256
    assert taken[0].getpixel((0, 0))[0] == 0 and taken[-1].getpixel((0, 0))[0] == last
