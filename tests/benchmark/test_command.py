# SPDX-License-Identifier: Apache-2.0
"""The words of `vit-hf benchmark`: each has an effect, or is refused."""

import re
from dataclasses import fields

import pytest

from vit_hf.benchmark import options, subjects
from vit_hf.cli import benchmark, main, parse


def options_of(*words):
    return benchmark.options_of(*parse(benchmark, ["benchmark", *words]))


def test_words_become_options():
    made = options_of(
        "model", "--model", "l16", "--peers", "timm,transformers", "--mode", "train", "--dtype",
        "bfloat16", "--compile", "--batch_size", "4", "--image_size", "384", "--device", "cpu",
    )  # fmt: skip
    assert made.model == "L/16" and made.size["num_hidden_layers"] == 24
    assert made.peers == ["timm", "transformers"] and made.is_training and made.compile
    assert (made.dtype, made.batch_size, made.image_size) == ("bfloat16", 4, 384)
    assert options_of("model", "--device", "cpu").size["hidden_size"] == 768
    assert options_of("input", "--megapixels", "12", "--exact_decoding").exact_decoding


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["modle"], "got the subject 'modle', allowed: model, input, train. Did you mean 'model'"),
        (["input", "--dtype", "float32"], "got --dtype for 'input'.*it is for model and train"),
        (["input", "--model", "B/16"], "got --model for 'input'"),
        (["input", "--compile"], "got --compile for 'input'"),
        (["model", "--megapixels", "12"], "got --megapixels for 'model'.*input and train"),
        (["model", "--exact_decoding"], "got --exact_decoding for 'model'"),
        (["train", "--mode", "infer"], "got --mode for 'train'.*it is for model"),
        (["input", "--num_workers", "2"], "got --num_workers for 'input'.*it is for train"),
        (["model", "--model", "B/17"], "got the model 'B/17'.*Did you mean"),
        (["model", "--peers", "tim"], "got --peers tim, allowed: .*Did you mean 'timm'"),
        (["input", "--peers", "timm"], "got --peers timm, allowed: transformers, "),
        (["model", "--mode", "trian"], "got --mode trian, allowed: infer, train.*'train'"),
        (
            ["model", "--dtype", "float16"],
            "got --dtype float16, allowed: float32, bfloat16, float8",
        ),
        (
            ["model", "--dtype", "float8", "--device", "cpu"],
            "got --dtype float8, allowed: in train",
        ),
        (["model", "--compile_modes", "layers"], "got --compile_modes without --compile"),
        (
            ["model", "--compile", "--compile_modes", "freezing", "--mode", "train"],
            "got --compile_modes freezing, allowed: layers, default",
        ),
        (["model", "--attention", "sdpa,flash"], "got --attention flash, allowed: sdpa, eager"),
        (["model", "--patch_dropout_rate", "0.5"], "got --patch_dropout_rate with --mode infer"),
        (["model", "--gradient_checkpointing"], "got --gradient_checkpointing with --mode infer"),
        (
            ["model", "--mode", "train", "--largest_batch", "--device", "cpu"],
            "got --largest_batch with --device cpu, allowed: cuda",
        ),
        (["model", "--peers", "ours_bfloat16"], "got --peers ours_bfloat16, allowed: transf"),
        (["train", "--compile_modes", "layers"], "got --compile_modes for 'train'"),
        (["model", "--device", "tpu"], "got --device tpu, allowed: cpu, cuda"),
        (["model", "--batch_size", "0"], "got --batch_size 0, allowed: 1 and more"),
        (["model", "--seconds", "0"], "got --seconds 0, allowed: above 0"),
        (["train", "--num_workers", "-1"], "got --num_workers -1, allowed: 0 and more"),
        (["input", "--megapixels", "-1"], "got --megapixels -1, allowed: above 0"),
    ],
)
def test_words_that_are_refused(words, expected, capsys):
    assert main(["benchmark", *words]) == 2
    assert re.search(expected, capsys.readouterr().err)


def test_every_flag_is_taken_by_a_subject_and_every_option_has_a_flag():
    flags = {item.name for item in fields(benchmark.Arguments)} - {"subject", "json"}
    taken = {item.name for made in options.SUBJECTS.values() for item in fields(made)}
    assert flags == taken - {"size"}


def test_every_peer_has_a_contender():
    for name, subject in subjects.SUBJECTS.items():
        others = tuple(peer for peer in subject.peers if peer.startswith("ours_"))
        assert tuple(subject.peers) == options.PEERS[name] + others


def test_forms_of_ours_are_peers_where_they_are_asked_for():
    words = ("model", "--mode", "train", "--device", "cpu")
    usual = list(options.PEERS["model"])
    assert options_of(*words).peers == usual
    dropped = options_of(*words, "--patch_dropout_rate", "0.5")
    assert dropped.peers == [*usual, "ours_all_patches"]
    assert dropped.our_settings["patch_dropout_rate"] == 0.5
    assert "patch_dropout_rate" not in dropped.model_settings  # of the weights that all share


def test_ways_to_compile():
    assert options_of("model", "--device", "cpu").compile_modes == []
    words = ("model", "--compile", "--device", "cpu")
    assert options_of(*words).compile_modes == ["layers", "default", "freezing"]
    assert options_of(*words, "--mode", "train").compile_modes == ["layers", "default"]
    assert options_of(*words, "--compile_modes", "default, layers").compile_modes == [
        "default", "layers",
    ]  # fmt: skip
