"""Make tensors from a pickle's descriptions: storages, and the functions a pickle may call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharpcli.checkpoint.contents import NotPlain
from sharpcli.checkpoint.numpy_values import numpy_scalar
from sharpcli.checkpoint.plain_pickle import Call, PickleError
from sharpcli.checkpoint.stand_ins import Global, Stub, plain_key
from sharpcli.checkpoint.state_dict import StateDict

__all__ = ["CALLS", "CLASS", "DAMAGED", "PickledStorage", "Storages", "stored_elsewhere"]

CLASS = "pickled_class"  # attribute of a tensor: the subclass that its file names
_LATIN = ("latin1", "latin-1")
_MOST_DIMENSIONS = 64  # of a tensor in torch
_TENSOR_MEMORY = 1000  # bytes of a tensor without its data, measured
DAMAGED = "the file is damaged or incomplete: copy or download it again"
_DENSE = "store it as a dense floating-point tensor"
_SPARSE = (
    "store it as a dense tensor, or leave it to model(): register_buffer(name, tensor, "
    "persistent=False), and delete it from the state dict before you save that"
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
        # quantized tensors are not measured, but their bytes have to be skipped
        "QInt8Storage": "int8",
        "QUInt8Storage": "uint8",
        "QInt32Storage": "int32",
        "QUInt4x2Storage": "uint8",
        "QUInt2x4Storage": "uint8",
    }.items()
}
# dtypes of storages, and those that only tensors have; torch cannot compute with the others
_MEASURED = {*_DTYPES.values()} | {
    getattr(torch, name)
    for name in (
        *("uint16", "uint32", "uint64", "complex32", "float8_e4m3fn", "float8_e4m3fnuz"),
        *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    if hasattr(torch, name)
}
# dtypes of the imaginary part of a conjugated tensor, which torch negates lazily
_NEGATED = (torch.float16, torch.float32, torch.float64)


class _Storage(NamedTuple):
    """Bytes of the file that hold tensors, and the type of their elements."""

    data: Tensor
    dtype: torch.dtype


class PickledStorage(NamedTuple):
    """A storage as a pickle describes it."""

    dtype: torch.dtype
    key: str
    elements: int
    view: Any

    @property
    def bytes(self) -> int:
        """Its size in bytes."""
        return self.elements * self.dtype.itemsize


class Storages:
    """Makes each storage that a pickle names once; call it with a persistent identifier.

    `read` returns a storage's bytes. With `views`, an identifier may name a part of a storage, as
    in old files.
    """

    def __init__(self, read: Callable[[PickledStorage], Tensor], *, views: bool) -> None:
        self._read, self._views = read, views
        self.made: dict[str, tuple[PickledStorage, Tensor]] = {}

    def __call__(self, identifier: tuple[Any, ...]) -> tuple[Any, int]:
        """Return the storage of a persistent identifier, and the memory for its tensor in bytes.

        Raises:
            PickleError: the pickle describes the same data in two ways.
        """
        asked = _pickled_storage(identifier[0])
        if asked is None:
            return stored_elsewhere(identifier)
        if asked.key not in self.made:
            self.made[asked.key] = asked, self._read(asked)
        first, data = self.made[asked.key]
        if first[:3] != asked[:3]:
            raise PickleError("it describes the same data in two ways")
        found = _Storage(data, asked.dtype)
        return _part(found, asked.view) if self._views else found, _TENSOR_MEMORY


def stored_elsewhere(identifier: tuple[Any, ...]) -> tuple[Any, int]:
    """A placeholder for a persistent object that is not a storage; the class, if it is one.

    Old files have the classes of modules in this way, with their source code, which is not read.
    """
    asked = identifier[0]
    what, kind = asked[:2] if type(asked) is tuple and len(asked) > 1 else (None, None)
    if what == "module" and type(kind) is Global:
        return kind, 8
    return Stub("an object that is stored elsewhere"), _TENSOR_MEMORY


def _pickled_storage(identifier: Any) -> PickledStorage | None:
    """The storage that a persistent identifier describes, None for another kind of object.

    The identifier is (`"storage"`, class, key, device, length), in old files with a part of it.

    Raises:
        PickleError: the description is wrong, or its type is unknown.
    """
    if type(identifier) is not tuple or len(identifier) not in (5, 6):
        return None
    what, kind, key, _, elements, *view = identifier
    if what != "storage" or type(kind) is not Global:
        return None
    dtype = _DTYPES.get(kind.name.rpartition(".")[2]) if kind.name.startswith("torch.") else None
    if dtype is None:
        raise PickleError("a tensor has an unknown type")
    if type(key) is int:
        key = str(key)
    if type(key) is not str or not _count(elements):
        raise PickleError("a tensor's data are described wrongly")
    return PickledStorage(dtype, key, elements, view[0] if view else None)


def _part(storage: _Storage, view: Any) -> _Storage:
    """The part of a storage that an old file names: (key, first element, number of elements)."""
    if view is None:
        return storage
    if type(view) is not tuple or len(view) != 3 or not (_count(view[1]) and _count(view[2])):
        raise PickleError("a tensor's data are described wrongly")
    begin, end = (place * storage.dtype.itemsize for place in (view[1], view[1] + view[2]))
    if end > len(storage.data):
        raise PickleError("a tensor reaches outside its data")
    return _Storage(storage.data[begin:end], storage.dtype)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None) -> Any:
    """A view of a storage, or `NotPlain` if torch could not hold it."""
    if type(storage) is not _Storage:
        return NotPlain("has no data in the file", DAMAGED)
    dtype = storage.dtype if dtype is None else dtype
    if not _counts(shape) or not _counts(strides) or len(shape) != len(strides):
        return NotPlain("has a shape or strides that are not integers", DAMAGED)
    # a tensor without elements may still have sides too large for torch
    if len(shape) > _MOST_DIMENSIONS or math.prod(side for side in shape if side) >= 2**60:
        return NotPlain("has a shape too large for any machine", DAMAGED)
    if not _count(offset):
        return NotPlain("does not begin at an element of its data", DAMAGED)
    if dtype not in _MEASURED:
        name = str(dtype).removeprefix("torch.")
        return NotPlain(f"has the dtype {name}, which cannot be measured", _DENSE)
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    last = sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if (offset + last + 1) * dtype.itemsize > len(storage.data):
        return NotPlain(f"of shape {shape} reaches outside its data", DAMAGED)
    if storage.data.storage_offset() % dtype.itemsize:  # a part, viewed as another type
        return NotPlain("does not begin at an element of its data", DAMAGED)
    whole = len(storage.data) // dtype.itemsize * dtype.itemsize
    base = storage.data[:whole].view(dtype)
    return torch.as_strided(base, shape, strides, base.storage_offset() + offset)


def _rebuild_tensor(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """A tensor of (storage, offset, shape, strides, requires_grad, hooks, metadata)."""
    if len(arguments) < 4:
        raise PickleError("it describes a tensor in an unknown way")
    storage, offset, shape, strides = arguments[:4]
    return _marked(_tensor(storage, offset, shape, strides), arguments[6:]), _TENSOR_MEMORY


def _rebuild_tensor_with_dtype(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """Like `_rebuild_tensor`, with a dtype before the metadata."""
    dtype = _dtype(arguments[6]) if len(arguments) > 6 else None
    if dtype is None:
        raise PickleError("a tensor has an unknown type")
    storage, offset, shape, strides = arguments[:4]
    return _marked(_tensor(storage, offset, shape, strides, dtype), arguments[7:]), _TENSOR_MEMORY


def _marked(tensor: Any, metadata: tuple[Any, ...]) -> Any:
    """`tensor`, conjugated or negated if the metadata say so."""
    table = metadata[0] if metadata else None
    if isinstance(tensor, Tensor) and type(table) is dict:
        if table.get("conj") is True:
            tensor = tensor.conj()
        if table.get("neg") is True:
            if tensor.dtype not in _NEGATED:
                return NotPlain("is negated, which its dtype cannot be", DAMAGED)
            tensor = torch._neg_view(tensor)
    return tensor


def _dtype(named: Any) -> torch.dtype | None:
    if type(named) is not Global or not named.name.startswith("torch."):
        return None
    found = getattr(torch, named.name.removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else None


def _first_argument(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """The tensor that a parameter wraps; the other arguments are not needed."""
    if not arguments or not isinstance(arguments[0], Tensor | NotPlain):
        return NotPlain("has no data in the file", DAMAGED), _TENSOR_MEMORY
    return arguments[0], 8


def _rebuild_subclass(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """A tensor with attributes or of a subclass: (function, class, its arguments, state)."""
    if len(arguments) < 3 or type(arguments[0]) is not Global or type(arguments[2]) is not tuple:
        raise PickleError("it describes a tensor in an unknown way")
    rebuild, kind = CALLS.get(arguments[0].name), arguments[1]
    name = kind.name if type(kind) is Global else "subclass"
    if rebuild is None or type(kind) is not Global:
        return NotPlain(f"is a {name.rpartition('.')[2]}, not a plain tensor", _DENSE), 500
    if rebuild is _rebuild_subclass:
        raise PickleError("it describes a tensor in an unknown way")
    tensor, cost = rebuild(arguments[2])
    if isinstance(tensor, Tensor) and name not in _PLAIN_CLASSES:
        setattr(tensor, CLASS, name)
    return tensor, cost


def _not_plain(reason: str, hint: str = _DENSE) -> Call:
    return lambda _: (NotPlain(reason, hint), 500)


def _mapping(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """A new dict: empty, of a mapping, or of a list of pairs (as in the oldest files)."""
    table = StateDict()
    given: Any = arguments[-1] if arguments else None
    if type(given) in (dict, StateDict):
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
    """Bytes, which old protocols write as Latin-1 text."""
    texts = len(arguments) == 2 and all(type(each) is str for each in arguments)
    if not texts or arguments[1] not in _LATIN:
        return Stub("_codecs.encode"), 300
    try:
        data = arguments[0].encode("latin-1")
    except UnicodeEncodeError as error:
        raise PickleError("it has bytes that are not valid") from error
    return data, 40 + len(data)


def _bytes(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """The bytes in an object of bytes that may be changed; none without arguments."""
    if len(arguments) == 2:
        return _encoded(arguments)
    given = arguments[0] if len(arguments) == 1 else b"" if not arguments else None
    return (given, 8) if type(given) is bytes else (Stub("builtins.bytes"), 300)


def _complex(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    if len(arguments) == 2 and all(type(part) is float for part in arguments):
        return complex(*arguments), 40
    return Stub("builtins.complex"), 300


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _counts(values: Any) -> bool:
    return type(values) is tuple and len(values) <= 1000 and all(map(_count, values))


_PLAIN_CLASSES = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")
_QUANTIZED = _not_plain("is quantized")
_ELSEWHERE = _not_plain("was on a device, and the file has no plain copy of it")
CALLS: dict[str, Call] = {
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
    "torch._utils._rebuild_sparse_tensor": _not_plain("is sparse", _SPARSE),
    "torch._utils._rebuild_sparse_csr_tensor": _not_plain("is sparse", _SPARSE),
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
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _complex,
    "numpy.core.multiarray.scalar": numpy_scalar,
    "numpy._core.multiarray.scalar": numpy_scalar,
}
