"""Read safetensors files without trusting them, and write them atomically.

A file has 8 bytes with the header's length (little-endian), the header (JSON: name → dtype, shape
and the offsets of its data), and the data without gaps. The header is checked against the file's
size before any tensor is allocated. The data are read once, into their tensors and the digest.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.checkpoint.contents import (
    Checkpoint,
    Metadata,
    TooManyValues,
    is_text,
    listed,
    open_error,
    parse_json,
    parse_scalar,
    quoted,
    read_into,
    refuse_many,
)
from sharpcli.checkpoint.state_dict import KEY, StateDict, versions_in
from sharpcli.errors import SharpError
from sharpcli.runtime import files

__all__ = ["checkpoint_content", "looks_like_safetensors", "read_safetensors", "save_checkpoint"]

_LONGEST_HEADER = 100_000_000  # bytes; the limit of the format's own reader
_DAMAGED = "the file is damaged or incomplete: copy or download it again"
_DTYPES = {
    name: getattr(torch, attribute)
    for name, attribute in {
        "BOOL": "bool",
        "U8": "uint8",
        "I8": "int8",
        "U16": "uint16",
        "I16": "int16",
        "U32": "uint32",
        "I32": "int32",
        "U64": "uint64",
        "I64": "int64",
        "F16": "float16",
        "BF16": "bfloat16",
        "F32": "float32",
        "F64": "float64",
        "C64": "complex64",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2": "float8_e5m2",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E8M0": "float8_e8m0fnu",
    }.items()
    if hasattr(torch, attribute)
}


@dataclass(frozen=True)
class _Entry:
    """One tensor of the header, stored in bytes `begin` to `end` of the data."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that starts with `head` has room for a safetensors header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def read_safetensors(path: Path) -> Checkpoint:
    """Read every tensor and the metadata in one pass; a `SharpError` names file and tensor."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix, header = _read_header(path, file, size)
            refuse_many(path, len(header), size)
            entries, stored = _proven(path, header, size - len(prefix))
            digest = hashlib.sha256(prefix)
            tensors = {
                entry.name: _read_tensor(path, file, entry, digest)
                for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end))
            }
    except OSError as error:
        raise open_error(path, error) from error
    metadata, aliases = _split_metadata(stored, tensors)
    named = {entry.name: tensors[entry.name] for entry in entries}
    named.update({name: tensors[kept] for name, kept in aliases.items()})
    notes = (f"{listed(aliases)} stored once with a tied tensor",) if aliases else ()
    return Checkpoint(path, _kept(named, stored), metadata, digest.hexdigest(), notes)


def save_checkpoint(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> Checkpoint:
    """Write a safetensors file atomically, as `checkpoint_content` makes it.

    If the file cannot be written, the `SharpError` of `files.save` says where the content is
    instead.

    Returns:
        The checkpoint.
    """
    checkpoint, content = checkpoint_content(path, tensors, metadata)
    files.save(checkpoint.path, content)
    return checkpoint


def checkpoint_content(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> tuple[Checkpoint, Sequence[bytes | memoryview]]:
    """A checkpoint and the pieces of its safetensors file, before anything is written.

    Each tensor is stored under its own name, tied ones in full, so that any reader can load the
    file strictly. The same tensors and metadata give the same bytes, so the same digest.

    Args:
        path: the file that it is for.
        tensors: tensors by name, on any device.
        metadata: values become text (True → "true", a sequence → "0.9,0.999"; None is left out);
            `load_checkpoint` turns numbers back into numbers.

    Returns:
        The checkpoint with the digest and the metadata that `load_checkpoint` reads from the file,
        and the tensors as given; and the pieces to write, in order.

    Cost: the tensors' size in memory.
    """
    from safetensors.torch import save

    target = Path(path)
    facts = {str(key): _text(value) for key, value in metadata.items() if value is not None}
    if isinstance(tensors, StateDict) and tensors.written is not None:
        facts[KEY] = tensors.written
    written = _in_fixed_order(save(_separate(tensors), metadata={**facts, "format": "pt"}))
    digest = hashlib.sha256()
    for piece in written:
        digest.update(piece)
    read, _ = _split_metadata(dict(sorted(facts.items())), tensors)
    return Checkpoint(target, _kept(tensors, facts), read, digest.hexdigest()), written


def _read_header(path: Path, file: BufferedReader, size: int) -> tuple[bytes, dict[str, Any]]:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise SharpError(
            f"{path}: the safetensors header claims {length} bytes, but the file has {size}",
            _DAMAGED,
        )
    if length > _LONGEST_HEADER:
        raise SharpError(
            f"{path}: the safetensors header has {length} bytes; the format allows at most "
            f"{_LONGEST_HEADER}",
            _DAMAGED,
        )
    text = file.read(length)
    try:
        header = parse_json(text, size, object_pairs_hook=_unique, parse_int=_small_int)
    except ValueError as error:
        plain = isinstance(error, _HeaderError | TooManyValues)
        reason = str(error) if plain else "it is not valid JSON"
        raise SharpError(
            f"{path}: the safetensors header cannot be read: {reason}", _DAMAGED
        ) from error
    if not isinstance(header, dict):
        raise SharpError(f"{path}: the safetensors header is not a table of tensors", _DAMAGED)
    return start + text, header


class _HeaderError(ValueError):
    """Why a header is refused while it is parsed, as text for a message."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if not all(is_text(each) for pair in pairs for each in pair if isinstance(each, str)):
        raise _HeaderError("it is not valid text")
    if len(table) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _HeaderError(f"{quoted(name)} occurs twice")
            seen.add(name)
    return table


