# SPDX-License-Identifier: Apache-2.0
"""The arrays of a checkpoint file, one at a time: names and shapes first, each array when asked
for.

A file is opened by what it holds, never by its name. Nothing in it is executed: pickled arrays are
refused, and old PyTorch files are opened with `weights_only=True`. Only one array is in memory
beside those that the caller keeps.
"""

import json
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

# The names that a safetensors header gives to dtypes.
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
BFLOAT16_IN_NUMPY = np.dtype("V2")  # numpy has no bfloat16: JAX's files hold its raw bytes


@dataclass(frozen=True)
class StoredArray:
    """One array of a file: its shape, its dtype, and how to read it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]


class Arrays:
    """The arrays of one checkpoint by name; the values are read when asked for."""

    def __init__(self, path: Path, stored: dict[str, StoredArray], *, kind: str):
        self.path = path
        self.kind = kind
        self._stored = stored

    def __contains__(self, key: str) -> bool:
        return key in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def shape(self, key: str) -> tuple[int, ...]:
        """Returns the shape of the array `key`; a `ValueError` where the file has none of that
        name.
        """
        self._require(key)
        return self._stored[key].shape

    def dtype(self, key: str) -> torch.dtype:
        """Returns the dtype of the array `key`."""
        self._require(key)
        return self._stored[key].dtype

    def read(self, key: str) -> torch.Tensor:
        """Reads the array `key` into memory of its own.

        Raises:
            ValueError: where the file has no such array, or its bytes are not all there.
        """
        self._require(key)
        try:
            return self._stored[key].read()
        except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{self.path}: the array {key!r} cannot be read ({error}). The file is truncated "
                "or damaged: fetch it again"
            ) from error

    def _require(self, key: str):
        if key not in self._stored:
            raise ValueError(f"{self.path}: there is no array {key!r}, which was expected")


def open_arrays(path: Path) -> Arrays:
    """Opens a checkpoint file by its first bytes: `.npz`, safetensors, or PyTorch's own format.

    Raises:
        ValueError: for a file of another kind, one cut short, or one with pickled objects.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[:4] == b"PK\x03\x04":
        return open_zip(path)
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return Arrays(path, list_safetensors(path), kind="safetensors")
    if start[:1] == b"\x80":  # how every pickle starts
        return Arrays(path, list_pytorch(path), kind="pytorch")
    raise ValueError(
        f"got {path}, which starts with {start!r} and is no checkpoint. Allowed: a NumPy .npz "
        "file, a .safetensors file, or a PyTorch .bin file. It may be the text of a web page or of "
        "a Git LFS pointer: fetch it again"
    )


