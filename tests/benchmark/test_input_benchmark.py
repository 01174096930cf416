# SPDX-License-Identifier: Apache-2.0
"""`vit-hf benchmark input`: from JPEG bytes; what fast decoding costs in pixels is said."""

import pytest
from PIL import Image

from vit_hf.benchmark.inputs import decoding_error
from vit_hf.benchmark.options import InputOptions
from vit_hf.benchmark.photos import write_photos
from vit_hf.benchmark.report import lines_of


def test_what_it_measures(short, run_here):
    options = InputOptions(peers=["transformers"], image_size=32, num_images=3, **short)
    results = run_here(options)
    assert set(results["limits"]) == {"decoding_alone", "decoding_of_the_whole"}
    assert results["ours"]["num_threads"] == results["peers"]["transformers"]["num_threads"] == 1
    # A photo of 640 x 427 pixels is decoded at an eighth for 32 pixels, ten levels a pixel at most.
    error = results["task"]["fast_decoding_error"]
    assert 0 < error["mean"] < 10 and error["mean"] <= error["root_mean_square"] <= error["largest"]
    assert results["peers"]["transformers"]["difference"] > 0
    assert "fast decoding against exact" in "\n".join(lines_of(results))


@pytest.mark.slow
def test_exact_decoding_has_the_pixels_of_transformers(short, run_here):
    options = InputOptions(
        peers=["transformers"], image_size=32, num_images=3, exact_decoding=True, **short
    )
    results = run_here(options)
    assert results["task"]["decoding"] == "exact"
    assert results["peers"]["transformers"]["difference"] < 1e-3


def test_photos_are_enlarged(tmp_path):
    files = write_photos(None, tmp_path / "photos", num_images=2, megapixels=0.5)
    for path in files:
        with Image.open(path) as picture:
            assert picture.format == "JPEG"
            assert picture.width * picture.height == pytest.approx(0.5e6, rel=0.01)
            assert picture.width / picture.height == pytest.approx(640 / 427, rel=0.01)
    assert decoding_error(files, image_size=64)["mean"] > 0


def test_a_folder_is_taken_byte_for_byte_and_repeated(tmp_path, encoded_image):
    stored = [encoded_image(index, size=(40, 30), format="JPEG") for index in range(2)]
    for index, one in enumerate(stored):
        (tmp_path / f"class_{index}").mkdir()
        (tmp_path / f"class_{index}" / "image.JPEG").write_bytes(one)
    files = write_photos(str(tmp_path), tmp_path / "out", num_images=5, megapixels=None)
    assert len(files) == 5
    assert {path.read_bytes() for path in files} == set(stored)


@pytest.mark.parametrize("name", ["nothing_here", "."])
def test_a_folder_without_photos(name, tmp_path):
    with pytest.raises(ValueError, match=r"no folder|without files that end in \.jpg"):
        write_photos(str(tmp_path / name), tmp_path / "out", num_images=1, megapixels=None)
