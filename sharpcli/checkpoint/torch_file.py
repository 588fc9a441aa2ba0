"""Read files of `torch.save` without torch's own reader.

A file has pickles, which describe the tensors, and the tensors' bytes. The pickles are read as
plain values (`plain_pickle`, `pickled_tensors`), and each tensor is made of bytes that were read
from the file. Both formats are read: zip archives, and the format of torch before 1.6.
"""

from __future__ import annotations

import mmap
import sys
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.checkpoint.archive import ArchiveError, Member, data_offset, read_directory
from sharpcli.checkpoint.contents import allowance, listed, open_error, read_into, regular_size
from sharpcli.checkpoint.pickled_tensors import (
    CALLS,
    DAMAGED,
    PickledStorage,
    Storages,
    stored_elsewhere,
)
from sharpcli.checkpoint.plain_pickle import PickleError, read_pickle
from sharpcli.errors import SharpError

__all__ = ["looks_like_torch", "read_inert", "read_torch", "refuse_text_pickle"]

_ZIP = b"PK\x03\x04"
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of torch before 1.6
_ALIGNED = 64  # bytes; torch.save aligns tensors' data to multiples of this
_CONVERT = (
    "if you trust it, in the training environment: "
    "m = torch.load(file, weights_only=False), take its state dict, and "
    "safetensors.torch.save_file(state_dict, 'model.safetensors')"
)
_SAVE_WEIGHTS = (
    "in the training environment save the weights instead: "
    "torch.save(model.state_dict(), 'model.pt')"
)
_HARMLESS = (
    "collections.OrderedDict",
    "collections.Counter",
    "collections.defaultdict",
    "_codecs.encode",
    "argparse.Namespace",
    "torch.serialization._get_layout",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
# classes used as values, as in `defaultdict(int)`
_BUILTINS = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long"),
    *("object", "range", "set", "slice", "str", "tuple", "unicode"),
)


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

    Raises:
        SharpError: the file is damaged, is not a file of tensors, or would run code.

    Cost: the file's size in memory.
    """
    size = regular_size(path)
    imports: dict[str, None] = {}
    try:
        with path.open("rb") as file:
            if file.read(4) == _ZIP:
                value = _read_archive(file, size, imports, mapped=mapped)
            else:
                value = _read_legacy(file, size, imports)
    except OSError as error:
        unreadable = open_error(path, error)
        raise unreadable from error
    except ArchiveError as error:
        kind = "refused" if error.hint else "is a corrupt zip archive"
        raise SharpError(f"{path}: {kind}: {error}", error.hint or DAMAGED) from error
    except PickleError as error:
        _refuse_imports(path, imports)
        raise SharpError(f"{path}: its pickle cannot be read: {error}", DAMAGED) from error
    except _ForeignError as error:
        _refuse_imports(path, imports)
        raise SharpError(f"{path}: {error.message}", error.hint) from error
    _refuse_imports(path, imports)
    return value


def read_inert(path: Path) -> Any:
    """The object in a zipped file of `torch.save` as inert values, whatever classes it names.

    Raises:
        SharpError: the file is no such file, or is damaged.
    """
    try:
        with path.open("rb") as file:
            return _read_archive(file, regular_size(path), {}, mapped=True)
    except (ArchiveError, PickleError, _ForeignError) as error:
        raise SharpError(f"{path}: cannot be read: {error}", DAMAGED) from error


class _ForeignError(Exception):
    """The file does not hold plain tensors: what it is, and a hint."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def _read_archive(
    file: BufferedReader, size: int, imports: dict[str, None], *, mapped: bool
) -> Any:
    members = read_directory(file, size)
    if any(name.endswith("/constants.pkl") for name in members):
        raise _ForeignError("is a TorchScript program, not weights", _SAVE_WEIGHTS)
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
    return read_pickle(data, 0, allowance(size), CALLS, storages, imports).value


def _read_legacy(file: BufferedReader, size: int, imports: dict[str, None]) -> Any:
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
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        memory = allowance(size)
        magic = read_pickle(content, 0, memory, CALLS, stored_elsewhere, imports)
        if magic.value != _LEGACY_MAGIC:
            raise _ForeignError("is a pickle, but not one that torch.save wrote", _CONVERT)
        version = read_pickle(content, magic.end, magic.memory, CALLS, stored_elsewhere, imports)
        system = read_pickle(content, version.end, version.memory, CALLS, stored_elsewhere, imports)
        found = read_pickle(content, system.end, system.memory, CALLS, storages, imports)
        keys = read_pickle(content, found.end, found.memory, CALLS, stored_elsewhere, imports)
    if type(keys.value) is not list or {type(key) for key in keys.value} - {str}:
        raise PickleError("the list of its tensors' data is damaged")
    file.seek(keys.end)
    for key in keys.value:
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
    return found.value


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
    """Raise `SharpError` if the pickle asks for anything but plain data; the message names it."""
    foreign = [name for name in imports if not _is_harmless(name)]
    if any(name.startswith("torch.nn.modules.") for name in foreign):
        own = [name for name in foreign if not name.startswith("torch.")] or foreign
        raise SharpError(
            f"{path}: refused: holds a whole pickled module ({listed(own, 2)}), which only "
            "loads by running its code",
            _SAVE_WEIGHTS,
        )
    if foreign:
        raise SharpError(
            f"{path}: refused: its pickle would run code on loading: it asks for "
            f"{listed(foreign, 3)}",
            _CONVERT,
        )


def _is_harmless(name: str) -> bool:
    """Whether a file of plain tensors may name this; nothing is imported in any case."""
    return (
        name in _HARMLESS
        or name.removeprefix("builtins.") in _BUILTINS
        or (name.startswith("torch.") and name.count(".") == 1)
        or name.startswith(
            ("torch._utils.", "torch._tensor.", "torch.storage.", "torch.nn.parameter.")
        )
        or (name.startswith("torch.cuda.") and name.endswith("Storage"))
    )
