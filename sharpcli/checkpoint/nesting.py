"""Find the state dict, the settings and the optimizer's state in the object of a torch file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpcli.checkpoint.contents import (
    Checkpoint,
    Metadata,
    NotPlain,
    is_text,
    listed,
    place,
    plain_scalar,
    quoted,
    refuse_many,
    sha256_of,
)
from sharpcli.checkpoint.optimizer import is_optimizer, optimizer_settings
from sharpcli.checkpoint.stand_ins import Stub
from sharpcli.errors import SharpError

__all__ = ["optimizers_in", "unnest"]

_STATE_KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
)
_OPTIMIZER_KEYS = (
    "optimizer",
    "optimizer_state_dict",
    "optimizer_state",
    "optimizer_states",
    "optim",
    "optimizers",
)
_SETTINGS_KEYS = ("hyper_parameters", "hparams", "hyperparameters", "args", "config", "cfg")
_SAVE = "save it as torch.save({'model': model.state_dict(), …}) or as safetensors"
_DEEPEST = 5
# Limit on the size of overlapping tensors together, in file sizes. The usual reason for overlap,
# views of one buffer, gives about one.
_MOST_OVERLAP = 4
_SMALL = 2**20  # bytes; reading these takes no time


def unnest(path: Path, loaded: object, size: int) -> Checkpoint:
    """Find the state dict in `loaded`, which came from a file of `size` bytes at `path`.

    Raises:
        SharpError: there is no state dict, or a tensor in it is not plain.
    """
    notes: list[str] = []
    around: list[Mapping[Any, Any]] = []
    weights = _Weights()
    state = loaded
    for _ in range(_DEEPEST):
        key = _state_key(path, state, weights)
        if key is None or not isinstance(state, Mapping):
            break
        notes.append(f"weights taken from {quoted(key)}")
        around.append({name: value for name, value in state.items() if name != key})
        state = state[key]
    if not isinstance(state, Mapping):
        raise SharpError(f"{path}: holds {_described(state)}, not tensors by name", _SAVE)
    tensors = {
        name: _plain(path, name, value, size)
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor | NotPlain)
    }
    if not tensors:
        _raise_without_tensors(path, state)
    _check_size(path, tensors, size)
    dropped = [str(name) for name in state if name not in tensors]
    if dropped and around:
        notes.append(f"left out {listed(dropped)}: not a tensor")
    elif dropped:
        around.append({name: value for name, value in state.items() if name not in tensors})
    metadata, optimizer = _facts(around, notes, weights)
    return Checkpoint(path, tensors, metadata, sha256_of(path), tuple(notes), optimizer)


class _Weights:
    """Remembers which mappings hold tensors, so that each one is searched only once."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def in_(self, value: object, depth: int) -> bool:
        """Whether `value`, or a mapping under a usual key up to `depth` levels deep, has tensors.

        Every mapping is visited once: a hostile file may link to it from many places.
        """
        level, seen = [value], set()
        for _ in range(depth):
            found = []
            for each in level:
                if isinstance(each, Mapping) and id(each) not in seen:
                    seen.add(id(each))
                    found.append(each)
            if any(map(self._directly, found)):
                return True
            level = [each[key] for each in found for key in _STATE_KEYS if key in each]
        return False

    def _directly(self, table: Mapping[Any, Any]) -> bool:
        if id(table) not in self._known:
            values = table.values()
            self._known[id(table)] = any(isinstance(each, Tensor | NotPlain) for each in values)
        return self._known[id(table)]


def _state_key(path: Path, loaded: object, weights: _Weights) -> str | None:
    """The key of the weights one level deeper, None if they are on this level.

    Raises:
        SharpError: more than one entry could be the weights.
    """
    if not isinstance(loaded, Mapping):
        return None
    for key in _STATE_KEYS:
        if key in loaded and weights.in_(loaded[key], _DEEPEST):
            return key
    if weights.in_(loaded, 1) or is_optimizer(loaded):
        return None
    others = [
        name
        for name, value in loaded.items()
        if isinstance(name, str)
        and not name.startswith(("optim", "lr_sched", "sched"))
        and not is_optimizer(value)
        and weights.in_(value, 1)
    ]
    if len(others) > 1:
        raise SharpError(
            f"{path}: more than one entry could be the weights: {listed(others)}",
            "save only the state dict to measure, or save it under the key 'model'",
        )
    return others[0] if others else None


