# SPDX-License-Identifier: Apache-2.0
import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from vit_hf.cli import main
from vit_hf.data import duplicates
from vit_hf.data.doctor import examine

BROKEN_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\0\0\0\0"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def photo(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """Noise with the spectrum of photographs."""
    noise = np.random.default_rng(seed).normal(size=(3, 128, 128))
    frequencies = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None])
    frequencies[0, 0] = np.inf
    waves = np.fft.irfft2(np.fft.rfft2(noise) / frequencies**1.2)
    pixels = (waves / waves.std() * 50 + 128).clip(0, 255).astype("uint8")
    return Image.fromarray(pixels.transpose(1, 2, 0)).resize(size)


def encoded(picture: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def make_folder(folder: Path, **counts: int) -> Path:
    """Writes photographs, all different, to folders such as train_cat."""
    for index, (place, count) in enumerate(counts.items()):
        (folder / place.replace("_", "/")).mkdir(parents=True)
        for number in range(count):
            photo(1000 * index + number).save(folder / place.replace("_", "/") / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def troubled(tmp_path_factory) -> Path:
    folder = make_folder(
        tmp_path_factory.mktemp("troubled"),
        train_cat=13,
        train_dog=1,
        test_cat=2,
        test_dog=1,
        test_fox=1,
    )
    train, test = folder / "train" / "cat", folder / "test" / "cat"
    (train / "text.jpg").write_text("not an image")
    whole = (train / "0.png").read_bytes()
    (train / "cut.png").write_bytes(whole[: len(whole) // 2])
    photo(100, (5, 40)).save(train / "thin.png")
    photo(101).convert("L").save(train / "grey.png")
    photo(102).convert("CMYK").save(train / "print.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(103).save(train / "turned.jpg", exif=exif)
    photo(104).save(train / "broken_exif.jpg", exif=BROKEN_EXIF)
    for shade in range(4):
        place = train if shade % 2 else test
        Image.new("RGB", (60, 60), (shade, shade, shade)).save(place / f"dark_{shade}.png")
        night = np.random.default_rng(shade).integers(0, 6, (60, 60, 3), dtype="uint8")
        Image.fromarray(night).save(place / f"night_{shade}.png")
    photo(105).save(train / "same.png")
    photo(105).save(test / "same.bmp")
    photo(106).save(train / "original.png")
    photo(106).resize((300, 250)).save(test / "copy.jpg", quality=60)
    photo(107).save(train / "cat_or_dog.png")
    photo(107).save(folder / "train" / "dog" / "dog_or_cat.jpg", quality=70)
    return folder


@pytest.fixture(scope="module")
def report(troubled) -> dict:
    return examine(str(troubled))


def file_names(images: list[dict]) -> list[str]:
    return [Path(image["name"]).name for image in images]


def test_what_there_is_is_counted(report):
    assert list(report["splits"]) == ["train", "test"]
    assert report["splits"]["train"] == {
        "num_images": 29,
        "num_without_label": 0,
        "num_by_class": {"cat": 27, "dog": 2},
    }
    assert report["sizes"]["width"] == {"least": 5, "median": 96, "largest": 300}
    assert report["sizes"]["shorter_side"]["least"] == 5
    assert report["modes"] == {"RGB": 35, "L": 1, "CMYK": 1}
    assert report["formats"] == {"PNG": 31, "JPEG": 5, "BMP": 1}
    assert report["orientations"] == {"none": 35, "broken": 1, "6": 1}


def test_troubled_files_are_named(report, troubled):
    assert file_names(report["unreadable"]) == ["cut.png", "text.jpg"]
    cut, text = report["unreadable"]
    assert cut["name"] == str(troubled / "train" / "cat" / "cut.png") and cut["split"] == "train"
    assert "truncated" in cut["error"] and text["error"] == "no image of a known format"
    assert file_names(report["too_small"]) == ["thin.png"]
    assert file_names(report["broken_exif"]) == ["broken_exif.jpg"]


def test_copies_are_found_and_nothing_else(report):
    found = {(copies["kind"], *file_names(copies["images"])) for copies in report["copies"]}
    assert found == {
        ("same", "same.png", "same.bmp"),
        ("near", "original.png", "copy.jpg"),
        ("near", "cat_or_dog.png", "dog_or_cat.jpg"),
    }


def test_each_trouble_is_said_once_the_worst_first(report):
    levels = [finding["level"] for finding in report["findings"]]
    assert levels == ["error"] * 2 + ["warning"] * 5 + ["note"] * 3
    assert not report["is_sound"]
    said = [finding["found"] for finding in report["findings"]]
    for start, line in zip(
        [
            "images that cannot be read: 2 (",
            "copies in several splits: 2 in train, 2 in test, such as ",
            "images smaller than a patch of 16 pixels: 1 (",
            "images with a broken EXIF block: 1 (",
            "copies within a split: 1, such as ",
            "copies with different labels: 1, such as ",
            "classes without an image in train: fox",
            "images that are stored turned, and say so in their EXIF block: 1",
            "images that are not RGB: 2 (L 1, CMYK 1)",
            "unequal classes in train: 27 images of cat, 2 of dog",
        ],
        said,
        strict=True,
    ):
        assert line.startswith(start)
    assert said[5].endswith("dog_or_cat.jpg of train (dog)")
    assert all(finding["advice"] for finding in report["findings"])


def test_more_processes_find_the_same(troubled, report):
    assert examine(str(troubled), num_workers=2) == report


def test_the_command(troubled, tmp_path, capsys):
    assert main(["doctor", str(troubled), "--json", str(tmp_path / "out" / "report.json")]) == 1
    shown = capsys.readouterr().out
    assert "train              29        2  2 to 27" in shown
    assert "error: images that cannot be read: 2 (train/cat/cut.png of train, " in shown
    assert "not sound" in shown
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert file_names(written["unreadable"]) == ["cut.png", "text.jpg"]

    sound = make_folder(tmp_path / "sound", train_cat=3, train_dog=3, test_cat=2, test_dog=2)
    assert main(["doctor", str(sound)]) == 0
    assert capsys.readouterr().out.endswith("\nsound\n")
    assert main(["doctor", str(sound), "--patch_size", "100"]) == 0  # a warning
    assert "smaller than a patch of 100 pixels: 10 (" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path / "nowhere")]) == 2


def test_images_without_labels(tmp_path):
    folder = make_folder(tmp_path, all=3)
    photo(0).save(folder / "all" / "again.png")
    report = examine(str(folder))
    assert report["splits"]["train"]["num_without_label"] == 4
    assert [finding["level"] for finding in report["findings"]] == ["warning", "note"]
    copies, classes = report["findings"]
    assert "before a test split is drawn" in copies["advice"]
    assert "classes were not counted: found no label column" in classes["found"]
    with pytest.raises(ValueError, match="got label_column='kind'"):
        examine(str(folder), label_column="kind")


def test_a_class_of_one_image(tmp_path):
    report = examine(str(make_folder(tmp_path, cat=3, dog=1)))
    (finding,) = (found for found in report["findings"] if "one image" in found["found"])
    assert finding["level"] == "warning" and finding["found"].endswith("in train: dog")


def make_shard(path: Path, *, num_images: int) -> bytes:
    with tarfile.open(path, "w") as archive:
        for index in range(num_images):
            stream = io.BytesIO()
            photo(index).save(stream, "PNG")
            for extension, data in (("png", stream.getvalue()), ("cls", str(index % 2).encode())):
                member = tarfile.TarInfo(f"{index:03}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path.read_bytes()


def test_streams(tmp_path):
    whole = make_shard(tmp_path / "train-0.tar", num_images=6)
    streamed = examine(str(tmp_path), streaming=True)
    assert streamed == examine(str(tmp_path))
    assert streamed["splits"]["train"]["num_by_class"] == {"0": 3, "1": 3}
    with pytest.raises(ValueError, match="got num_workers=2 with streaming, allowed: 0"):
        examine(str(tmp_path), streaming=True, num_workers=2)
    (tmp_path / "train-1.tar").write_bytes(whole[: len(whole) * 3 // 5])
    with pytest.raises(ValueError, match="'train' cannot be read beyond image 0 or a few more: un"):
        examine(str(tmp_path), streaming=True)
    with pytest.raises(ValueError, match=r"could not open the dataset .*unexpected end of data"):
        examine(str(tmp_path))


COPIES = {
    "resized to half": lambda picture: picture.resize((48, 40)),
    "resized to double": lambda picture: picture.resize((192, 160)),
    "squashed": lambda picture: picture.resize((64, 64)),
    "encoded": lambda picture: encoded(picture, 30),
    "resized and encoded": lambda picture: encoded(picture.resize((72, 60)), 50),
    "grey": lambda picture: picture.convert("L"),
    "paler": lambda picture: picture.point(lambda value: value // 2 + 60),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_near_and_others_are_not(kind):
    originals = [photo(seed) for seed in range(60)]
    copies = [COPIES[kind](picture).convert("RGB") for picture in originals]
    signatures = np.array([duplicates.signature(picture) for picture in [*originals, *copies]])
    pairs = duplicates.find_near(signatures).tolist()
    assert pairs == [[index, index + 60] for index in range(60)]
    assert not duplicates.find_same([duplicates.digest(p) for p in [*originals, *copies]]).size


def random_signatures(num_images: int) -> np.ndarray:
    directions = np.random.default_rng(0).normal(size=(num_images, len(duplicates.WEIGHTS)))
    return (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype("float16")


def test_nearly_all_near_copies_are_found():
    originals = random_signatures(2000)
    noise = np.random.default_rng(1).normal(size=originals.shape)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    copies = originals + noise * np.linspace(0.1, 0.3, 2000)[:, None]
    copies = (copies / np.linalg.norm(copies, axis=1, keepdims=True)).astype("float16")
    signatures = np.concatenate([originals, copies])
    cosines = signatures.astype("float32") @ signatures.astype("float32").T
    there = np.argwhere(np.triu(cosines >= 0.95, k=1)).tolist()
    found = duplicates.find_near(signatures).tolist()
    assert len(there) > 1900
    assert len(found) > 0.98 * len(there)
    assert {tuple(pair) for pair in found} <= {tuple(pair) for pair in there}


def test_few_pairs_are_compared(monkeypatch):
    compared = []

    def cosines(signatures, pairs):
        compared.append(len(pairs))
        return np.zeros(len(pairs))

    monkeypatch.setattr(duplicates, "cosines", cosines)
    duplicates.find_near(random_signatures(20_000))
    assert 0 < sum(compared) < 40 * 20_000  # of 200,000,000


def test_very_many_copies_cost_no_more():
    signatures = np.repeat(random_signatures(1), 2000, axis=0)
    pairs = duplicates.find_near(signatures)
    assert len(pairs) < 16 * 2000  # of 1,999,000
    assert duplicates.group(pairs) == [list(range(2000))]


def test_sky_over_sea_is_not_yet_a_copy():
    sky = np.repeat([190.0, 90.0], 40)[:, None, None]
    scenes = [
        Image.fromarray((sky + np.asarray(photo(seed)) * 0.4 - 51).clip(0, 255).astype("uint8"))
        for seed in range(20)
    ]
    signatures = np.array([duplicates.signature(scene) for scene in scenes])
    assert not duplicates.find_near(signatures).size


def test_the_same_pixels_need_the_same_size():
    picture = Image.new("RGB", (4, 6), (1, 2, 3))
    again, turned = picture.copy(), Image.new("RGB", (6, 4), (1, 2, 3))
    digests = [duplicates.digest(image) for image in (picture, turned, again)]
    assert duplicates.find_same(digests).tolist() == [[0, 2]]


def test_groups():
    pairs = np.array([[4, 7], [1, 2], [7, 9], [2, 3], [0, 9]])
    assert duplicates.group(pairs) == [[0, 4, 7, 9], [1, 2, 3]]
    assert duplicates.group(np.empty((0, 2), dtype=int)) == []
