"""Files of `torch.save`: examined first, then read by torch with `weights_only=True`.

A pickle is a program. Before torch sees one, its opcodes are listed (never run) to find what it
would import and how much memory it asks for; torch's restricted reader then refuses whatever is
not plain data, and the list gives the refusal its words.
"""

from __future__ import annotations

import argparse
import io
import mmap
import os
import pickle
import pickletools
import struct
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import SharpError
from .contents import listed, open_error

__all__ = ["looks_like_torch", "read_torch", "refuse_text_pickle"]

_ZIP = b"PK\x03\x04"
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # opens each file of torch before 1.6
_LEGACY_PICKLES = 5  # magic, version, system, the object, the storages' keys
_DAMAGED = "the file is damaged or incomplete: copy or download it again"
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
    "builtins.set",
    "builtins.complex",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
# what torch's restricted reader allows, though a few bytes of it can ask for any amount of memory
_GREEDY = {
    "builtins.bytearray": "builds a 'bytearray'",
    "torch._utils._rebuild_sparse_tensor": "holds sparse tensors",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "copies tensors to another device",
    "torch._utils._rebuild_device_tensor_from_numpy": "copies tensors to another device",
}
# what torch's restricted reader is seen to raise on bytes that no torch wrote
_BROKEN = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    ImportError,
    ArithmeticError,
    MemoryError,
    struct.error,
)


@dataclass(frozen=True)
class _Listing:
    """What a pickle's opcodes name: imports, the largest storage asked for; `whole`: to its end."""

    imports: tuple[str, ...]
    largest_storage: int
    whole: bool


class _NumpyDtype:
    """Stands in for `numpy.dtype` while a pickle is read: remembers the code and the byte order."""

    def __init__(self, code: object, *_: object) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])


def _numpy_scalar(dtype: object, data: object = b"") -> bool | int | float:
    """Stands in for numpy's own, which may unpickle again: only bool, integers and floats."""
    import numpy as np

    if not isinstance(dtype, _NumpyDtype) or not isinstance(data, bytes):
        raise ValueError("not a plain numpy scalar")
    if dtype.code not in {f"{kind}{size}" for kind in "iuf" for size in (2, 4, 8)} | {"b1", "i1"}:
        raise ValueError("not a plain numpy scalar")
    order = dtype.order if dtype.order in "<>" else "="
    value = np.frombuffer(data, np.dtype(order + dtype.code))[0].item()
    assert isinstance(value, bool | int | float)
    return value


def looks_like_torch(head: bytes) -> bool:
    """Whether a file that starts with `head` is a zip archive or a binary pickle."""
    return head.startswith((_ZIP, *_PICKLES))


def refuse_text_pickle(path: Path) -> None:
    """Raise where the file is a pickle of the oldest, textual kind that would run code."""
    listing = _examine_legacy(path)
    if listing.whole:
        _refuse_imports(path, listing)


