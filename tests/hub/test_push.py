# SPDX-License-Identifier: Apache-2.0
"""Pushing with the real client over HTTP to the Hub in `loopback_hub.py`, and what goes wrong."""

import json
import os
import subprocess
import sys
import sysconfig

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, hf_hub_download

from vit_hf import VisionTransformerConfig, VisionTransformerForImageClassification
from vit_hf.hub import PushError, export_checkpoint, push, push_or_keep
from vit_hf.hub.push import upload
from vit_hf.hub.reopening import download

REPOSITORY, TOKEN = "tester/model", "hf_write"
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 64, "image_size": (16, 24), "patch_size": 8, "num_labels": 5}

OPEN = """
import importlib.util, json, sys, torch, transformers
from PIL import Image
assert importlib.util.find_spec("vit_hf") is None, "this interpreter sees the package"
repository, revisions = sys.argv[1], json.loads(sys.argv[2])
remote = {"trust_remote_code": True}
heads = []
for revision in revisions:
    at = {"revision": revision}
    auto = transformers.AutoModelForImageClassification
    model = auto.from_pretrained(repository, **at, **remote).eval()
    features = transformers.AutoModel.from_pretrained(repository, **at, **remote).eval()
    transformers.AutoModelForMaskedImageModeling.from_pretrained(repository, **at, **remote)
    processor = transformers.AutoImageProcessor.from_pretrained(repository, **at)
    picture = Image.new("L", (50, 30), 99)
    pixels = processor(picture, return_tensors="pt").pixel_values
    with torch.no_grad():
        best = model(pixels).logits.argmax().item()
        assert features(pixels).last_hidden_state.shape[-1] == model.config.hidden_size
    classify = transformers.pipeline("image-classification", model=repository, **at, **remote)
    assert classify(picture)[0]["label"] == model.config.id2label[best]
    heads.append(model.classifier.bias.tolist())
print(json.dumps(heads))
"""


@pytest.fixture(autouse=True)
def without_xet(monkeypatch):
    # What HF_HUB_DISABLE_XET=1 sets: large files then go over HTTP, which the loopback Hub speaks.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "checkpoint", bias=1.0)


def make_folder(folder, *, bias: float):
    torch.manual_seed(0)
    model = VisionTransformerForImageClassification(VisionTransformerConfig(**SMALL))
    with torch.no_grad():
        model.classifier.weight.normal_()
        model.classifier.bias.fill_(bias)
    return export_checkpoint(model, folder)


def upload_to(hub, folder, *, revision=None, patience=20.0):
    api = HfApi(hub.endpoint, token=TOKEN)
    settings = {"private": None, "commit_message": "A push", "patience": patience}
    return upload(api, folder, repo_id=REPOSITORY, revision=revision, **settings)


