"""The content of a checkpoint, whatever its file format, and helpers of all readers."""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharpcli.errors import SharpError
from sharpcli.runtime.text import visible

__all__ = [
    "Checkpoint",
    "Metadata",
    "NotPlain",
    "TooManyValues",
    "allowance",
    "first_not_finite",
    "is_text",
    "listed",
    "open_error",
    "parse_json",
    "parse_scalar",
    "pieces",
    "place",
    "plain_scalar",
    "quoted",
    "read_into",
    "read_json",
    "refuse_many",
    "regular_size",
    "sha256_of",
]

Metadata = dict[str, str | int | float | bool]

_LONGEST_TEXT = 200  # characters; anything longer is a log or a config file, not a setting
_LONGEST_NAME = 120  # characters of a tensor's name that a message shows
# bytes of Python objects that any file may become; torch and Python alone take four times that
_SMALL = 64 * 2**20
_NAME_MEMORY = 4000  # bytes for one tensor up to its row in a table; measured: 1500
_PIECE = 2**24  # elements
_LARGEST_JSON = 256 * 2**20  # bytes; an index of a million tensors takes half of this
_LARGEST_INT = 2**63  # every JSON reader and table can hold smaller integers
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
# Each text matches in one way only: with two ways, matching takes the square of its length.
_FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


class NotPlain(NamedTuple):
    """Placeholder for a tensor of a torch file that cannot be measured: the reason and a hint."""

    reason: str
    hint: str


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, and what the file says about the training that made them.

    `tensors` are on the CPU in their stored dtype; tied tensors may share storage. `sha256` is the
    file's digest. For a sharded checkpoint it is the digest of the shards' binary digests, joined
    in the order of the file names. `notes` list what was converted or skipped. `optimizer` is the
    optimizer's state dict, if the checkpoint has one.

    `others` are further mappings of tensors in the file by their key, such as an average of the
    weights. `undecided` has the keys of several mappings of which none is the usual one: `tensors`
    then holds all of them, each name after its key.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: Metadata
    sha256: str
    notes: tuple[str, ...] = ()
    optimizer: Mapping[str, Any] | None = None
    others: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    undecided: tuple[str, ...] = ()


def allowance(size: int) -> int:
    """Bytes of Python objects, without the tensors, that a file of `size` bytes may become.

    A few bytes of pickle or JSON can become an object of 60 bytes or more. Files from real
    training stay far below this limit.
    """
    return _SMALL + 2 * size


class TooManyValues(ValueError):  # noqa: N818 (a reason, not a fault of the program)
    """Raised instead of parsing JSON that would become more objects than `allowance` permits."""


