"""What a checkpoint holds once it is read, whichever file it came from."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SharpError
from ..text import visible

__all__ = [
    "Checkpoint",
    "Contents",
    "Metadata",
    "first_not_finite",
    "is_text",
    "listed",
    "open_error",
    "parse_scalar",
    "plain_scalar",
    "quoted",
    "sha256_of",
]

Metadata = dict[str, str | int | float | bool]

_LONGEST_TEXT = 200  # characters; anything longer is a log or a config file, not a setting
_LONGEST_NAME = 120  # characters of a tensor's name that a message shows
_LARGEST_INT = 2**63  # what every JSON reader and table can hold
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


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


@dataclass(frozen=True)
class Contents:
    """What one file holds; fields as in `Checkpoint`."""

    tensors: dict[str, Tensor]
    sha256: str
    metadata: Metadata = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    optimizer: Mapping[str, Any] | None = None


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity in it, None where all are finite."""
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        # the narrow float formats have no arithmetic of their own
        values = tensor.float() if tensor.element_size() == 1 else tensor
        if not bool(torch.isfinite(values).all()):
            return name
    return None


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