def open_without_the_package(hub, revisions, *, home) -> list:
    """Opens revisions in a process that sees the Hub, and not this package; returns the biases."""
    environment = {
        **os.environ,
        "PYTHONPATH": sysconfig.get_paths()["purelib"],  # its .pth files are not read
        "HF_HOME": str(home),
        "HF_ENDPOINT": hub.endpoint,
    }
    command = [sys.executable, "-S", "-c", OPEN, REPOSITORY, json.dumps(revisions)]
    done = subprocess.run(
        command, env=environment, cwd=home.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_what_was_pushed_opens_anywhere_at_every_revision(hub, folder, tmp_path):
    url = push(folder, "model", token=TOKEN, endpoint=hub.endpoint)
    assert url.startswith(f"{hub.endpoint}/{REPOSITORY}/tree/")
    first = url.rsplit("/", 1)[1]
    stored = hub.files(REPOSITORY)
    assert stored == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert hub.repositories[REPOSITORY].commits[first]["model.safetensors"].oid in hub.storage
    assert f'model="{REPOSITORY}"' in stored["README.md"].decode()

    _, second = upload_to(hub, make_folder(folder, bias=2.0))
    _, third = upload_to(hub, make_folder(folder, bias=3.0), revision="half/resolution")
    assert len({first, second, third}) == 3
    biases = open_without_the_package(
        hub, ["main", first, "half/resolution", third], home=tmp_path / "home"
    )
    assert biases == [[2.0] * 5, [1.0] * 5, [3.0] * 5, [3.0] * 5]


def test_large_files_in_parts_are_equal_to_the_byte(make_hub, folder):
    with make_hub(part_size=20_000) as hub:
        upload_to(hub, folder)
        assert len(hub.times_of("upload")) > 3 and len(hub.times_of("complete")) == 1
        stored = hub.files(REPOSITORY)["model.safetensors"]
        assert stored == (folder / "model.safetensors").read_bytes()


def test_only_what_an_export_consists_of_is_pushed(hub, folder):
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "model.safetensors").write_bytes(b"of a run")
    for name in ("training_args.bin", "bad_images.jsonl", ".env"):
        (folder / name).write_text("not for others")
    for name in ("parity.json", "recipe.json", "results.json"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMy own words.\n")
    (folder / "picture.png").write_bytes(b"a picture")
    upload_to(hub, folder)
    stored = hub.files(REPOSITORY)
    assert {"parity.json", "recipe.json", "results.json", "picture.png"} <= set(stored)
    assert stored["README.md"].decode().endswith("My own words.\n")  # a card that was edited
    assert not [name for name in stored if name.endswith((".bin", ".jsonl", ".env"))]
    assert not [name for name in stored if "/" in name]


def test_a_folder_that_is_there_already_makes_no_commit(hub, folder):
    _, first = upload_to(hub, folder)
    _, again = upload_to(hub, folder)
    assert again == first and len(hub.times_of("commit")) == 1


@pytest.mark.parametrize("route", ["create", "validate", "preupload", "upload", "commit"])
@pytest.mark.parametrize("how", [{"status": 503}, {"drop": "before"}, {"drop": "after"}], ids=str)
def test_a_request_that_failed_is_tried_again(hub, folder, route, how):
    hub.fail(route, times=1, **how)
    _, commit = upload_to(hub, folder)
    assert hub.faults[route].times == 0
    assert hub.repositories[REPOSITORY].branches["main"] == commit
    assert len(hub.repositories[REPOSITORY].commits) == 2  # the empty one, and one of ours
    assert hub.files(REPOSITORY)["config.json"] == (folder / "config.json").read_bytes()


def test_an_upload_that_breaks_off_midway_is_begun_again(hub, folder):
    hub.fail("upload", drop="midway")
    upload_to(hub, folder)
    stored = hub.files(REPOSITORY)["model.safetensors"]
    assert stored == (folder / "model.safetensors").read_bytes()
    assert len(hub.times_of("upload")) == 2


@pytest.mark.parametrize(
    "headers",
    [{"Retry_After": "2"}, {"RateLimit": '"api";r=0;t=2'}],
    ids=["Retry-After", "RateLimit"],
)
def test_a_hub_that_asks_to_wait_is_waited_for(hub, folder, headers):
    hub.fail("commit", status=429, headers=headers)
    upload_to(hub, folder)
    first, second = hub.times_of("commit")
    assert 2 <= second - first < 10


def test_a_wait_that_is_too_long_is_not_begun(hub, folder):
    hub.fail("create", status=429, headers={"Retry_After": "3600"})
    account = push_or_keep(folder, REPOSITORY, token=TOKEN, endpoint=hub.endpoint)
    assert not account.pushed and "429" in account.message
    assert len(hub.times_of("create")) == 1


def test_pauses_grow(hub, folder):
    hub.fail("create", times=2)
    upload_to(hub, folder)
    first, second, third = hub.times_of("create")
    assert second - first >= 1 and third - second >= 2


def test_a_hub_that_stays_down_ends_nothing(hub, folder):
    hub.fail("commit", times=1000)
    account = push_or_keep(
        folder, REPOSITORY, token=TOKEN, endpoint=hub.endpoint, revision="v 2", patience=1.5
    )
    assert not account.pushed and account.url is None
    assert account.message.startswith("not pushed: ") and "503" in account.message
    assert (
        f"kept in {folder}; push it with: vit-hf export {folder} --push_to_hub "
        f"--hub_model_id {REPOSITORY} --hub_revision 'v 2'"
    ) in account.message
    assert len(hub.times_of("commit")) == 2
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("token", "repository", "expected"),
    [
        (
            "hf_nobody",
            REPOSITORY,
            r"does not know who pushes.*\(401\): log in with `hf auth login`",
        ),
        (
            "hf_read",
            REPOSITORY,
            r"has no right to write to tester/model \(403\): pass one that has",
        ),
        (TOKEN, "someone/model", r"has no right to write to someone/model \(403\)"),
    ],
)
def test_those_who_may_not_push_are_told_what_to_do_at_once(
    hub, folder, token, repository, expected
):
    with pytest.raises(PushError, match=expected) as raised:
        push(folder, repository, token=token, endpoint=hub.endpoint)
    assert f"kept in {folder}" in str(raised.value)
    assert len(hub.log) <= 2 and len(hub.times_of("create")) == 1  # not tried again
    assert not hub.repositories


