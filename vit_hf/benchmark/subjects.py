# SPDX-License-Identifier: Apache-2.0
"""What can be benchmarked: who takes part, what they share, and when their outcomes are the same.

A further contender is a line here and in `options.PEERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .contender import Contender, Task
from .inputs import (
    PHOTOS,
    DecodingAlone,
    DecodingOfTheWhole,
    FastTransformersInput,
    OurInput,
    TorchvisionInput,
    TransformersInput,
    decoding_error,
)
from .models import (
    OurBfloat16Model,
    OurModel,
    OurModelOnAllPatches,
    TimmModel,
    TransformersModel,
    VitPytorchModel,
)
from .photos import write_photos
from .products import MatrixProducts
from .weights import write_weights
from .whole_training import (
    DefaultTransformersTraining,
    OurBfloat16Training,
    OurTraining,
    TransformersTraining,
)

# How far the logits of the same weights may be apart, as a share of the largest: rounding.
LOGIT_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float8": 0.3}
GRAPH_TOLERANCE = {"int8": 0.2}  # weights and activations of 8 bits, weights that are random
OTHER_GRAPH_TOLERANCE = 0.01
PIXEL_TOLERANCE = 4  # levels of 255, on average: resizing that is not quite the same
# Logits of files: what is different in the pixels is, too.
FILE_LOGIT_TOLERANCE = 0.2


@dataclass(frozen=True)
class Subject:
    """What is benchmarked.

    Args:
        ours: our contender.
        peers: the others, by name.
        limits: what nobody exceeds, the one that counts first.
        shared: what the contenders share, in words.
        share: writes that into a folder; returns the peers that cannot take part, with the reason,
            and what is said of the task.
        compare: `(ours, theirs, options) -> (difference, allowed)` of two outcomes.
    """

    ours: type[Contender]
    peers: dict[str, type[Contender]]
    limits: dict[str, type[Contender]]
    shared: str
    share: Callable[[Task], tuple[dict[str, str], dict[str, Any]]]
    compare: Callable[[np.ndarray, np.ndarray, Any], tuple[float, float]]


def subject_of(options: Any) -> "Subject":
    """Returns what is benchmarked, with our exported graph in our place where that is asked for."""
    subject = SUBJECTS[options.subject]
    if getattr(options, "graph", None) is None:
        return subject
    from .graphs import GraphModel  # imports the exporters

    return replace(subject, ours=GraphModel)


def share_weights(task: Task) -> tuple[dict[str, str], dict[str, Any]]:
    """Writes the weights that the peers of `model` open."""
    peers = {name: MODEL.peers[name] for name in task.options.peers}
    formats = {name: getattr(peer, "weights_format", None) for name, peer in peers.items()}
    wanted = {"vit_hf"} | {form for form in formats.values() if form is not None}
    refused = write_weights(task.options.model_settings, task.folder, formats=wanted)
    return {name: refused[form] for name, form in formats.items() if form in refused}, {}


def share_photos(task: Task) -> tuple[dict[str, str], dict[str, Any]]:
    """Writes the photos; says how they are decoded."""
    options = task.options
    files = write_photos(
        options.images,
        task.folder / PHOTOS,
        num_images=options.num_images,
        megapixels=options.megapixels,
    )
    about = {
        "photos": options.images or "scikit-learn's sample images",
        "mean_bytes": sum(path.stat().st_size for path in files) / len(files),
        "decoding": "exact" if options.exact_decoding else "fast",
        "fast_decoding_error": decoding_error(files, image_size=options.image_size),
    }
    return {}, about


def share_photos_and_weights(task: Task) -> tuple[dict[str, str], dict[str, Any]]:
    """Writes what a whole training begins with."""
    _, about = share_photos(task)
    refused = write_weights(
        task.options.model_settings, task.folder, formats={"vit_hf", "transformers"}
    )
    reason = refused.get("transformers")
    return ({} if reason is None else dict.fromkeys(task.options.peers, reason)), about


def compare_logits(ours: np.ndarray, theirs: np.ndarray, options: Any) -> tuple[float, float]:
    """Returns the largest difference of logits, and what rounding allows."""
    largest = float(np.abs(ours).max())
    tolerance = LOGIT_TOLERANCE[options.dtype]
    if options.graph is not None:
        tolerance = GRAPH_TOLERANCE.get(options.graph, OTHER_GRAPH_TOLERANCE)
    return float(np.abs(ours - theirs).max()), tolerance * largest


def compare_logits_of_files(
    ours: np.ndarray, theirs: np.ndarray, options: Any
) -> tuple[float, float]:
    """Returns the largest difference of logits, and what the decoding allows."""
    return float(np.abs(ours - theirs).max()), FILE_LOGIT_TOLERANCE * float(np.abs(ours).max())


def compare_pixels(ours: np.ndarray, theirs: np.ndarray, options: Any) -> tuple[float, float]:
    """Returns the mean difference of pixels in levels, and what resizing allows."""
    return float(np.abs(ours - theirs).mean()), PIXEL_TOLERANCE


MODEL = Subject(
    ours=OurModel,
    peers={
        "transformers": TransformersModel,
        "timm": TimmModel,
        "vit_pytorch": VitPytorchModel,
        "ours_bfloat16": OurBfloat16Model,
        "ours_all_patches": OurModelOnAllPatches,
    },
    limits={"matrix_products": MatrixProducts},
    shared="weights",
    share=share_weights,
    compare=compare_logits,
)
INPUT = Subject(
    ours=OurInput,
    peers={
        "transformers": TransformersInput,
        "transformers_fast": FastTransformersInput,
        "torchvision": TorchvisionInput,
    },
    limits={"decoding_alone": DecodingAlone, "decoding_of_the_whole": DecodingOfTheWhole},
    shared="photos",
    share=share_photos,
    compare=compare_pixels,
)
TRAIN = Subject(
    ours=OurTraining,
    peers={
        "transformers": TransformersTraining,
        "transformers_default": DefaultTransformersTraining,
        "ours_bfloat16": OurBfloat16Training,
    },
    limits={"matrix_products": MatrixProducts, "decoding_alone": DecodingAlone},
    shared="photos and weights",
    share=share_photos_and_weights,
    compare=compare_logits_of_files,
)
SUBJECTS = {"model": MODEL, "input": INPUT, "train": TRAIN}
