"""Read files of `torch.save` without torch's own reader.

A file has pickles, which describe the tensors, and the tensors' bytes. The pickles are read as
plain values (`plain_pickle`, `pickled_tensors`), and each tensor is made of bytes that were read
from the file. Both formats are read: zip archives, and the format of torch before 1.6; and pickles
without any format around them, as far as they hold tensors or NumPy arrays.
"""

from __future__ import annotations

import mmap
import sys
import zlib
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.checkpoint.archive import ArchiveError, Member, data_offset, read_directory
from sharpcli.checkpoint.contents import allowance, listed, open_error, read_into, regular_size
from sharpcli.checkpoint.inert_objects import SAVE_WEIGHTS, read_objects
from sharpcli.checkpoint.pickled_tensors import (
    CALLS,
    DAMAGED,
    PickledStorage,
    Storages,
    stored_elsewhere,
)
from sharpcli.checkpoint.plain_objects import has_tensors, is_plain, left_aside, numpy_arrays
from sharpcli.checkpoint.plain_pickle import Call, PickleError, read_pickle
from sharpcli.checkpoint.stand_ins import STUB, Stub
from sharpcli.errors import SharpError

__all__ = [
    "looks_like_torch",
    "read_inert",
    "read_torch",
    "read_torch_with_notes",
    "refuse_text_pickle",
]

_ZIP = b"PK\x03\x04"
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of torch before 1.6
_ALIGNED = 64  # bytes; torch.save aligns tensors' data to multiples of this
_CONVERT = (
    "if you trust it, in the training environment: "
    "m = torch.load(file, weights_only=False), take its state dict, and "
    "safetensors.torch.save_file(state_dict, 'model.safetensors')"
)
_FROM_BYTES = "torch.storage._load_from_bytes"  # how a pickle without torch.save has its data
# Operations and bytes of objects of the pickles around one storage; torch writes 60 operations.
_MOST_IN_BYTES, _MEMORY_IN_BYTES = 1000, 2**20


def looks_like_torch(head: bytes) -> bool:
    """Whether a file that starts with `head` is a zip archive or a binary pickle."""
    return head.startswith((_ZIP, *_PICKLES))


