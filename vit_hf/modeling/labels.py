# SPDX-License-Identifier: Apache-2.0
"""The labels of a classifier: their names by index, from however many settings say them."""


def default_names(num_labels: int) -> dict[int, str]:
    """The names that transformers gives to labels without one.

    Raises:
        ValueError: for what is no count.
    """
    if not isinstance(num_labels, int) or isinstance(num_labels, bool) or num_labels < 0:
        raise ValueError(
            f"got num_labels={num_labels!r}, allowed: an int of 0 or more, 0 for no head"
        )
    return {index: f"LABEL_{index}" for index in range(num_labels)}


def named_labels(
    num_labels: int | None = None, id2label: dict | None = None, label2id: dict | None = None
) -> dict[int, str]:
    """Returns the names by index that these settings say, of which each but one may be `None`.

    Raises:
        ValueError: where they contradict each other, or the indices are not 0, 1, 2 and so on.
    """
    given, names = "an id2label", id2label
    if names is None and label2id is not None:
        given, names = "a label2id", {index: name for name, index in label2id.items()}
    if names is None:
        return default_names(2 if num_labels is None else num_labels)  # 2 as in transformers
    if num_labels is not None and len(default_names(num_labels)) != len(names):
        raise ValueError(
            f"got num_labels={num_labels} and {given} of {len(names)}; give one of them, or as "
            "many names as labels"
        )
    check_indices(names, given)
    names = {int(index): name for index, name in names.items()}
    for name, index in (label2id or {}).items():
        if names.get(int(index)) != name:
            raise ValueError(
                f"got label2id={{{name!r}: {index}}} and an id2label in which {index} is "
                f"{names.get(int(index))!r}; give one of them"
            )
    return names


def check_indices(names: dict, given: str = "an id2label"):
    """Raises a `ValueError` unless the keys are 0, 1, 2 and so on, as ints or as JSON has them."""
    if {str(index) for index in names} != {str(index) for index in range(len(names))}:
        raise ValueError(
            f"got {given} with the indices {', '.join(map(str, names))}, allowed: 0 ... "
            f"{len(names) - 1}, each once, as they are the places of the logits"
        )


def indices_of(id2label: dict[int, str]) -> dict[str, int]:
    """Returns `label2id`, the inverse."""
    return {name: index for index, name in id2label.items()}