def _small_int(digits: str) -> int:
    if len(digits) > 20:
        raise _HeaderError("a number in it is larger than any file")
    return int(digits)


def _proven(
    path: Path, header: dict[str, Any], available: int
) -> tuple[list[_Entry], dict[str, str]]:
    """Return the header's entries and metadata.

    Raises:
        SharpError: they do not describe exactly `available` bytes of data.
    """
    stored = header.pop("__metadata__", {})
    if not isinstance(stored, dict) or not all(isinstance(v, str) for v in stored.values()):
        raise SharpError(f"{path}: '__metadata__' is not a table of texts", _DAMAGED)
    entries = [_entry(path, name, value) for name, value in header.items()]
    reached, before = 0, ""
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        name = quoted(entry.name)
        if entry.end > available:
            raise SharpError(
                f"{path}: tensor {name} ends at byte {entry.end} of {available} bytes of data",
                _DAMAGED,
            )
        if entry.begin < reached:
            raise SharpError(f"{path}: tensor {name} overlaps {quoted(before)}", _DAMAGED)
        if entry.begin > reached:
            raise SharpError(
                f"{path}: {entry.begin - reached} bytes before tensor {name} belong to no tensor",
                _DAMAGED,
            )
        reached, before = entry.end, entry.name
    if reached != available:
        raise SharpError(
            f"{path}: {available - reached} bytes after the last tensor belong to no tensor",
            _DAMAGED,
        )
    return entries, stored


def _entry(path: Path, name: str, value: object) -> _Entry:
    where = f"{path}: tensor {quoted(name)}"
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise SharpError(f"{where} lacks dtype, shape or data_offsets in the header", _DAMAGED)
    dtype = _DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise SharpError(
            f"{where} has the dtype {quoted(str(value['dtype']))}, which cannot be measured",
            f"convert it to one of {', '.join(_DTYPES)}; if it should be one of them, {_DAMAGED}",
        )
    shape, offsets = value["shape"], value["data_offsets"]
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise SharpError(f"{where} has a shape or offsets that are not integers", _DAMAGED)
    begin, end = offsets
    # a tensor without elements may still have sides too large for torch
    if len(shape) > 64 or math.prod(side for side in shape if side) >= 2**63:
        raise SharpError(f"{where} has a shape too large for any machine", _DAMAGED)
    needed = math.prod(shape) * dtype.itemsize
    if end - begin != needed:
        raise SharpError(
            f"{where} of shape {tuple(shape)} needs {needed} bytes, its offsets give {end - begin}",
            _DAMAGED,
        )
    return _Entry(name, dtype, tuple(shape), begin, end)


def _whole_numbers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _read_tensor(path: Path, file: BufferedReader, entry: _Entry, digest: Any) -> Tensor:
    data = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
    if not read_into(file, data):
        raise SharpError(f"{path}: ends within tensor {quoted(entry.name)}", _DAMAGED)
    digest.update(data.numpy().data)
    return data.view(entry.dtype).reshape(entry.shape)


def _split_metadata(
    stored: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> tuple[Metadata, dict[str, str]]:
    """The metadata of the training, and the names of tied tensors that the writer dropped."""
    aliases = {k: v for k, v in stored.items() if v in tensors and k not in tensors}
    metadata: Metadata = {
        key: parse_scalar(value)
        for key, value in stored.items()
        if key not in aliases and key not in (KEY, "format")  # names the library that wrote it
    }
    return metadata, aliases


def _kept(tensors: Mapping[str, Tensor], stored: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors with the versions of modules, if the metadata have them as sharp writes them."""
    if KEY not in stored:
        return dict(tensors)
    text = stored[KEY].encode("utf-8", "replace")
    try:
        return StateDict(tensors, versions_in(parse_json(text, len(text))))
    except ValueError:
        return dict(tensors)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CPU copies that share no memory, as the format requires."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != plain.numel() * plain.element_size():
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        separate[name] = plain
    return separate


def _in_fixed_order(written: bytes) -> tuple[bytes, bytes, memoryview]:
    """Length, header and data of `written`, with sorted metadata: the library's order is random."""
    data_begin = 8 + int.from_bytes(written[:8], "little")
    header = json.loads(written[8:data_begin])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # keeps the data aligned
    return len(text).to_bytes(8, "little"), text, memoryview(written)[data_begin:]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(_text(each) for each in value)
    return str(value)
