# SPDX-License-Identifier: Apache-2.0
"""A bad checkpoint is a `ValueError` that names the file, the array, what was expected and what to
pass.
"""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vit_hf.converters import load_checkpoint, load_image_processor, save_checkpoint
from vit_hf.converters.recognition import open_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures"
JAX = FIXTURES / "vit_jax" / "tok_smallscale.npz"
TIMM = FIXTURES / "timm" / "reg4.safetensors"
TRANSFORMERS = FIXTURES / "transformers_vit" / "cls_smallscale" / "v4"
QUERY = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"


def changed_npz(path: Path, *, source: Path = JAX, drop=(), **arrays) -> Path:
    with np.load(source) as stored:
        kept = {key: stored[key] for key in stored.files if key not in drop}
    np.savez(path, **{**kept, **arrays})
    return path


def test_a_truncated_npz(tmp_path):
    for share in (0.3, 0.9, 0.999):
        path = tmp_path / f"{share}.npz"
        path.write_bytes(JAX.read_bytes()[: int(JAX.stat().st_size * share)])
        with pytest.raises(ValueError, match=rf"{share}\.npz.*(truncated|damaged)"):
            load_checkpoint(path)


def test_a_damaged_npz(tmp_path):
    content = bytearray(JAX.read_bytes())
    middle = content.index(b"query/kernel.npy") + 400
    content[middle : middle + 8] = b"\xff" * 8
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.npz: the array '.*query/kernel'.*damaged"):
        load_checkpoint(path)


def test_a_truncated_safetensors(tmp_path):
    for size in (5, 60, 2000, TIMM.stat().st_size - 4):
        path = tmp_path / "short.safetensors"
        path.write_bytes(TIMM.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"short\.safetensors"):
            load_checkpoint(path, num_attention_heads=4)
    with pytest.raises(ValueError, match=r"truncated: expected \d+ bytes, got \d+"):
        load_checkpoint(path, num_attention_heads=4)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"shape": [1]}, r"'norm\.bias' is damaged.*\[1\] of F32 are 4 bytes.*gives it \d+"),
        ({"dtype": "F8_E4M3"}, r"'norm\.bias' is of the type F8_E4M3, allowed: F64.*convert it"),
    ],
    ids=["shape", "dtype"],
)
def test_a_safetensors_header_that_does_not_fit(tmp_path, change, words):
    content = TIMM.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["norm.bias"] |= change
    changed = json.dumps(header).encode()
    path = tmp_path / "changed.safetensors"
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    with pytest.raises(ValueError, match=words):
        load_checkpoint(path, num_attention_heads=4)


def test_what_is_no_place_and_no_model(tmp_path):
    with pytest.raises(ValueError, match="got source=123, allowed: a folder, a file or a Hub id"):
        load_checkpoint(123)
    for format in ("vit_hf", "timm"):
        with pytest.raises(ValueError, match="got a Linear, allowed: VisionTransformer"):
            save_checkpoint(torch.nn.Linear(2, 2), tmp_path / "model", format=format)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def test_a_pickled_array(tmp_path):
    path = tmp_path / "pickled.npz"
    changed_npz(path, extra=np.array([Bomb()], dtype=object))
    with pytest.raises(
        ValueError, match=r"pickled\.npz: the array 'extra' is a pickled Python object"
    ):
        load_checkpoint(path)


def test_a_pickle_that_runs_code(tmp_path):
    for name, protocol in (("old.bin", 2), ("older.bin", 0)):
        path = tmp_path / name
        path.write_bytes(pickle.dumps({"weight": Bomb()}, protocol=protocol))
        with pytest.raises(ValueError, match=name):
            load_checkpoint(path)
    torch.save({"weight": torch.zeros(1), "epoch": Bomb()}, tmp_path / "new.bin")
    with pytest.raises(ValueError, match=r"new\.bin.*weights_only=True"):
        load_checkpoint(tmp_path / "new.bin")


