"""From the objects of a pickle to what can be measured, and notes on what was left aside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpcli.checkpoint.contents import NotPlain, quoted
from sharpcli.checkpoint.numpy_values import array_tensor
from sharpcli.checkpoint.optimizer import is_optimizer
from sharpcli.checkpoint.pickled_modules import UnknownModule, is_module, module_state
from sharpcli.checkpoint.pickled_tensors import DAMAGED
from sharpcli.checkpoint.plain_objects import has_tensors, left_aside, numpy_arrays, settle
from sharpcli.errors import SharpError, counted

__all__ = ["SAVE_WEIGHTS", "read_objects"]

SAVE_WEIGHTS = (
    "in the training environment save the weights instead: "
    "torch.save(model.state_dict(), 'model.pt')"
)
_SPARE = 2**20  # bytes
# Where a training that saves whole modules keeps the one that it trains.
_MODULE_KEYS = ("model", "module", "net", "network")
_DEEPEST = 4  # levels of mappings in which weights are expected


def read_objects(path: Path, loaded: object, size: int) -> tuple[Any, tuple[str, ...]]:
    """Make plain values of the objects of a file as far as that needs none of their code.

    OmegaConf's and similar settings become plain mappings. NumPy's arrays become tensors if the
    file has no others. A pickled module becomes its state dict where it is the whole file, or an
    entry of the outermost mapping that has a usual name or no weights beside it.

    Args:
        path: the file, for messages.
        loaded: what its pickle holds; changed in place.
        size: the file's bytes.

    Returns:
        The object, and notes on what was converted or left aside.

    Raises:
        SharpError: the file's only weights are in a module whose state dict cannot be made, or
            there are none beside objects that are left aside.

    Cost: a few visits of each object.
    """
    settle(loaded)
    notes: list[str] = []
    if not has_tensors(loaded) and (count := _convert_arrays(path, loaded, size)):
        notes.append(f"{counted(count, 'NumPy array')} read as tensors")
    value, wrong = _without_modules(loaded, size, notes)
    if wrong and not _has_weights(value):
        raise SharpError(f"{path}: refused: holds a whole pickled module ({wrong})", SAVE_WEIGHTS)
    if aside := left_aside(value):
        notes.append(f"classes left aside: {aside}")
        parts = value.values() if isinstance(value, dict) else ()
        if not has_tensors(value) and not any(map(is_optimizer, (value, *parts))):
            raise SharpError(
                f"{path}: holds no tensors that are read without its classes: {aside}",
                SAVE_WEIGHTS,
            )
    return value, tuple(notes)


def _convert_arrays(path: Path, loaded: object, size: int) -> int:
    """Replace the NumPy arrays in mappings below `loaded` by tensors, and count them."""
    memory, count = size + _SPARE, 0
    made: dict[int, tuple[object, Tensor]] = {}  # an array under two names stays one
    for table, key, array in numpy_arrays(loaded):
        if id(array) in made:
            table[key] = made[id(array)][1]
            continue
        try:
            tensor = array_tensor(array)
        except ValueError as error:
            raise SharpError(f"{path}: tensor {quoted(str(key))} {error}", DAMAGED) from error
        if tensor is None:
            continue
        memory -= tensor.numel() * tensor.element_size()
        if memory < 0:
            raise SharpError(
                f"{path}: its NumPy arrays together are larger than the file",
                "save each array once",
            )
        table[key] = tensor
        made[id(array)] = array, tensor
        count += 1
    return count


def _without_modules(loaded: Any, size: int, notes: list[str]) -> tuple[Any, str]:
    """`loaded` with state dicts in the place of its modules, and the first that has none."""
    if is_module(loaded):
        try:
            state = module_state(loaded, size)
        except UnknownModule as error:
            return loaded, f"{quoted(loaded.name)}: {error}"
        notes.append(f"a whole pickled module ({quoted(loaded.name)}) read as its state dict")
        return state, ""
    wrong = ""
    if isinstance(loaded, dict):
        keys = _MODULE_KEYS if _has_weights(loaded) else tuple(loaded)
        for key in [key for key in keys if is_module(loaded.get(key))]:
            name, where = quoted(loaded[key].name), quoted(str(key))
            try:
                loaded[key] = module_state(loaded[key], size)
            except UnknownModule as error:
                wrong = wrong or f"{name} at {where}: {error}"
            else:
                notes.append(f"{where}: a whole pickled module ({name}) read as its state dict")
    return loaded, wrong


def _has_weights(root: object) -> bool:
    """Whether a mapping near `root` has tensors; an optimizer's state and modules do not count."""
    return any(
        isinstance(each, Tensor | NotPlain) for table in _tables(root) for each in table.values()
    )


def _tables(root: object) -> Iterator[Mapping[Any, Any]]:
    level, seen = [root], {id(root)}
    for _ in range(_DEEPEST):
        found = [
            each
            for each in level
            if isinstance(each, Mapping) and not is_module(each) and not is_optimizer(each)
        ]
        yield from found
        level = []
        for each in found:
            for value in each.values():
                if id(value) not in seen and isinstance(value, Mapping):
                    seen.add(id(value))
                    level.append(value)
