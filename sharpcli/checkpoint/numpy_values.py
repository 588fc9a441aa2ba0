"""NumPy's numbers and arrays from a pickle's bytes; nothing that the pickle names is called."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sharpcli.checkpoint.stand_ins import STUB, Stub

if TYPE_CHECKING:
    import numpy as np

__all__ = ["array_tensor", "is_array", "numpy_scalar"]

_SIZES = {"i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "b": (1,), "c": (8, 16)}
_CODES = {f"{kind}{size}" for kind, sizes in _SIZES.items() for size in sizes}
_MOST_DIMENSIONS = 64  # of a tensor in torch
_ARRAYS = ("numpy.ndarray", "numpy.memmap")
_FROM_BUFFER = tuple(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core"))


def numpy_scalar(arguments: tuple[Any, ...]) -> tuple[Any, int]:
    """A NumPy bool, integer or float; other scalars need a further pickle and become a stub."""
    import numpy as np

    dtype, data = arguments if len(arguments) == 2 else (None, None)
    kind = _dtype(dtype)
    real = kind is not None and kind.kind != "c"
    if kind is not None and real and type(data) is bytes and len(data) == kind.itemsize:
        return np.frombuffer(data, kind)[0].item(), 40
    return Stub("numpy.generic"), STUB


def is_array(value: object) -> bool:
    """Whether `value` is an inert object in the place of a NumPy array."""
    return isinstance(value, Stub) and value.name in (*_ARRAYS, *_FROM_BUFFER)


def array_tensor(array: Stub) -> Tensor | None:
    """The numbers of an array as a tensor of its own memory; None for objects, texts and dates.

    Raises:
        ValueError: the array's shape does not fit its data.
    """
    import numpy as np

    dtype, shape, columns_first, data = _parts(array)
    kind = _dtype(dtype)
    if kind is None:
        return None
    counts = type(shape) is tuple and len(shape) <= _MOST_DIMENSIONS
    if not counts or not all(type(side) is int and 0 <= side < 2**60 for side in shape):
        raise ValueError("is a NumPy array with a damaged shape")
    size = math.prod(side for side in shape if side)
    expected = 0 if 0 in shape else size * kind.itemsize
    if size >= 2**60 or type(data) is not bytes or len(data) != expected:
        raise ValueError(f"is a NumPy array whose shape {shape} does not fit its data")
    flat = torch.from_numpy(np.frombuffer(data, kind).astype(kind.newbyteorder("=")))
    if columns_first:
        return flat.reshape(shape[::-1]).permute(*range(len(shape) - 1, -1, -1))
    return flat.reshape(shape)


def _parts(array: Stub) -> tuple[Any, Any, bool, Any]:
    """The dtype, the shape, whether columns come first, and the bytes, as far as they are known."""
    if array.name in _FROM_BUFFER and len(array.arguments) == 4:
        data, dtype, shape, order = array.arguments
        return dtype, shape, order == "F", data
    state = array.state if type(array.state) is tuple else ()
    if len(state) in (4, 5):  # the first of five is a version
        shape, dtype, columns_first, data = state[-4:]
        return dtype, shape, columns_first is True or columns_first == 1, data
    return None, None, False, None


def _dtype(value: Any) -> np.dtype[Any] | None:
    """The type of numbers that a pickled `numpy.dtype` describes, None for any other."""
    import numpy as np

    if type(value) is not Stub or value.name != "numpy.dtype":
        return None
    code, state = value.arguments[:1], value.state
    if len(code) != 1 or type(code[0]) is not str or code[0] not in _CODES:
        return None
    swapped = type(state) is tuple and len(state) > 1 and state[1] == ">"
    return np.dtype(f"{'>' if swapped else '<'}{code[0]}")