def refuse_text_pickle(path: Path) -> None:
    """Raise `SharpError` if the file is a text pickle (the oldest protocol) that would run code."""
    imports: dict[str, None] = {}
    size = regular_size(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            read_pickle(data, 0, allowance(size), {}, stored_elsewhere, imports)
        except PickleError:
            return
    _refuse_imports(path, imports)


def read_torch(path: Path, *, mapped: bool = False) -> Any:
    """Read the object in a file of `torch.save`, without running any code in it.

    Args:
        path: the file.
        mapped: leave the data on disk until they are used, if the file's format allows it.

    Returns:
        The object, with tensors on the CPU. Mappings become dicts, tensors that cannot be measured
        `NotPlain`, and objects of classes that are not read a `Stub`.

    `SharpError` as in `read_torch_with_notes`.

    Cost: the file's size in memory.
    """
    return read_torch_with_notes(path, mapped=mapped)[0]


def read_torch_with_notes(path: Path, *, mapped: bool = False) -> tuple[Any, tuple[str, ...]]:
    """The object as of `read_torch`, and notes on what was converted or left aside.

    Raises:
        SharpError: the file is damaged, or has no tensors that can be read without its code.
    """
    size = regular_size(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == _ZIP
            value = _read_archive(file, size, mapped=mapped) if zipped else _read_legacy(file, size)
    except OSError as error:
        unreadable = open_error(path, error)
        raise unreadable from error
    except ArchiveError as error:
        kind = "refused" if error.hint else "is a corrupt zip archive"
        raise SharpError(f"{path}: {kind}: {error}", error.hint or DAMAGED) from error
    except PickleError as error:
        raise SharpError(f"{path}: its pickle cannot be read: {error}", DAMAGED) from error
    except _ForeignError as error:
        raise SharpError(f"{path}: {error.message}", error.hint) from error
    return read_objects(path, value, size)


def read_inert(path: Path) -> Any:
    """The object in a zipped file of `torch.save` as inert values, whatever classes it names.

    Raises:
        SharpError: the file is no such file, or is damaged.
    """
    try:
        with path.open("rb") as file:
            return _read_archive(file, regular_size(path), mapped=True)
    except (ArchiveError, PickleError, _ForeignError) as error:
        raise SharpError(f"{path}: cannot be read: {error}", DAMAGED) from error


class _ForeignError(Exception):
    """The file does not hold plain tensors: what it is, and a hint."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def _read_archive(file: BufferedReader, size: int, *, mapped: bool) -> Any:
    members = read_directory(file, size)
    if any(name.endswith("/constants.pkl") for name in members):
        raise _ForeignError("is a TorchScript program, not weights", SAVE_WEIGHTS)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        arrays = all(name.endswith(".npy") for name in members)
        kind = "NumPy arrays" if members and arrays else "a zip archive without 'data.pkl'"
        raise _ForeignError(
            f"holds {kind}, not a file of torch.save",
            "save the model's state dict with torch.save or as safetensors",
        )
    root = pickles[0].removesuffix("data.pkl")
    order = _small_member(file, members.get(f"{root}byteorder"), size) or b"little"
    if order not in (b"little", b"big"):
        raise ArchiveError("its byte order is neither little nor big")
    swapped = order.decode() != sys.byteorder
    on_disk = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if mapped else None

    def storage(asked: PickledStorage) -> Tensor:
        member = members.get(f"{root}data/{asked.key}")
        if member is None or asked.bytes > member.size:
            has = "none" if member is None else f"{member.size} bytes"
            raise PickleError(f"a tensor claims {asked.bytes} bytes, but the file has {has}")
        data = _member_data(file, member, asked.bytes, size, on_disk)
        return _reversed(data, asked.dtype) if swapped else data

    storages = Storages(storage, views=False)
    pickle = members[pickles[0]]
    file.seek(data_offset(file, pickle, size))
    data = file.read(pickle.size)
    if pickle.crc not in (0, zlib.crc32(data)):  # 0: torch was set to write no checksum
        raise ArchiveError(f"the checksum of its '{pickle.name}' does not match")
    return read_pickle(data, 0, allowance(size), CALLS, storages, {}).value


def _read_legacy(file: BufferedReader, size: int) -> Any:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        calls: dict[str, Call] = {**CALLS, _FROM_BYTES: _StoragesInBytes(size)}
        first = read_pickle(content, 0, allowance(size), calls, stored_elsewhere, {})
        if first.value != _LEGACY_MAGIC:
            if has_tensors(first.value) or any(numpy_arrays(first.value)):
                return first.value
            aside = left_aside(first.value)
            has = f", and has no tensors; its classes: {aside}" if aside else ""
            raise _ForeignError(f"is a pickle, but not one that torch.save wrote{has}", _CONVERT)
        return _legacy_object(file, content, size, allowance(size), None)


class _StoragesInBytes:
    """Makes the storage in each text of bytes that is a file of its own, once."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._made: dict[int, tuple[bytes, Any]] = {}  # the bytes are kept: ids are used again

    def __call__(self, arguments: tuple[Any, ...]) -> tuple[Any, int]:
        content = arguments[0] if len(arguments) == 1 else None
        if type(content) is not bytes:
            return Stub(_FROM_BYTES, arguments), STUB
        if id(content) not in self._made:
            self._left -= len(content)
            if self._left < 0:
                raise PickleError("its tensors' data are larger than the file")
            value = _legacy_object(
                BytesIO(content), content, len(content), _MEMORY_IN_BYTES, _MOST_IN_BYTES
            )
            self._made[id(content)] = content, value
        return self._made[id(content)][1], STUB


def _legacy_object(
    file: BufferedReader | BytesIO,
    content: bytes | mmap.mmap,
    size: int,
    memory: int,
    operations: int | None,
) -> Any:
    """The object of a file of torch before 1.6, whose bytes are `content`."""
    allocated = 0

    def storage(asked: PickledStorage) -> Tensor:
        nonlocal allocated
        allocated += asked.bytes
        if allocated > size:
            raise PickleError(
                f"a tensor claims {asked.elements} elements in a file of {size} bytes"
            )
        return torch.empty(asked.bytes, dtype=torch.uint8)

    storages = Storages(storage, views=True)
    end, parts = 0, []
    # the magic number, the version, the system, the object, and the list of its storages
    none: Call = stored_elsewhere
    for persistent in (none, none, none, storages, none):
        part = read_pickle(content, end, memory, CALLS, persistent, {}, operations)
        end, memory = part.end, part.memory
        parts.append(part.value)
    magic, _, _, value, keys = parts
    if magic != _LEGACY_MAGIC:
        raise PickleError("the data of a tensor are not in a file of torch's")
    if type(keys) is not list or {type(key) for key in keys} - {str}:
        raise PickleError("the list of its tensors' data is damaged")
    file.seek(end)
    for key in keys:
        if key not in storages.made:
            raise PickleError("the list of its tensors' data is damaged")
        asked, data = storages.made.pop(key)
        count = file.read(8)
        if len(count) < 8 or int.from_bytes(count, "little") != asked.elements:
            raise PickleError("the lengths of its tensors' data differ from the declared ones")
        if not read_into(file, data):
            raise PickleError("the file ends within the data of a tensor")
        if sys.byteorder == "big":  # the data are always little-endian
            data.copy_(_reversed(data, asked.dtype))
    if storages.made:
        raise PickleError(f"the file lacks the data of {len(storages.made)} of its tensors")
    return value


def _member_data(
    file: BufferedReader, member: Member, count: int, size: int, on_disk: mmap.mmap | None
) -> Tensor:
    """The first `count` bytes of a member: mapped if `on_disk` is given and aligned, else read."""
    begin = data_offset(file, member, size)
    if on_disk is not None and count and begin % _ALIGNED == 0:
        return torch.frombuffer(on_disk, dtype=torch.uint8, count=count, offset=begin)
    data = torch.empty(count, dtype=torch.uint8)
    file.seek(begin)
    if not read_into(file, data):
        raise ArchiveError(f"it ends within '{member.name}'")
    return data


def _small_member(file: BufferedReader, member: Member | None, size: int) -> bytes:
    if member is None:
        return b""
    file.seek(data_offset(file, member, size))
    return file.read(min(member.size, 16))


def _reversed(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Swap the byte order of numbers; a complex number counts as two."""
    width = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    return data.reshape(-1, width).flip(1).reshape(-1)


def _refuse_imports(path: Path, imports: dict[str, None]) -> None:
    """Raise `SharpError` if a text pickle asks for more than plain data; the message says what."""
    if foreign := [name for name in imports if not is_plain(name)]:
        raise SharpError(
            f"{path}: refused: its pickle would run code on loading: it asks for "
            f"{listed(foreign, 3)}",
            _CONVERT,
        )