def read_torch(path: Path, *, mapped: bool = False) -> Any:
    """The object in a file of `torch.save`, tensors on the CPU; raises `SharpError`, runs nothing.

    `mapped` leaves the data on disk until they are used, where the file's format allows it.
    Cost: the file's size in memory.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
            archive = head.startswith(_ZIP)
            listing = _examine_archive(path, size) if archive else _examine_legacy(path)
        _refuse(path, listing, size, legacy=not archive)
        if not archive and _LEGACY_MAGIC not in head:
            _refuse_imports(path, listing)
            raise SharpError(f"{path}: is a pickle, but not one that torch.save wrote", _CONVERT)
        return _load(path, listing, mapped=mapped and archive)
    except OSError as error:
        raise open_error(path, error) from error


def _examine_archive(path: Path, size: int) -> _Listing:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            unpacked = sum(member.file_size for member in members)
            # torch stores without compression, so its members can never exceed the file
            if unpacked > size:
                raise SharpError(
                    f"{path}: refused: {size} bytes would unpack to {unpacked}; torch.save never "
                    "compresses",
                    "save it again with torch.save, or as safetensors",
                )
            if len(set(names)) < len(names):
                raise SharpError(f"{path}: the archive has two members of one name", _DAMAGED)
            if any(name.endswith("/constants.pkl") for name in names):
                raise SharpError(f"{path}: is a TorchScript program, not weights", _SAVE_WEIGHTS)
            pickles = [
                name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")
            ]
            if len(pickles) != 1:
                arrays = all(name.endswith(".npy") for name in names)
                kind = "NumPy arrays" if names and arrays else "a zip archive without 'data.pkl'"
                raise SharpError(
                    f"{path}: holds {kind}, not a file of torch.save",
                    "save the model's state dict with torch.save or as safetensors",
                )
            data = archive.read(pickles[0])
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise SharpError(f"{path}: is a corrupt zip archive ({error})", _DAMAGED) from error
    # the file is open by now: the system only objects where a broken directory points
    except (struct.error, ValueError, OverflowError, OSError) as error:
        raise SharpError(f"{path}: is a corrupt zip archive", _DAMAGED) from error
    return _list_opcodes(io.BytesIO(data), 1)


def _examine_legacy(path: Path) -> _Listing:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _list_opcodes(data, _LEGACY_PICKLES)


def _list_opcodes(data: Any, pickles: int) -> _Listing:
    imports: dict[str, None] = {}
    texts: list[str] = ["", ""]
    memory: dict[int, str] = {}
    number, largest, found = 0, 0, 0
    try:
        while found < pickles:
            for opcode, argument, _ in pickletools.genops(data):
                if opcode.name in ("GLOBAL", "INST"):
                    imports[_modern(str(argument).replace(" ", "."))] = None
                elif opcode.name == "STACK_GLOBAL":
                    imports[_modern(".".join(texts[-2:]))] = None
                elif opcode.name in ("BINPERSID", "PERSID"):
                    largest = max(largest, number)
                elif opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
                    memory[len(memory) if argument is None else argument] = texts[-1]
                elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
                    texts = [texts[-1], memory.get(argument or 0, "")]
                elif isinstance(argument, str):
                    texts = [texts[-1], argument]
                elif type(argument) is int and opcode.name not in ("PROTO", "FRAME"):
                    number = argument
            found += 1
            # a pickle of another writer is one alone; what follows its end is not ours to read
            if found == 1 and pickles > 1 and number != int.from_bytes(_LEGACY_MAGIC[2:], "little"):
                break
    except (ValueError, LookupError, OverflowError, struct.error):
        return _Listing(tuple(imports), largest, whole=False)
    return _Listing(tuple(imports), largest, whole=True)


def _modern(name: str) -> str:
    return name.replace("__builtin__.", "builtins.", 1) if name.startswith("__bu") else name


def _refuse(path: Path, listing: _Listing, size: int, *, legacy: bool) -> None:
    """Raise where torch's reader would be made to allocate more than the file can hold."""
    if not listing.whole:
        _refuse_imports(path, listing)
        raise SharpError(f"{path}: its pickle breaks off or is corrupt", _DAMAGED)
    greedy = next((_GREEDY[name] for name in listing.imports if name in _GREEDY), None)
    if greedy is not None:
        raise SharpError(
            f"{path}: refused: its pickle {greedy}, which can take any amount of memory",
            _CONVERT,
        )
    if legacy and listing.largest_storage > size:
        raise SharpError(
            f"{path}: refused: a tensor is promised {listing.largest_storage} elements in a file "
            f"of {size} bytes",
            _DAMAGED,
        )


def _refuse_imports(path: Path, listing: _Listing) -> None:
    """Raise where the pickle imports what is not plain data, saying what it is."""
    foreign = [name for name in listing.imports if not _is_harmless(name)]
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
    """Whether a pickle of plain tensors may name this; only words the refusal, torch decides."""
    return (
        name in _HARMLESS
        or (name.startswith("torch.") and name.count(".") == 1)
        or (
            name.startswith(
                ("torch._utils.", "torch._tensor.", "torch.storage.", "torch.nn.parameter.")
            )
        )
    )


def _load(path: Path, listing: _Listing, *, mapped: bool) -> Any:
    stand_ins: list[Any] = [
        argparse.Namespace,
        (_NumpyDtype, "numpy.dtype"),
        (_numpy_scalar, "numpy.core.multiarray.scalar"),
        (_numpy_scalar, "numpy._core.multiarray.scalar"),
    ]
    try:
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals(stand_ins),
            path.open("rb") as file,
        ):
            warnings.simplefilter("ignore")
            # the open file, not the path: torch would trust the name's suffix over the content
            source = os.fspath(path) if mapped else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except _BROKEN as error:
        _refuse_imports(path, listing)
        reason = "" if isinstance(error, pickle.UnpicklingError) else f" ({_first_line(error)})"
        raise SharpError(f"{path}: torch cannot read it{reason}", _DAMAGED) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return text[:160] or type(error).__name__
