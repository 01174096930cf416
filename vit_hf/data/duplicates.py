# SPDX-License-Identifier: Apache-2.0
"""Duplicates among many images: the same pixels, and near copies (resized, encoded anew).

The paper removes near copies of the test images from the pre-training data (section 4.1).

A picture's *signature* is the low frequencies of its grey 32x32 thumbnail: 63 coefficients of a
cosine transform, weighted by frequency, as natural images have less of the high ones and would
otherwise all look like sky over ground; of length 1. Near copies have signatures of nearly the same
direction. Brightness, contrast and colour do not count. A picture that is plain has noise for a
signature, so it has no near copies.

Comparing all pairs takes time with the square of the number of images. Instead, pictures are
compared that agree in the signs of some coefficients drawn at random, many times over ("bit
sampling", Indyk and Motwani 1998); then it grows with the number times its logarithm.

Shapes: `N` images, `S` coefficients of a signature, `P` pairs.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

THUMBNAIL, FREQUENCIES = 32, 8  # a side, in pixels and coefficients
SIMILARITY = 0.95  # cosine; photographs resized or encoded anew lie above
LEAST_CONTRAST = 2.0  # grey levels (standard deviation); a plainer picture has no signature
NUM_TABLES = 64  # times that signs are drawn; finds nearly all near copies
MAX_SHIFT = 16  # neighbours a picture is compared with, where very many agree in the drawn signs

ORDERS = np.arange(FREQUENCIES)
COSINES = np.cos(np.pi / THUMBNAIL * np.outer(ORDERS, np.arange(THUMBNAIL) + 0.5))  # (8, 32)
COSINES *= np.where(ORDERS == 0, 1, math.sqrt(2))[:, None] / math.sqrt(THUMBNAIL)  # orthonormal
WEIGHTS = np.hypot(*np.meshgrid(ORDERS, ORDERS)).reshape(-1)[1:]  # (S,)


def signature(picture: Image.Image) -> np.ndarray:
    """Returns the signature `(S,)` of a picture, in float16; zeros for a plain one."""
    thumbnail = picture.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    coefficients = COSINES @ np.asarray(thumbnail, dtype=np.float64) @ COSINES.T
    coefficients = coefficients.reshape(-1)[1:]  # (S,), without the mean
    if np.linalg.norm(coefficients) < LEAST_CONTRAST * THUMBNAIL:
        return np.zeros(len(WEIGHTS), dtype=np.float16)
    weighted = coefficients * WEIGHTS
    return (weighted / np.linalg.norm(weighted)).astype(np.float16)


def digest(picture: Image.Image) -> bytes:
    """Returns 16 bytes that are the same for pictures of the same size and pixels only."""
    size = f"{picture.width}x{picture.height}".encode()
    return hashlib.blake2b(size + picture.tobytes(), digest_size=16).digest()


def find_same(digests: Sequence[bytes]) -> np.ndarray:
    """Returns pairs `(P, 2)` that join all images of the same digest."""
    first: dict[bytes, int] = {}
    pairs = [(first.setdefault(value, index), index) for index, value in enumerate(digests)]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)


def find_near(signatures: np.ndarray, *, similarity: float = SIMILARITY) -> np.ndarray:
    """Finds pairs of near copies.

    Args:
        signatures: `(N, S)`, see `signature`.
        similarity: the least cosine between the signatures of near copies.

    Returns:
        The pairs `(P, 2)`, each once, the smaller index first. A few that are hardly similar enough
        may be missed.
    """
    has_signature = np.flatnonzero(signatures.any(axis=1))
    signatures = signatures[has_signature]
    signs = signatures > 0  # (N, S)
    num_signs = max(8, math.ceil(math.log2(len(signatures) + 1)))
    powers = 1 << np.arange(num_signs, dtype=np.int64)
    generator = np.random.default_rng(0)
    found: set[int] = set()  # each pair as one number
    for _ in range(NUM_TABLES):
        drawn = generator.choice(signs.shape[1], num_signs, replace=False)
        for pairs in pairs_of_equal(signs[:, drawn] @ powers):
            near = np.sort(pairs[cosines(signatures, pairs) >= similarity], axis=1)
            found.update((near[:, 0] * len(signatures) + near[:, 1]).tolist())
    left, right = np.divmod(np.array(sorted(found), dtype=np.int64), max(1, len(signatures)))
    return has_signature[np.stack([left, right], axis=1)]


def pairs_of_equal(keys: np.ndarray) -> Iterable[np.ndarray]:
    """Yields pairs `(P, 2)` of places with equal keys `(N,)`; of very many, not all."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for shift in range(1, MAX_SHIFT + 1):
        places = np.flatnonzero(ordered[shift:] == ordered[:-shift])
        if not len(places):
            return
        yield np.stack([order[places], order[places + shift]], axis=1)


def cosines(signatures: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Returns the cosines `(P,)` between the signatures of pairs."""
    left, right = (signatures[pairs[:, side]].astype(np.float32) for side in (0, 1))
    return (left * right).sum(axis=1)


def group(pairs: np.ndarray) -> list[list[int]]:
    """Joins pairs `(P, 2)` that share an image; returns the groups, sorted."""
    parents: dict[int, int] = {}

    def root_of(index: int) -> int:
        while parents.setdefault(index, index) != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for left, right in pairs.tolist():
        low, high = sorted((root_of(left), root_of(right)))
        parents[high] = low
    groups: dict[int, list[int]] = {}
    for index in sorted(parents):
        groups.setdefault(root_of(index), []).append(index)
    return list(groups.values())
