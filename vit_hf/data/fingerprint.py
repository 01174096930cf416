# SPDX-License-Identifier: Apache-2.0
"""A short name for the content of a dataset, to tell whether two runs saw the same images."""

import hashlib

from datasets import Dataset

NUM_SAMPLES = 256  # images whose bytes count; all labels do


def fingerprint(rows) -> str | None:
    """Returns 16 hexadecimal digits; `None` for a stream, which would have to be read.

    It depends on the number of rows, every label, and the bytes of evenly spaced images, not on
    where the dataset lies.
    """
    if not isinstance(rows, Dataset):
        return None
    digest = hashlib.sha256(str(len(rows)).encode())
    if "label" in rows.column_names:
        digest.update(str(rows["label"][:]).encode())
    step = max(1, len(rows) // NUM_SAMPLES)
    for image in rows.select(range(0, len(rows), step))["image"]:
        data = image["bytes"]
        if data is None:
            with open(image["path"], "rb") as file:
                data = file.read()
        digest.update(data)
    return digest.hexdigest()[:16]