def test_a_text_file_named_npz(tmp_path):
    path = tmp_path / "page.npz"
    path.write_text("<html>Not found</html>")
    with pytest.raises(ValueError, match=r"page\.npz.*is no checkpoint.*fetch it again"):
        load_checkpoint(path)
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.npz.*is no checkpoint"):
        load_checkpoint(tmp_path / "empty.npz")


@pytest.mark.parametrize(
    "key", ["embedding/kernel", "cls", QUERY, "Transformer/encoder_norm/scale", "head/bias"]
)
def test_a_missing_key(key, tmp_path):
    path = changed_npz(tmp_path / "missing.npz", drop=[key])
    name = "embedding/kernel|cls|query/kernel|encoder_norm/scale|head/bias|positions"
    with pytest.raises(ValueError, match=rf"missing\.npz.*({name})"):
        load_checkpoint(path)


def test_a_wrong_shape(tmp_path):
    path = changed_npz(
        tmp_path / "wrong.npz", **{"Transformer/encoder_norm/scale": np.zeros(47, np.float32)}
    )
    with pytest.raises(
        ValueError, match=r"wrong\.npz.*'Transformer/encoder_norm/scale'.*\(47,\), expected \(48,\)"
    ):
        load_checkpoint(path)
    path = changed_npz(tmp_path / "rank.npz", **{QUERY: np.zeros((48, 48), np.float32)})
    with pytest.raises(ValueError, match=r"rank\.npz.*query/kernel \(48, 48\).*expected"):
        load_checkpoint(path)


def test_shapes_of_our_own(tmp_path):
    folder = save_checkpoint(load_checkpoint(JAX), tmp_path / "own", format="vit_hf")
    with pytest.raises(ValueError, match=r"got hidden_size=96, which the weights of .*own do not"):
        load_checkpoint(folder, hidden_size=96, num_labels=3)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 7}))
    with pytest.raises(ValueError, match=r"got a config\.json, which the weights of .*own do not"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "key", ["extra", "Transformer/encoderblock_7/LayerNorm_0/scale", "params/other"]
)
def test_an_unexpected_key(key, tmp_path):
    path = changed_npz(tmp_path / "extra.npz", **{key: np.zeros(48, np.float32)})
    with pytest.raises(ValueError, match=rf"extra\.npz.*{key if '/7' in key else ''}"):
        load_checkpoint(path)
    weights = load_file(TIMM) | {"dist_token": torch.zeros(1, 1, 32)}
    save_file(weights, tmp_path / "extra.safetensors")
    with pytest.raises(ValueError, match=r"extra\.safetensors.*'dist_token'.*Expected none"):
        load_checkpoint(tmp_path / "extra.safetensors", num_attention_heads=4)


def test_another_kind_of_model(tmp_path):
    np.savez(
        tmp_path / "mixer.npz",
        **{"MixerBlock_0/LayerNorm_0/scale": np.ones(8), "stem/kernel": np.ones(8)},
    )
    with pytest.raises(
        ValueError, match=r"mixer\.npz.*MixerBlock_0.*allowed: vit_hf, transformers, timm"
    ):
        load_checkpoint(tmp_path / "mixer.npz")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin"}))
    with pytest.raises(ValueError, match=r"model_type 'swin'"):
        load_checkpoint(tmp_path)


def timm_folder(folder: Path, **config) -> Path:
    folder.mkdir(exist_ok=True)
    shutil.copy(TIMM, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_unknown_timm_architecture(tmp_path):
    for name in (
        "vit_base_patch16_rpn_224",
        "resnet50",
        "vit_gargantuan_patch16_224",
        "deit_tiny_distilled_patch16_224",
    ):
        with pytest.raises(ValueError, match=rf"'{name}', allowed: the plain Vision Transformers"):
            load_checkpoint(timm_folder(tmp_path / "out", architecture=name))


def test_arguments_of_timm_that_change_the_model(tmp_path):
    folder = timm_folder(
        tmp_path / "out", architecture="vit_tiny_patch16_224", model_args={"mlp_layer": "SwiGLU"}
    )
    with pytest.raises(ValueError, match=r"model_args \{'mlp_layer': 'SwiGLU'\}"):
        load_checkpoint(folder)


def test_heads_are_asked_for():
    with pytest.raises(ValueError, match=r"reg4\.safetensors.*pass num_attention_heads"):
        load_checkpoint(TIMM)


def test_heads_are_not_guessed_from_a_width_that_the_name_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="num_attention_heads"):
        load_checkpoint(timm_folder(tmp_path / "out", architecture="vit_base_patch16_224"))


