"""The two kinds of file that torch.save writes: zip archives, and before torch 1.6 another one."""

from __future__ import annotations

import mmap
import sys
import zlib
from io import BufferedReader
from typing import Any

import torch
from torch import Tensor

from sharpcli.checkpoint.archive import ArchiveError, Member, data_offset, read_directory
from sharpcli.checkpoint.contents import allowance, read_into
from sharpcli.checkpoint.pickled_tensors import CALLS, PickledStorage, Storages, stored_elsewhere
from sharpcli.checkpoint.plain_pickle import PickleError, read_pickle

__all__ = ["CONVERT", "SAVE_WEIGHTS", "ForeignError", "read_archive", "read_legacy"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of each file of torch before 1.6
_ALIGNED = 64  # bytes; torch.save begins tensors' data at multiples of it
CONVERT = (
    "if you trust it, in the training environment: "
    "m = torch.load(file, weights_only=False), take its state dict, and "
    "safetensors.torch.save_file(state_dict, 'model.safetensors')"
)
SAVE_WEIGHTS = (
    "in the training environment save the weights instead: "
    "torch.save(model.state_dict(), 'model.pt')"
)


class ForeignError(Exception):
    """A file that is not one of plain tensors: what it is, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def read_archive(file: BufferedReader, size: int, imports: dict[str, None], *, mapped: bool) -> Any:
    """The object in a zip archive of `size` bytes.

    Raises `ArchiveError` for a damaged archive, `PickleError` for a damaged pickle and
    `ForeignError` for what is no file of torch.save. `imports` gets every name that the pickle asks
    for; `mapped` leaves tensors' data on disk until they are used.
    """
    members = read_directory(file, size)
    if any(name.endswith("/constants.pkl") for name in members):
        raise ForeignError("is a TorchScript program, not weights", SAVE_WEIGHTS)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        arrays = all(name.endswith(".npy") for name in members)
        kind = "NumPy arrays" if members and arrays else "a zip archive without 'data.pkl'"
        raise ForeignError(
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
            raise PickleError(f"a tensor is promised {asked.bytes} bytes, the file has {has}")
        data = _member_data(file, member, asked.bytes, size, on_disk)
        return _reversed(data, asked.dtype) if swapped else data

    storages = Storages(storage, views=False)
    pickle = members[pickles[0]]
    file.seek(data_offset(file, pickle, size))
    data = file.read(pickle.size)
    if pickle.crc not in (0, zlib.crc32(data)):  # 0: torch was told to write none
        raise ArchiveError(f"the checksum of its '{pickle.name}' is another")
    return read_pickle(data, 0, allowance(size), CALLS, storages, imports).value


def read_legacy(file: BufferedReader, size: int, imports: dict[str, None]) -> Any:
    """The object in a file of torch before 1.6; arguments and errors as of `read_archive`."""
    allocated = 0

    def storage(asked: PickledStorage) -> Tensor:
        nonlocal allocated
        allocated += asked.bytes
        if allocated > size:
            raise PickleError(
                f"a tensor is promised {asked.elements} elements in a file of {size} bytes"
            )
        return torch.empty(asked.bytes, dtype=torch.uint8)

    storages = Storages(storage, views=True)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        memory = allowance(size)
        magic = read_pickle(content, 0, memory, CALLS, stored_elsewhere, imports)
        if magic.value != _LEGACY_MAGIC:
            raise ForeignError("is a pickle, but not one that torch.save wrote", CONVERT)
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
            raise PickleError("the data of its tensors are of other lengths than it says")
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
    """The first `count` bytes of a member, read, or mapped where they are aligned."""
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
    """The bytes of numbers in the other byte order; a complex number is two."""
    width = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    return data.reshape(-1, width).flip(1).reshape(-1)
