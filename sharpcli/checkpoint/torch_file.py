"""Files of `torch.save`, read by this package itself; torch's own reader never sees them.

A file has pickles, which describe the tensors, and the tensors' bytes. The pickles are read as
plain values (see `plain_pickle`), and each tensor is made of bytes that were read from the file and
are known to be there. Both kinds of file are read: zip archives, and what torch before 1.6 wrote.
"""

from __future__ import annotations

import math
import mmap
import sys
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharpcli.checkpoint.archive import ArchiveError, Member, data_offset, read_directory
from sharpcli.checkpoint.contents import (
    NotPlain,
    allowance,
    listed,
    open_error,
    read_into,
    regular_size,
)
from sharpcli.checkpoint.plain_pickle import Call, Global, PickleError, Stub, plain_key, read_pickle
from sharpcli.errors import SharpError

__all__ = ["looks_like_torch", "read_torch", "refuse_text_pickle"]

_ZIP = b"PK\x03\x04"
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of each file of torch before 1.6
_MOST_DIMENSIONS = 64  # of a tensor in torch
_TENSOR_MEMORY = 1000  # bytes of a tensor beside its data, measured
_ALIGNED = 64  # bytes; torch.save begins tensors' data at multiples of it
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
_DENSE = "store it as a dense floating-point tensor"
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
# classes that stand for themselves, as in `defaultdict(int)`
_BUILTINS = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long"),
    *("object", "range", "set", "slice", "str", "tuple", "unicode"),
)
_DTYPES = {
    name: getattr(torch, attribute)
    for name, attribute in {
        "FloatStorage": "float32",
        "DoubleStorage": "float64",
        "HalfStorage": "float16",
        "BFloat16Storage": "bfloat16",
        "LongStorage": "int64",
        "IntStorage": "int32",
        "ShortStorage": "int16",
        "CharStorage": "int8",
        "ByteStorage": "uint8",
        "BoolStorage": "bool",
        "ComplexFloatStorage": "complex64",
        "ComplexDoubleStorage": "complex128",
        "UntypedStorage": "uint8",
        # quantized tensors are not measured, but their bytes have to be walked past
        "QInt8Storage": "int8",
        "QUInt8Storage": "uint8",
        "QInt32Storage": "int32",
        "QUInt4x2Storage": "uint8",
        "QUInt2x4Storage": "uint8",
    }.items()
}
# those of storages, and those that only tensors have; torch computes nothing with all others
_MEASURED = {*_DTYPES.values()} | {
    getattr(torch, name)
    for name in (
        *("uint16", "uint32", "uint64", "complex32", "float8_e4m3fn", "float8_e4m3fnuz"),
        *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    if hasattr(torch, name)
}
# what the imaginary part of a conjugated tensor can be, for which torch puts negating off
_NEGATED = (torch.float16, torch.float32, torch.float64)
_NUMBER_CODES = {f"{kind}{size}" for kind in "iuf" for size in (2, 4, 8)} | {"b1", "i1", "u1"}


class _Storage(NamedTuple):
    """A run of the file's bytes that tensors lie in, and the type of its elements."""

    data: Tensor
    dtype: torch.dtype


class _Pickled(NamedTuple):
    """A storage as a pickle names it."""

    dtype: torch.dtype
    key: str
    elements: int
    view: Any

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize


def looks_like_torch(head: bytes) -> bool:
    """Whether a file that starts with `head` is a zip archive or a binary pickle."""
    return head.startswith((_ZIP, *_PICKLES))


def refuse_text_pickle(path: Path) -> None:
    """Raise where the file is a pickle of the oldest, textual kind that would run code."""
    imports: dict[str, None] = {}
    size = regular_size(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            read_pickle(data, 0, allowance(size), {}, _stored_elsewhere, imports)
        except PickleError:
            return
    _refuse_imports(path, imports)


def read_torch(path: Path, *, mapped: bool = False) -> Any:
    """The object in a file of `torch.save`, tensors on the CPU; raises `SharpError`, runs nothing.

    Mappings become dicts, tensors that cannot be measured `NotPlain`, objects of classes that are
    not read a `Stub`. `mapped` leaves the data on disk until they are used, where the file's
    format allows it.
    Cost: the file's size in memory.
    """
    size = regular_size(path)
    imports: dict[str, None] = {}
    try:
        with path.open("rb") as file:
            if file.read(4) == _ZIP:
                value = _read_archive(file, size, imports, mapped=mapped)
            else:
                value = _read_legacy(path, file, size, imports)
    except OSError as error:
        raise open_error(path, error) from error
    except ArchiveError as error:
        kind = "refused" if error.hint else "is a corrupt zip archive"
        raise SharpError(f"{path}: {kind}: {error}", error.hint or _DAMAGED) from error
    except PickleError as error:
        _refuse_imports(path, imports)
        raise SharpError(f"{path}: its pickle cannot be read: {error}", _DAMAGED) from error
    except _RefusedError as error:
        raise SharpError(f"{path}: {error.message}", error.hint) from error
    _refuse_imports(path, imports)
    return value


class _RefusedError(Exception):
    """A file that is not one of plain tensors: what it is, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


# --- the two kinds of file -----------------------------------------------------------------------


def _read_archive(
    file: BufferedReader, size: int, imports: dict[str, None], *, mapped: bool
) -> Any:
    members = read_directory(file, size)
    if any(name.endswith("/constants.pkl") for name in members):
        raise _RefusedError("is a TorchScript program, not weights", _SAVE_WEIGHTS)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        arrays = all(name.endswith(".npy") for name in members)
        kind = "NumPy arrays" if members and arrays else "a zip archive without 'data.pkl'"
        raise _RefusedError(
            f"holds {kind}, not a file of torch.save",
            "save the model's state dict with torch.save or as safetensors",
        )
    root = pickles[0].removesuffix("data.pkl")
    order = _small_member(file, members.get(f"{root}byteorder"), size) or b"little"
    if order not in (b"little", b"big"):
        raise ArchiveError("its byte order is neither little nor big")
    swapped = order.decode() != sys.byteorder
    on_disk = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if mapped else None
    storages: dict[str, tuple[_Pickled, _Storage]] = {}

    def storage(identifier: tuple[Any, ...]) -> tuple[Any, int]:
        asked = _pickled_storage(identifier[0])
        if asked is None:
            return Stub("an object that is stored elsewhere"), _TENSOR_MEMORY
        if asked.key not in storages:
            member = members.get(f"{root}data/{asked.key}")
            if member is None or asked.bytes > member.size:
                has = "none" if member is None else f"{member.size} bytes"
                raise PickleError(f"a tensor is promised {asked.bytes} bytes, the file has {has}")
            data = _member_data(file, member, asked.bytes, size, on_disk)
            if swapped:
                data = _reversed(data, asked.dtype)
            storages[asked.key] = asked, _Storage(data, asked.dtype)
        first, found = storages[asked.key]
        if first[:3] != asked[:3]:
            raise PickleError("it describes the same data in two ways")
        return found, _TENSOR_MEMORY

    pickle = members[pickles[0]]
    file.seek(data_offset(file, pickle, size))
    data = file.read(pickle.size)
    if pickle.crc not in (0, zlib.crc32(data)):  # 0: torch was told to write none
        raise ArchiveError(f"the checksum of its '{pickle.name}' is another")
    return read_pickle(data, 0, allowance(size), _CALLS, storage, imports).value


def _read_legacy(path: Path, file: BufferedReader, size: int, imports: dict[str, None]) -> Any:
    storages: dict[str, tuple[_Pickled, _Storage]] = {}
    allocated = 0

    def storage(identifier: tuple[Any, ...]) -> tuple[Any, int]:
        nonlocal allocated
        asked = _pickled_storage(identifier[0])
        if asked is None:
            return Stub("an object that is stored elsewhere"), _TENSOR_MEMORY
        if asked.key not in storages:
            allocated += asked.bytes
            if allocated > size:
                raise PickleError(
                    f"a tensor is promised {asked.elements} elements in a file of {size} bytes"
                )
            data = torch.empty(asked.bytes, dtype=torch.uint8)
            storages[asked.key] = asked, _Storage(data, asked.dtype)
        first, found = storages[asked.key]
        if first[:3] != asked[:3]:
            raise PickleError("it describes the same data in two ways")
        return _legacy_view(found, asked.view), _TENSOR_MEMORY

    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        memory = allowance(size)
        magic = read_pickle(data, 0, memory, _CALLS, _stored_elsewhere, imports)
        if magic.value != _LEGACY_MAGIC:
            _refuse_imports(path, imports)
            raise _RefusedError("is a pickle, but not one that torch.save wrote", _CONVERT)
        version = read_pickle(data, magic.end, magic.memory, _CALLS, _stored_elsewhere, imports)
        system = read_pickle(data, version.end, version.memory, _CALLS, _stored_elsewhere, imports)
        found = read_pickle(data, system.end, system.memory, _CALLS, storage, imports)
        keys = read_pickle(data, found.end, found.memory, _CALLS, _stored_elsewhere, imports)
    if type(keys.value) is not list or {type(key) for key in keys.value} - {str}:
        raise PickleError("the list of its tensors' data is damaged")
    file.seek(keys.end)
    for key in keys.value:
        if key not in storages:
            raise PickleError("the list of its tensors' data is damaged")
        asked, filled = storages.pop(key)
        count = file.read(8)
        if len(count) < 8 or int.from_bytes(count, "little") != asked.elements:
            raise PickleError("the data of its tensors are of other lengths than it says")
        if not read_into(file, filled.data):
            raise PickleError("the file ends within the data of a tensor")
        if sys.byteorder == "big":  # the data are always little-endian
            filled.data.copy_(_reversed(filled.data, asked.dtype))
    if storages:
        raise PickleError(f"the file lacks the data of {len(storages)} of its tensors")
    return found.value


def _pickled_storage(identifier: Any) -> _Pickled | None:
    """The storage that a pickle's persistent identifier describes, None where it is another's.

    (`"storage"`, its class, its key, the device it was on, its length, in old files a part of it).
    """
    if type(identifier) is not tuple or len(identifier) not in (5, 6):
        return None
    what, kind, key, _, elements, *view = identifier
    if what != "storage" or type(kind) is not Global:
        return None
    dtype = _DTYPES.get(kind.name.rpartition(".")[2]) if kind.name.startswith("torch.") else None
    if dtype is None:
        raise PickleError("a tensor is of a type that is not known")
    if type(key) is int:
        key = str(key)
    if type(key) is not str or not _count(elements):
        raise PickleError("a tensor's data are described wrongly")
    return _Pickled(dtype, key, elements, view[0] if view else None)


def _legacy_view(storage: _Storage, view: Any) -> _Storage:
    """The part of a storage that old files name: (key, first element, number of elements)."""
    if view is None:
        return storage
    if type(view) is not tuple or len(view) != 3 or not (_count(view[1]) and _count(view[2])):
        raise PickleError("a tensor's data are described wrongly")
    begin, end = (place * storage.dtype.itemsize for place in (view[1], view[1] + view[2]))
    if end > len(storage.data):
        raise PickleError("a tensor reaches outside its data")
    return _Storage(storage.data[begin:end], storage.dtype)


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


def _stored_elsewhere(_: tuple[Any, ...]) -> tuple[Any, int]:
    return Stub("an object that is stored elsewhere"), _TENSOR_MEMORY


# --- what a pickle may call ----------------------------------------------------------------------


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None) -> Any:
    """A view of a storage, `NotPlain` where it is not one that torch could hold."""
    if type(storage) is not _Storage:
        return NotPlain("has no data in the file", _DAMAGED)
    dtype = storage.dtype if dtype is None else dtype
    if not _counts(shape) or not _counts(strides) or len(shape) != len(strides):
        return NotPlain("has a shape or strides that are no whole numbers", _DAMAGED)
    # zero-sized tensors may still name sides that torch cannot count
    if len(shape) > _MOST_DIMENSIONS or math.prod(side for side in shape if side) >= 2**60:
        return NotPlain("has a shape too large for any machine", _DAMAGED)
    if not _count(offset):
        return NotPlain("begins at no element of its data", _DAMAGED)
    if dtype not in _MEASURED:
        name = str(dtype).removeprefix("torch.")
        return NotPlain(f"has the dtype {name}, which cannot be measured", _DENSE)
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    last = sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if (offset + last + 1) * dtype.itemsize > len(storage.data):
        return NotPlain(f"of shape {shape} reaches outside its data", _DAMAGED)
    if storage.data.storage_offset() % dtype.itemsize:  # a part of one, seen as another type
        return NotPlain("begins at no element of its data", _DAMAGED)
    whole = len(storage.data) // dtype.itemsize * dtype.itemsize
    base = storage.data[:whole].view(dtype)
    return torch.as_strided(base, shape, strides, base.storage_offset() + offset)


def _rebuild_tensor(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """(storage, offset, shape, strides, requires_grad, hooks, metadata)."""
    if len(arguments) < 4:
        raise PickleError("it describes a tensor in a way that is not known")
    storage, offset, shape, strides = arguments[:4]
    return _marked(_tensor(storage, offset, shape, strides), arguments[6:]), _TENSOR_MEMORY


def _rebuild_tensor_with_dtype(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """As `_rebuild_tensor`, with a dtype before the metadata."""
    dtype = _dtype(arguments[6]) if len(arguments) > 6 else None
    if dtype is None:
        raise PickleError("a tensor is of a type that is not known")
    storage, offset, shape, strides = arguments[:4]
    return _marked(_tensor(storage, offset, shape, strides, dtype), arguments[7:]), _TENSOR_MEMORY


def _marked(tensor: Any, metadata: tuple[Any, ...]) -> Any:
    """`tensor`, conjugated or negated where the metadata say that this was put off."""
    table = metadata[0] if metadata else None
    if isinstance(tensor, Tensor) and type(table) is dict:
        if table.get("conj") is True:
            tensor = tensor.conj()
        if table.get("neg") is True:
            if tensor.dtype not in _NEGATED:
                return NotPlain("is negated, which its dtype cannot be", _DAMAGED)
            tensor = torch._neg_view(tensor)
    return tensor


def _dtype(named: Any) -> torch.dtype | None:
    if type(named) is not Global or not named.name.startswith("torch."):
        return None
    found = getattr(torch, named.name.removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else None


def _first_argument(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """The tensor that a parameter wraps; what else it has is not needed."""
    if not arguments or not isinstance(arguments[0], Tensor | NotPlain):
        return NotPlain("has no data in the file", _DAMAGED), _TENSOR_MEMORY
    return arguments[0], 8


def _rebuild_subclass(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """(function, class, its arguments, state): a tensor with attributes, or of a subclass."""
    if len(arguments) < 3 or type(arguments[0]) is not Global or type(arguments[2]) is not tuple:
        raise PickleError("it describes a tensor in a way that is not known")
    rebuild, kind = _CALLS.get(arguments[0].name), arguments[1]
    if type(kind) is not Global or kind.name not in _PLAIN_CLASSES or rebuild is None:
        name = kind.name if type(kind) is Global else "subclass"
        return NotPlain(f"is a {name.rpartition('.')[2]}, not a plain tensor", _DENSE), 500
    if rebuild is _rebuild_subclass:
        raise PickleError("it describes a tensor in a way that is not known")
    return rebuild(arguments[2])


def _not_plain(reason: str, hint: str = _DENSE) -> Call:
    return lambda _: (NotPlain(reason, hint), 500)


def _mapping(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """A new dict: of nothing, of a mapping or of pairs (the oldest files have lists of them)."""
    table: dict[Any, Any] = {}
    given = arguments[-1] if arguments else None
    if type(given) is dict:
        table.update(given)
    elif type(given) is list:
        for pair in given:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise PickleError("it has a mapping without keys and values")
            table[plain_key(pair[0])] = pair[1]
    return table, 64 + 100 * len(table)


def _shape(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    given = arguments[0] if arguments else ()
    return (given, 8) if type(given) is tuple else (Stub("torch.Size"), 300)


def _encoded(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """Bytes, which old protocols write as text in Latin-1."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        return Stub("_codecs.encode"), 300
    try:
        data = arguments[0].encode("latin-1")
    except UnicodeEncodeError as error:
        raise PickleError("it has bytes that are none") from error
    return data, 40 + len(data)


def _complex(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    if len(arguments) == 2 and all(type(part) is float for part in arguments):
        return complex(*arguments), 40
    return Stub("builtins.complex"), 300


def _numpy_scalar(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """A number: only bool, integers and floats, whose bytes need no further pickle."""
    import numpy as np

    dtype, data = arguments if len(arguments) == 2 else (None, None)
    if type(dtype) is not Stub or dtype.name != "numpy.dtype" or type(data) is not bytes:
        return Stub("a numpy scalar"), 300
    code, state = dtype.arguments[:1], dtype.entries.get(None)
    swapped = type(state) is tuple and ">" in state[1:2]
    if len(code) == 1 and type(code[0]) is str and code[0] in _NUMBER_CODES:
        kind = np.dtype(f"{'>' if swapped else '<'}{code[0]}")
        if len(data) == kind.itemsize:
            return np.frombuffer(data, kind)[0].item(), 40
    return Stub("a numpy scalar"), 300


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _counts(values: Any) -> bool:
    return type(values) is tuple and len(values) <= 1000 and all(map(_count, values))


_PLAIN_CLASSES = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")
_QUANTIZED = _not_plain("is quantized")
_ELSEWHERE = _not_plain("was on a device that has no plain copy of it in the file")
_CALLS: dict[str, Call] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_with_dtype,
    "torch._utils._rebuild_parameter": _first_argument,
    "torch._utils._rebuild_parameter_with_state": _first_argument,
    "torch.nn.parameter.Parameter": _first_argument,
    "torch.nn.parameter.Buffer": _first_argument,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first_argument,
    "torch._tensor._rebuild_from_type": _rebuild_subclass,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch._utils._rebuild_qtensor": _QUANTIZED,
    "torch._utils._rebuild_sparse_tensor": _not_plain("is sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _not_plain("is sparse"),
    "torch._utils._rebuild_nested_tensor": _not_plain("is nested"),
    "torch._utils._rebuild_wrapper_subclass": _not_plain("is of a subclass without data"),
    "torch._utils._rebuild_device_tensor_from_numpy": _ELSEWHERE,
    "torch._utils._rebuild_xla_tensor": _ELSEWHERE,
    "torch._utils._rebuild_meta_tensor_no_storage": _not_plain(
        "has no data (device 'meta')", "save the model once its weights are loaded"
    ),
    "torch.Size": _shape,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _mapping,
    "_codecs.encode": _encoded,
    "builtins.complex": _complex,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}


# --- refusals ------------------------------------------------------------------------------------


def _refuse_imports(path: Path, imports: dict[str, None]) -> None:
    """Raise where the pickle asks for what is not plain data, saying what it is."""
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
    """Whether a file of plain tensors may name this; it is not imported either way."""
    return (
        name in _HARMLESS
        or name.removeprefix("builtins.") in _BUILTINS
        or (name.startswith("torch.") and name.count(".") == 1)
        or name.startswith(
            ("torch._utils.", "torch._tensor.", "torch.storage.", "torch.nn.parameter.")
        )
        or (name.startswith("torch.cuda.") and name.endswith("Storage"))
    )