def parse_json(text: bytes, size: int, **hooks: Any) -> Any:
    """Parse JSON in UTF-8 from a file of `size` bytes; `json.loads` gets the hooks.

    Raises:
        TooManyValues: the values would take more memory than `allowance(size)`.
        ValueError: `text` is not JSON, or is nested too deeply.
    """
    # bytes of a list, an object, a member of an object with its key, and any other value
    needed = 64 * text.count(b"[") + 64 * text.count(b"{")
    needed += 250 * text.count(b":") + 40 * text.count(b",")
    if needed > allowance(size):
        raise TooManyValues("it holds more values than any checkpoint")
    try:
        return json.loads(text.decode("utf-8"), **hooks)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `SharpError` if there is none."""
    size = regular_size(path)
    if size > _LARGEST_JSON:
        raise SharpError(f"{path}: is too large to be an index or a state", "check the file")
    try:
        with path.open("rb") as file:
            table = parse_json(file.read(size), size)
    except OSError as error:
        raise open_error(path, error) from error
    except TooManyValues as error:
        raise SharpError(f"{path}: is refused: {error}", "check the file") from error
    except ValueError as error:
        raise SharpError(f"{path}: is not JSON", "copy or download it again") from error
    if not isinstance(table, dict):
        raise SharpError(f"{path}: is not a JSON object", "copy or download it again")
    return table


def refuse_many(path: Path, count: int, size: int) -> None:
    """Raise `SharpError` if `count` tensors are implausibly many for a file of `size` bytes."""
    if count * _NAME_MEMORY > allowance(size):
        raise SharpError(
            f"{path}: has {count} tensors in {size} bytes",
            "save only the weights to measure, each under one name",
        )


def regular_size(path: Path) -> int:
    """The size in bytes of the file at `path`; raises `SharpError` for a pipe, device or folder."""
    try:
        status = path.stat()
    except OSError as error:
        raise open_error(path, error) from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise SharpError(f"{path}: is {kind}", "put the file itself there")
    if status.st_size == 0:
        raise SharpError(f"{path}: is empty", "copy or save the checkpoint again")
    return status.st_size


def read_into(file: BufferedReader | BytesIO, data: Tensor) -> bool:
    """Fill `data` (bytes) from the file's current position; False if the file ends too early."""
    buffer = data.numpy().data
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer[filled:])
        if not count:
            return False
        filled += count
    return True


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity, None if all are finite."""
    for name, tensor in _each_once(tensors):
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        dense = tensor if tensor.layout == torch.strided else _parts(tensor)[-1]
        for piece in pieces(dense):
            # float8 has no arithmetic of its own
            values = piece.float() if piece.element_size() == 1 else piece
            if not bool(torch.isfinite(values).all()):
                return name
    return None


def pieces(tensor: Tensor) -> Iterable[Tensor]:
    """Split `tensor` into parts of 16 million elements, so that temporaries stay small."""
    if tensor.numel() <= _PIECE or not tensor.is_contiguous():
        return (tensor,)
    return torch.split(tensor.reshape(-1), _PIECE)


def place(tensor: Tensor) -> tuple[object, ...]:
    """A key that two tensors share exactly if they view the same data in the same way."""
    if tensor.layout != torch.strided:
        parts = _parts(tensor)
        seen = tuple(map(place, parts)) if parts else (id(tensor),)
        return (tensor.layout, tuple(tensor.shape), *seen)
    storage = tensor.untyped_storage()
    address: object = tensor.data_ptr()
    if not tensor.numel() or not storage.data_ptr():  # empty, or on the meta device: no address
        address = (storage._cdata, tensor.storage_offset())
    marks = tensor.is_conj(), tensor.is_neg()
    return address, tensor.dtype, tuple(tensor.shape), tensor.stride(), marks


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that a sparse one is made of, its values last; none if that is unknown."""
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return ()


def tied(named: Iterable[tuple[str, Tensor]]) -> dict[str, list[str]]:
    """Map each name to all names of its tensor, in order."""
    groups: dict[tuple[object, ...], list[str]] = {}
    names = {}
    for name, tensor in named:
        names[name] = groups.setdefault(place(tensor), [])
        names[name].append(name)
    return names


def _each_once(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors without repeats: a file may name one tensor many times."""
    seen: set[tuple[object, ...]] = set()
    for name, tensor in tensors.items():
        if (it := place(tensor)) not in seen:
            seen.add(it)
            yield name, tensor


def plain_scalar(value: object) -> str | int | float | bool | None:
    """`value` if it is a short text, a bool or a finite number, else None."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < _LARGEST_INT else None
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return str(value) if 0 < len(value) <= _LONGEST_TEXT and is_text(value) else None
    return None


def parse_scalar(text: str) -> str | int | float | bool:
    """Convert the text of a number or a truth value; return any other text unchanged."""
    if text in ("true", "True", "false", "False"):
        return text in ("true", "True")
    if _INTEGER.fullmatch(text) and abs(int(text)) < _LARGEST_INT:
        return int(text)
    if _FLOAT.fullmatch(text) and not re.fullmatch(r"0[0-9]+", text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def quoted(name: str) -> str:
    """`name` in quotes for a message: shortened, with control characters escaped."""
    plain = visible(name[:_LONGEST_NAME])
    return f"'{plain}…'" if len(name) > _LONGEST_NAME else f"'{plain}'"


def listed(names: Iterable[str], limit: int = 5) -> str:
    """The first names in quotes and the number of the others: `'a', 'b' and 7 more`."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(quoted(name) for name in every[:limit]) + more


def is_text(value: str) -> bool:
    """Whether `value` can be encoded as UTF-8; a hostile file may hold lone surrogates."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal; reads the file once, in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_error(path: Path, error: OSError) -> SharpError:
    """The error to raise if the system cannot open or read `path`."""
    return SharpError(
        f"{path}: cannot be read: {error.strerror or error}", "check the path and its permissions"
    )