def test_reading_is_not_writing(hub, folder, monkeypatch):
    upload_to(hub, folder)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)  # as HF_ENDPOINT does
    with pytest.raises(PushError, match=r"\(403\)"):
        push(folder, REPOSITORY, token="hf_read", endpoint=hub.endpoint)
    assert not hub.times_of("commit")[1:]


def test_bad_names_and_folders_are_refused_before_anything_is_sent(hub, folder, tmp_path):
    for name in ("a/b/c", "owner/na me", "owner/-name", ""):
        with pytest.raises(ValueError, match="allowed: owner/name"):
            push(folder, name, token=TOKEN, endpoint=hub.endpoint)
    with pytest.raises(ValueError, match=r"lacks config.json. Export it first: vit-hf export"):
        push(tmp_path, REPOSITORY, token=TOKEN, endpoint=hub.endpoint)
    (folder / "modeling_vision_transformer.py").unlink()
    with pytest.raises(ValueError, match=r"it lacks modeling_vision_transformer.py"):
        push(folder, REPOSITORY, token=TOKEN, endpoint=hub.endpoint)
    assert not push_or_keep(tmp_path, REPOSITORY, endpoint=hub.endpoint).pushed  # and not raised
    assert not hub.log


def test_the_token_is_never_pushed(hub, folder):
    (folder / "recipe.json").write_text(json.dumps({"name": "x", "source": f"--hub_token {TOKEN}"}))
    with pytest.raises(PushError, match=r"the access token stands in README.md, recipe.json"):
        push(folder, REPOSITORY, token=TOKEN, endpoint=hub.endpoint)
    assert hub.files(REPOSITORY) == {}


def test_nobody_listens(make_hub, folder):
    with make_hub() as gone:
        endpoint = gone.endpoint
    account = push_or_keep(folder, REPOSITORY, token=TOKEN, endpoint=endpoint, patience=0)
    assert not account.pushed and "refused" in account.message


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_other_bytes_on_the_hub_are_no_success(hub, folder, name):
    hub.spoiled.add(name)
    with pytest.raises(PushError, match=f"gives back other bytes than those of {name} for the"):
        push(folder, REPOSITORY, token=TOKEN, endpoint=hub.endpoint)


@pytest.mark.slow
def test_what_does_not_open_is_no_success(hub, folder):
    code = folder / "encoder.py"
    code.write_text(code.read_text() + "\nraise ImportError('not for you')\n")
    account = push_or_keep(folder, REPOSITORY, token=TOKEN, endpoint=hub.endpoint)
    assert not account.pushed
    assert "was pushed, but does not open with AutoModelForImageClassification" in account.message
    assert "not for you" in account.message


def test_a_busy_hub_is_asked_again_when_it_gives_back(hub, folder, tmp_path):
    _, commit = upload_to(hub, folder)
    hub.fail("resolve", status=503)
    hub.fail("stored", drop="before")
    api = HfApi(hub.endpoint, token=TOKEN)
    downloaded = download(
        REPOSITORY, commit, files=["model.safetensors"], api=api, cache=tmp_path, patience=20
    )
    assert hub.faults["resolve"].times == hub.faults["stored"].times == 0
    assert (downloaded / "model.safetensors").read_bytes() == hub.files(REPOSITORY)[
        "model.safetensors"
    ]


def test_private_repositories_are_for_those_who_may(hub, folder, tmp_path):
    api = HfApi(hub.endpoint, token=TOKEN)
    settings = {"revision": None, "commit_message": "A push", "patience": 5}
    upload(api, folder, repo_id=REPOSITORY, private=True, **settings)
    assert hub.repositories[REPOSITORY].private
    from_there = {"repo_id": REPOSITORY, "filename": "config.json", "endpoint": hub.endpoint}
    with pytest.raises(OSError, match="401"):
        hf_hub_download(**from_there, token=False, cache_dir=tmp_path / "nobody")
    hf_hub_download(**from_there, token="hf_read", cache_dir=tmp_path / "reader")
