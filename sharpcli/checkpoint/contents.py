"""What a checkpoint holds once it is read, whichever file it came from."""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
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
    "refuse_many",
    "regular_size",
    "sha256_of",
]

Metadata = dict[str, str | int | float | bool]

_LONGEST_TEXT = 200  # characters; anything longer is a log or a config file, not a setting
_LONGEST_NAME = 120  # characters of a tensor's name that a message shows
# bytes of Python objects that a small file may become; torch and Python alone take four times that
_SMALL = 64 * 2**20
_NAME_MEMORY = 4000  # bytes that a tensor takes up to its row in a table, measured: 1500
_PIECE = 2**24  # elements
_LARGEST_INT = 2**63  # what every JSON reader and table can hold
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
# one way only to match each text: with two, a long one takes the square of its length
_FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


class NotPlain(NamedTuple):
    """Stands in a torch file's object for a tensor that cannot be measured: why, what to do."""

    reason: str
    hint: str


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors and what is known of the training that made them.

    `tensors` are on the CPU in the dtype they were stored in; tied ones may share storage.
    `sha256` is the file's digest; of a sharded checkpoint, the digest of its shards' binary
    digests joined in the order of their file names. `notes` say what was undone or left aside.
    `optimizer` is the optimizer's state dict where the checkpoint has one.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: Metadata
    sha256: str
    notes: tuple[str, ...] = ()
    optimizer: Mapping[str, Any] | None = None


def allowance(size: int) -> int:
    """How many bytes of Python objects a file of `size` bytes may become, beside its tensors.

    A few bytes of a pickle or of JSON make an object of sixty and more. Files of real trainings
    stay far below.
    """
    return _SMALL + 2 * size


class TooManyValues(ValueError):  # noqa: N818 (a reason, not a fault of the program)
    """Why JSON is not parsed: it would become more objects than a file of its size may."""


def parse_json(text: bytes, size: int, **hooks: Any) -> Any:
    """The JSON in `text`, from a file of `size` bytes; hooks as of `json.loads`.

    Raises `ValueError` where it is none, or would become more objects than `allowance(size)`.
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


def refuse_many(path: Path, count: int, size: int) -> None:
    """Raise where `count` tensors in a file of `size` bytes are more than any training's."""
    if count * _NAME_MEMORY > allowance(size):
        raise SharpError(
            f"{path}: has {count} tensors in {size} bytes",
            "save the weights that are to be measured, each under one name",
        )


def regular_size(path: Path) -> int:
    """The size in bytes of the regular file at `path`.

    Raises `SharpError` for anything else: reading from a pipe or a device may never end. Links
    are followed.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise open_error(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise SharpError(f"{path}: is {kind}", "put the file itself there")
    if status.st_size == 0:
        raise SharpError(f"{path}: is empty", "copy or save the checkpoint again")
    return status.st_size


def read_into(file: BufferedReader, data: Tensor) -> bool:
    """Fill `data` (bytes) from where `file` stands; False where the file ends before it is full."""
    buffer = data.numpy().data
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer[filled:])
        if not count:
            return False
        filled += count
    return True


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity in it, None where all are finite."""
    for name, tensor in _each_once(tensors):
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        for piece in pieces(tensor):
            # the narrow float formats have no arithmetic of their own
            values = piece.float() if piece.element_size() == 1 else piece
            if not bool(torch.isfinite(values).all()):
                return name
    return None


def pieces(tensor: Tensor) -> Iterable[Tensor]:
    """`tensor` in parts of 16 million elements, so that what is made of each stays small."""
    if tensor.numel() <= _PIECE or not tensor.is_contiguous():
        return (tensor,)
    return torch.split(tensor.reshape(-1), _PIECE)


def place(tensor: Tensor) -> tuple[object, ...]:
    """What two tensors share just where they are the same data, seen in the same way."""
    storage = tensor.untyped_storage()
    address: object = tensor.data_ptr()
    if not tensor.numel() or not storage.data_ptr():  # empty, or on the meta device: lies nowhere
        address = (storage._cdata, tensor.storage_offset())
    marks = tensor.is_conj(), tensor.is_neg()
    return address, tensor.dtype, tuple(tensor.shape), tensor.stride(), marks


def tied(named: Iterable[tuple[str, Tensor]]) -> dict[str, list[str]]:
    """Each name, with all names of its tensor in their order."""
    groups: dict[tuple[object, ...], list[str]] = {}
    names = {}
    for name, tensor in named:
        names[name] = groups.setdefault(place(tensor), [])
        names[name].append(name)
    return names


def _each_once(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, of those that are the same only the first: a file may name one often."""
    seen: set[tuple[object, ...]] = set()
    for name, tensor in tensors.items():
        if (it := place(tensor)) not in seen:
            seen.add(it)
            yield name, tensor


def plain_scalar(value: object) -> str | int | float | bool | None:
    """`value` where it is a setting worth showing: a short text or a finite number; else None."""
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
    """A number or truth value that was stored as text; every other text stays as it is."""
    if text in ("true", "True", "false", "False"):
        return text in ("true", "True")
    if _INTEGER.fullmatch(text) and abs(int(text)) < _LARGEST_INT:
        return int(text)
    if _FLOAT.fullmatch(text) and not re.fullmatch(r"0[0-9]+", text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def quoted(name: str) -> str:
    """`name` in quotes, fit for a message: a long one shortened, control characters spelt out."""
    plain = visible(name[:_LONGEST_NAME])
    return f"'{plain}…'" if len(name) > _LONGEST_NAME else f"'{plain}'"


def listed(names: Iterable[str], limit: int = 5) -> str:
    """`'a', 'b' and 7 more`: the first names in quotes, the rest counted."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(quoted(name) for name in every[:limit]) + more


def is_text(value: str) -> bool:
    """Whether `value` can be written as UTF-8; a hostile file may hold halves of characters."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal; reads it once, a little at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_error(path: Path, error: OSError) -> SharpError:
    """The error to raise where the system would not open or read `path`."""
    return SharpError(
        f"{path}: cannot be read: {error.strerror or error}", "check the path and its permissions"
    )