def open_zip(path: Path) -> Arrays:
    """Opens a zip archive, which is NumPy's or PyTorch's."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path}: the archive is truncated or damaged ({error}): fetch it again"
        ) from error
    if any(name.endswith("data.pkl") for name in names):
        return Arrays(path, list_pytorch(path), kind="pytorch")
    return Arrays(path, list_npz(path), kind="npz")


def list_npz(path: Path) -> dict[str, StoredArray]:
    """Lists the arrays of an `.npz` file from the headers of its members."""
    stored = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                shape, dtype = read_npy_header(file, path=path, member=member)
            stored[member.removesuffix(".npy")] = StoredArray(
                shape, dtype, lambda member=member: read_npy(path, member)
            )
    return stored


def read_npy_header(file, *, path: Path, member: str) -> tuple[tuple[int, ...], torch.dtype]:
    """Returns the shape and the dtype in the header of one member of an `.npz` file."""
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: the member {member!r} is no NumPy array ({error})") from error
    if dtype.hasobject:
        raise ValueError(
            f"{path}: the array {member.removesuffix('.npy')!r} is a pickled Python object, which "
            "is not opened as it could run code. Expected: an array of numbers. Save the "
            "parameters one array per name with numpy.savez"
        )
    if dtype == BFLOAT16_IN_NUMPY:
        return tuple(shape), torch.bfloat16
    try:
        return tuple(shape), torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
    except TypeError as error:
        raise ValueError(
            f"{path}: the array {member!r} has dtype {dtype}, expected a float or an int"
        ) from error


def read_npy(path: Path, member: str) -> torch.Tensor:
    """Reads one array of an `.npz` file."""
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    if array.dtype == BFLOAT16_IN_NUMPY:
        return torch.from_numpy(array.view(np.uint16).astype(np.uint16)).view(torch.bfloat16)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)


def list_safetensors(path: Path) -> dict[str, StoredArray]:
    """Lists the arrays of a safetensors file from its header: its length, then JSON, then the
    bytes.

    The file is read and not mapped, so that its pages do not count twice beside the parameters.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length))
            entries = {
                key: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
                for key, entry in header.items()
                if key != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: the safetensors header cannot be read ({error!r}): fetch it again"
            ) from error
    for key, (dtype, shape, first, last) in entries.items():
        if dtype not in SAFETENSORS_DTYPES:
            raise ValueError(
                f"{path}: the array {key!r} is of the type {dtype}, allowed: "
                f"{', '.join(SAFETENSORS_DTYPES)}; convert it to one of these first"
            )
        expected = math.prod(shape) * SAFETENSORS_DTYPES[dtype].itemsize
        if last - first != expected:
            raise ValueError(
                f"{path}: the array {key!r} is damaged: {list(shape)} of {dtype} are {expected} "
                f"bytes, and the header gives it {last - first}. Fetch it again"
            )
    start, size = 8 + length, path.stat().st_size
    end = start + max((last for _, _, _, last in entries.values()), default=0)
    if end > size:
        raise ValueError(
            f"{path}: the file is truncated: expected {end} bytes, got {size}. Fetch it again"
        )
    return {
        key: StoredArray(
            shape,
            SAFETENSORS_DTYPES[dtype],
            lambda shape=shape, dtype=dtype, first=first: read_bytes(
                path, start + first, shape, SAFETENSORS_DTYPES[dtype]
            ),
        )
        for key, (dtype, shape, first, _) in entries.items()
    }


def read_bytes(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Reads a tensor of raw bytes at `offset`."""
    tensor = torch.empty(shape, dtype=dtype)
    buffer = tensor.reshape(-1).view(torch.uint8).numpy().data
    with open(path, "rb") as file:
        file.seek(offset)
        if file.readinto(buffer) != len(buffer):
            raise EOFError("the bytes end too early")
    return tensor


def list_pytorch(path: Path) -> dict[str, StoredArray]:
    """Lists the tensors of a PyTorch state dict, opened so that it cannot run code."""
    try:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:  # files from before PyTorch 1.6 cannot be mapped
            if "mmap" not in str(error):
                raise
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{path}: cannot be opened with weights_only=True ({str(error).splitlines()[0]}). It "
            "is damaged, or holds Python objects beside tensors: save its state_dict alone"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(
            f"{path}: holds a {type(state).__name__}, expected a state dict of tensors by name"
        )
    for wrapper in ("state_dict", "model"):
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    return {
        key: StoredArray(
            tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor.detach().clone()
        )
        for key, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    }


def merge(path: Path, parts: list[Arrays]) -> Arrays:
    """Returns the arrays of the files that one checkpoint is spread over."""
    stored = {}
    for part in parts:
        stored.update(part._stored)
    return Arrays(path, stored, kind=parts[0].kind)


def write_npz(path: Path, arrays: Iterator[tuple[str, torch.Tensor]]):
    """Writes named tensors to an `.npz` file, one at a time; bfloat16 as its raw bytes, as JAX's
    files have it.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key, tensor in arrays:
            tensor = tensor.detach().cpu().contiguous()
            if tensor.dtype == torch.bfloat16:
                array = tensor.view(torch.uint16).numpy().view(BFLOAT16_IN_NUMPY)
            else:
                array = tensor.numpy()
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def write_safetensors(
    path: Path,
    entries: list[tuple[str, tuple[int, ...], torch.dtype]],
    tensors: Iterator[torch.Tensor],
):
    """Writes a safetensors file, one tensor at a time.

    Args:
        path: the file.
        entries: name, shape and dtype of every tensor.
        tensors: the tensors, in the order of `entries`.
    """
    names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape, dtype in entries:
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[key] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors:
            file.write(
                tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )
