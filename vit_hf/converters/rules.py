# SPDX-License-Identifier: Apache-2.0
"""Rules: which array of a foreign checkpoint is which parameter of ours, written once for both
directions.

A rule pairs names and says in which form the other side stores the array. A form maps there and
back, so one table reads a checkpoint and writes it.

Shapes: `D` width, `A` heads, `E = D / A`, `I` inputs and `O` outputs of a dense layer, `H x W` a
kernel.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Form:
    """How the other side stores what we keep in tensors: a map there and its inverse."""

    to_ours: Callable[[torch.Tensor], Tensors]
    to_theirs: Callable[..., torch.Tensor]


def one_to_one(to_ours: Callable, to_theirs: Callable) -> Form:
    """Returns the form of a single tensor."""
    return Form(lambda theirs: (to_ours(theirs),), to_theirs)


SAME = one_to_one(lambda theirs: theirs, lambda ours: ours)
# A flax dense kernel (I, O), ours (O, I).
DENSE = one_to_one(lambda theirs: theirs.transpose(0, 1), lambda ours: ours.transpose(0, 1))
# A flax convolution kernel (H, W, I, O), ours (O, I, H, W).
CONVOLUTION = one_to_one(
    lambda theirs: theirs.permute(3, 2, 0, 1), lambda ours: ours.permute(2, 3, 1, 0)
)
# A vector kept with the axes of the image, as old flax kept GroupNorm's: (1, 1, 1, C), ours (C,).
IMAGE_VECTOR = one_to_one(lambda theirs: theirs.reshape(-1), lambda ours: ours.reshape(1, 1, 1, -1))
# A 1x1 convolution's weight (O, I, 1, 1) that acts as a dense layer, ours (O, I).
POINTWISE = one_to_one(lambda theirs: theirs.flatten(1), lambda ours: ours[:, :, None, None])


def heads_out(num_heads: int) -> Form:
    """A flax projection into heads (D, A, E), ours (A E, D)."""
    return one_to_one(
        lambda theirs: theirs.flatten(1).transpose(0, 1),
        lambda ours: ours.transpose(0, 1).unflatten(1, (num_heads, -1)),
    )


def heads_in(num_heads: int) -> Form:
    """A flax projection out of heads (A, E, D), ours (D, A E)."""
    return one_to_one(
        lambda theirs: theirs.flatten(0, 1).transpose(0, 1),
        lambda ours: ours.transpose(0, 1).unflatten(0, (num_heads, -1)),
    )


def heads_bias(num_heads: int) -> Form:
    """A flax bias of heads (A, E), ours (A E,)."""
    return one_to_one(
        lambda theirs: theirs.flatten(), lambda ours: ours.unflatten(0, (num_heads, -1))
    )


def fused(num_parts: int) -> Form:
    """Tensors that the other side keeps in one, end to end along the first axis."""
    return Form(lambda theirs: theirs.chunk(num_parts), lambda *ours: torch.cat(ours))


def stacked(form: Form) -> Form:
    """The same array of every layer, that the other side keeps in one with a leading depth axis."""
    return Form(
        lambda theirs: tuple(form.to_ours(layer)[0] for layer in theirs.unbind(0)),
        lambda *ours: torch.stack([form.to_theirs(layer) for layer in ours]),
    )


@dataclass(frozen=True)
class Rule:
    """One array of theirs, our parameters that it holds (by the encoder's names), its form."""

    theirs: str
    ours: tuple[str, ...]
    form: Form


def rule(theirs: str, *ours: str, form: Form = SAME) -> Rule:
    """Returns a rule; ours are one name, or several where theirs is fused or stacked."""
    return Rule(theirs, ours, form)


def rename(
    pairs: dict[str, str], *, theirs: str, ours: str, endings: tuple[str, ...] = ("weight", "bias")
):
    """Returns the rules of modules whose arrays have the same names and forms on both sides.

    Args:
        pairs: names of modules, theirs to ours.
        theirs: prefix of their names.
        ours: prefix of our names.
        endings: the arrays of each module.
    """
    return [
        rule(f"{theirs}{their_name}.{ending}", f"{ours}{our_name}.{ending}")
        for their_name, our_name in pairs.items()
        for ending in endings
    ]


@dataclass
class Description:
    """What the names and shapes of a foreign checkpoint say, before any array is read.

    Args:
        settings: settings of our configuration.
        recognised: one line that says what the checkpoint is.
        task: the task it was made for.
        num_labels: classes of its head, `None` for no head.
        id2label: the names of the classes, where the checkpoint has them.
        layout: how the other side spelled the checkpoint, for writing it back the same way.
        known: arrays that are no part of the model, and why.
        head_keys: the arrays of the head, left out where it is replaced.
        representation_keys: the arrays of the representation layer, left out where it is dropped.
        notes: further lines for the user: what was assumed and what to pass if it is wrong.
    """

    settings: dict
    recognised: str
    task: str = "features"
    num_labels: int | None = None
    id2label: dict[int, str] | None = None
    layout: dict = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    head_keys: tuple[str, ...] = ()
    representation_keys: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def expected_shape(entry: Rule, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Returns the shape that their array has where our parameters have `shapes`."""
    ours = [torch.empty(shape, device="meta") for shape in shapes]
    return tuple(entry.form.to_theirs(*ours).shape)


def own(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the tensor contiguous and in memory of its own, which no other shares."""
    tensor = tensor.contiguous()
    shares = tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
    return tensor.clone() if shares else tensor


def read_parameters(
    arrays, rules: list[Rule], shapes: dict[str, tuple[int, ...]], *, dtype: torch.dtype | None
):
    """Reads the arrays that `rules` name.

    Args:
        arrays: the checkpoint.
        rules: the rules of the parameters wanted.
        shapes: the shape of every parameter of ours.
        dtype: dtype of the parameters, `None` for the arrays' own.

    Returns:
        Our parameters by name.

    Raises:
        ValueError: for an array that is missing or of another shape; every array is checked before
            the first is read.
    """
    wanted = []
    for entry in rules:
        expected = expected_shape(entry, [shapes[name] for name in entry.ours])
        if entry.theirs not in arrays:
            raise ValueError(
                f"{arrays.path}: the key {entry.theirs!r} is missing, expected an array of shape "
                f"{expected} (for {entry.ours[0]}). The file is incomplete, or it is another kind "
                "of model"
            )
        got = arrays.shape(entry.theirs)
        if got != expected:
            raise ValueError(
                f"{arrays.path}: the array {entry.theirs!r} has the shape {got}, expected "
                f"{expected} (for {entry.ours[0]}), as the shapes of the other arrays and the "
                "settings given say. Pass the settings that fit the file, or none"
            )
        wanted.append((got, entry))
    parameters = {}
    # The largest first, so that a copy beside it stands when little else does.
    for _, entry in sorted(wanted, key=lambda pair: -torch.Size(pair[0]).numel()):
        array = arrays.read(entry.theirs)
        for name, tensor in zip(entry.ours, entry.form.to_ours(array), strict=True):
            parameters[name] = own(tensor if dtype is None else tensor.to(dtype))
        del array
    return parameters


def write_parameters(
    rules: list[Rule], parameters: dict[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields their arrays, by name, of our parameters; one at a time."""
    for entry in rules:
        yield entry.theirs, entry.form.to_theirs(*(parameters[name] for name in entry.ours))
