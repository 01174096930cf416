# SPDX-License-Identifier: Apache-2.0
"""How fast: the model, the input path or a whole training, against every peer in turns in one run,
and against the machine's own limit.
"""

import json
import logging
import shlex
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

from . import nearest
from .plan import find_model
from .progress import hide_progress_bars

SUBJECTS = ("model", "input", "train")
WITH_COMMAS = ("peers", "compile_modes", "attention")
ABOUT = {
    "model": "the model on images that are on the device",
    "input": "from JPEG bytes to a batch on the device, a core",
    "train": "images on disk to weights updated",
}


@dataclass
class Arguments:
    """The arguments of `vit-hf benchmark`; what is not given is the default of the subject."""

    subject: str = field(
        init=False,
        metadata={
            "word": None,
            "help": "; ".join(f"{name}: {about}" for name, about in ABOUT.items()) + ".",
        },
    )
    json: str | None = field(default=None, metadata={"help": "File for the numbers."})
    model: str | None = field(
        default=None,
        metadata={"help": "model, train: the paper's name, such as L/16; by default B/16."},
    )
    peers: str | None = field(
        default=None,
        metadata={
            "help": "Whom to be held against, with commas. model: transformers,timm,vit_pytorch; "
            "input: transformers,transformers_fast,torchvision; train: transformers,"
            "transformers_default (float32, no workers, batches of 8). By default all; one that "
            "is not installed is named and left out."
        },
    )
    mode: str | None = field(
        default=None, metadata={"help": "model: infer (the default) or train, an update by AdamW."}
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "model, train: float32 (the default) or bfloat16, which in training is mixed "
            "precision; in training on a GPU also float8, for ours alone."
        },
    )
    graph: str | None = field(
        default=None,
        metadata={
            "help": "model: ours is an exported graph, onnx, int8, openvino or torch_export, as "
            "`vit-hf export --to` writes it; the peers stay what they are."
        },
    )
    compile: bool = field(
        default=False,
        metadata={"help": "model, train: tries everyone compiled too, and keeps what is faster."},
    )
    compile_modes: str | None = field(
        default=None,
        metadata={
            "help": "model: with --compile, how, with commas: layers (each alone), default (the "
            "whole model), reduce-overhead (cuda), freezing (cpu, infer). By default all of them."
        },
    )
    attention: str | None = field(
        default=None,
        metadata={
            "help": "model, train: the attention backends that are tried, with commas: sdpa, "
            "eager, cudnn (cuda), flash_attention_2. By default all that there are."
        },
    )
    patch_dropout_rate: float | None = field(
        default=None,
        metadata={"help": "model, training: of ours, held against ours_all_patches too."},
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={"help": "model, training: everyone computes its layers again when going back."},
    )
    largest_batch: bool = field(
        default=False,
        metadata={"help": "model, training on cuda: also finds the largest batch that fits."},
    )
    batch_size: int | None = field(default=None, metadata={"help": "Images at once; by default 8."})
    image_size: int | None = field(
        default=None, metadata={"help": "Pixels a side; by default 224."}
    )
    num_labels: int | None = field(
        default=None, metadata={"help": "model, train: classes; by default 1000."}
    )
    images: str | None = field(
        default=None,
        metadata={
            "help": "input, train: a folder with JPEG files; by default the photos that "
            "scikit-learn ships."
        },
    )
    num_images: int | None = field(
        default=None, metadata={"help": "input, train: how many of them; by default 64."}
    )
    megapixels: float | None = field(
        default=None,
        metadata={"help": "input, train: enlarges the photos beforehand, such as to 12."},
    )
    exact_decoding: bool = field(
        default=False,
        metadata={"help": "input, train: we decode every picture whole, without the JPEG scaling."},
    )
    num_workers: int | None = field(
        default=None, metadata={"help": "train: processes that load images; by default 0."}
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu or cuda; by default a GPU where there is one."}
    )
    turns: int | None = field(
        default=None,
        metadata={"help": "Of each peer, each next to one of ours; by default 7."},
    )
    seconds: float | None = field(
        default=None, metadata={"help": "Of a turn, about; by default 5."}
    )
    profile: bool = field(
        default=False, metadata={"help": "Says where the time of everyone's step goes."}
    )


def run(arguments: Arguments) -> int:
    """Runs a benchmark, prints its table and writes its JSON; returns the exit status."""
    options = options_of(arguments)
    from ..benchmark.report import lines_of
    from ..benchmark.running import run_benchmark

    hide_progress_bars()
    logging.getLogger("vit_hf").setLevel(logging.ERROR)  # what a peer's format has no place for
    command = shlex.join(["vit-hf", *sys.argv[1:]])
    results = run_benchmark(
        options, command=command, say=lambda line: print(line, file=sys.stderr, flush=True)
    )
    for line in lines_of(results):
        print(line)
    if arguments.json is not None:
        path = Path(arguments.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nwrote {path}")
    return 0


def options_of(arguments: Arguments):
    """Returns the options of the subject.

    Raises:
        ValueError: for a subject that there is not, for a flag that another subject takes, and for
            a value that is not allowed.
    """
    if arguments.subject not in SUBJECTS:
        raise ValueError(
            f"got the subject {arguments.subject!r}, allowed: {', '.join(SUBJECTS)}."
            f"{nearest(arguments.subject, SUBJECTS)}"
        )
    given = {item.name: getattr(arguments, item.name) for item in fields(Arguments)}
    given = {
        name: value
        for name, value in given.items()
        if name not in ("subject", "json") and value is not None and value is not False
    }
    name, size = find_model(given.pop("model", "B/16"))
    from ..benchmark.options import SUBJECTS as OPTIONS

    taken = {subject: {item.name for item in fields(OPTIONS[subject])} for subject in SUBJECTS}
    given |= {"model": name} if arguments.model is not None else {}
    for flag in given:
        if flag not in taken[arguments.subject]:
            takers = [subject for subject in SUBJECTS if flag in taken[subject]]
            raise ValueError(
                f"got --{flag} for {arguments.subject!r}, which does not take it; it is for "
                f"{' and '.join(takers)}"
            )
    given |= {"size": size} if "size" in taken[arguments.subject] else {}
    for flag in WITH_COMMAS:
        if flag in given:
            given[flag] = [word.strip() for word in given[flag].split(",") if word.strip()]
    return OPTIONS[arguments.subject](**given)