def test_a_native_size_is_asked_for_and_checked():
    path = FIXTURES / "vit_jax" / "tok_nonsquare.npz"
    with pytest.raises(
        ValueError, match=r"tok_nonsquare\.npz.*15 positions.*native_image_size=\(height, width\)"
    ):
        load_checkpoint(path)
    with pytest.raises(
        ValueError, match=r"native_image_size=\(24, 24\), which has 3x3 patches.*15"
    ):
        load_checkpoint(path, native_image_size=(24, 24))


def test_positions_that_are_not_stored_need_a_size(tmp_path):
    path = changed_npz(
        tmp_path / "sincos.npz",
        source=FIXTURES / "big_vision" / "gap_bf16.npz",
        drop=["pos_embedding"],
    )
    with pytest.raises(ValueError, match=r"sincos\.npz.*native_image_size"):
        load_checkpoint(path)
    assert load_checkpoint(path, image_size=24).config.position_embedding == "sincos_2d"


def test_the_format_said_must_be_the_content():
    with pytest.raises(ValueError, match=r"got format='timm', but the content of .* is 'jax'"):
        load_checkpoint(JAX, format="timm")
    with pytest.raises(ValueError, match="got format='flax', allowed: vit_hf"):
        load_checkpoint(JAX, format="flax")
    with pytest.raises(ValueError, match="got format='flax', allowed: vit_hf"):
        save_checkpoint(load_checkpoint(JAX), "out", format="flax")


def test_names_and_tasks_that_are_not():
    with pytest.raises(ValueError, match="num_heads"):
        load_checkpoint(TIMM, num_heads=4)
    with pytest.raises(ValueError, match="got task='detection', allowed"):
        load_checkpoint(JAX, task="detection")
    with pytest.raises(ValueError, match="num_labels=3 with task='features'"):
        load_checkpoint(JAX, task="features", num_labels=3)
    with pytest.raises(ValueError, match="num_labels=3 and an id2label of 1"):
        load_checkpoint(JAX, num_labels=3, id2label={0: "cat"})


def test_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.npz, which does not exist"):
        load_checkpoint(tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match=r"holds none of model\.safetensors"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"needs the config\.json"):
        shutil.copy(TRANSFORMERS / "model.safetensors", tmp_path)
        load_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="does not say so"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: is no JSON"):
        load_image_processor(tmp_path)


def test_paths_of_the_wrong_kind(tmp_path):
    model = load_checkpoint(JAX)
    with pytest.raises(ValueError, match="a folder; the format 'jax' is one file"):
        save_checkpoint(model, tmp_path, format="jax")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a file; the format 'timm' is a folder"):
        save_checkpoint(model, tmp_path / "file", format="timm")
    with pytest.raises(ValueError, match="allowed for the format 'jax': prefix, names"):
        save_checkpoint(model, tmp_path / "x.npz", format="jax", layout={"style": "linen"})


def test_no_other_framework_is_imported():
    code = (
        "import sys; from vit_hf.converters import load_checkpoint as load; "
        f"load({str(JAX)!r}); load({str(TIMM)!r}, num_attention_heads=4); "
        f"load({str(TRANSFORMERS)!r}); "
        "found = {'jax', 'flax', 'timm', 'tensorflow', 'scipy'} & set(sys.modules); "
        "assert not found - {'scipy'}, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