def _raise_without_tensors(path: Path, state: Mapping[Any, Any]) -> None:
    if is_optimizer(state):
        raise SharpError(
            f"{path}: holds an optimizer's state, not weights",
            "pass the model's file, or the folder that holds both",
        )
    keys = listed(map(str, state)) if state else "none"
    raise SharpError(f"{path}: holds no tensors by name; its keys: {keys}", _SAVE)


def _plain(path: Path, name: str, tensor: Tensor | NotPlain, size: int) -> Tensor:
    """Return `tensor`.

    Raises:
        SharpError: it cannot be measured, or is larger than the file.
    """
    where = f"{path}: tensor {quoted(name)}"
    if not is_text(name):
        raise SharpError(f"{where} has a name that is not valid text", _SAVE)
    if isinstance(tensor, NotPlain):
        raise SharpError(f"{where} {tensor.reason}", tensor.hint)
    if tensor.numel() * tensor.element_size() > size:
        raise SharpError(
            f"{where} of shape {tuple(tensor.shape)} is larger than the file that holds it",
            "save it with .contiguous(); if it is contiguous already, copy the file again",
        )
    return tensor


def _check_size(path: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    """Raise `SharpError` if names or overlaps are so many that reading them would never end."""
    refuse_many(path, len(tensors), size)
    once = {place(tensor): tensor for tensor in tensors.values()}.values()
    total = sum(tensor.numel() * tensor.element_size() for tensor in once)
    if total > _MOST_OVERLAP * size + _SMALL:
        raise SharpError(
            f"{path}: its {len(once)} tensors together have {total} bytes, the file {size}: they "
            "overlap",
            "save each with .contiguous(); if all are contiguous already, copy the file again",
        )


def _facts(
    around: list[Mapping[Any, Any]], notes: list[str], weights: _Weights
) -> tuple[Metadata, Mapping[str, Any] | None]:
    """The scalars stored with the weights (outermost level first), and the optimizer's state."""
    metadata: Metadata = {}
    optimizer: Mapping[str, Any] | None = None
    aside: list[str] = []
    for level in around:
        for key, value in level.items():
            named = isinstance(key, str | int) and is_text(str(key))
            if named and (scalar := plain_scalar(value)) is not None:
                metadata.setdefault(str(key), scalar)
            elif key in _OPTIMIZER_KEYS or is_optimizer(value):
                found = [each for each in _each(value) if is_optimizer(each)]
                if optimizer is None and found:
                    optimizer = found[0]
                if len(found) > 1:
                    many = f"{quoted(str(key))} has {len(found)} optimizers"
                    notes.append(f"{many}; the first is used")
            elif weights.in_(value, 1):
                aside.append(str(key))
    for level in around:
        for key in _SETTINGS_KEYS:
            for name, value in _settings(level.get(key)):
                metadata.setdefault(name, value)
    if optimizer is not None:
        for name, value in optimizer_settings(optimizer).items():
            metadata.setdefault(name, value)
    if aside:
        notes.append(f"not read: {listed(aside)}")
    return metadata, optimizer


def optimizers_in(loaded: object) -> Iterator[Mapping[str, Any]]:
    """The optimizers' state dicts under the usual keys of a training's file."""
    table = loaded if isinstance(loaded, Mapping) else {}
    for key in _OPTIMIZER_KEYS:
        yield from (each for each in _each(table.get(key)) if is_optimizer(each))


def _each(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from value
    else:
        yield value


def _settings(value: object) -> Iterator[tuple[str, str | int | float | bool]]:
    """The scalars of a mapping or an object with settings; lists of up to three become text."""
    if not isinstance(value, Mapping):
        return
    for name, each in value.items():
        scalar = plain_scalar(each)
        if scalar is None and isinstance(each, list | tuple) and 0 < len(each) <= 3:
            parts = [plain_scalar(part) for part in each]
            scalar = None if None in parts else ",".join(str(part) for part in parts)
        if scalar is not None and is_text(str(name)):
            yield str(name), scalar


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"one tensor of shape {tuple(value.shape)}"
    if isinstance(value, Stub):
        return f"an object of the class {quoted(value.name)}"
    return f"a {type(value).__name__}"
