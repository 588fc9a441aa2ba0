"""Find the state dict, the settings and the optimizer's state in the object of a torch file."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
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
from sharpcli.checkpoint.optimizer import add_optimizer, is_optimizer
from sharpcli.checkpoint.pickled_modules import ModuleState
from sharpcli.checkpoint.settings_beside import flat_settings
from sharpcli.checkpoint.stand_ins import Stub
from sharpcli.checkpoint.state_dict import Origin, StateDict, Versions, versions_below
from sharpcli.errors import SharpError, nearest, setting

__all__ = ["optimizers_in", "under_prefix", "unnest"]

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


def unnest(path: Path, loaded: object, size: int, key: str | None = None) -> Checkpoint:
    """Find the state dict in `loaded`, which came from a file of `size` bytes at `path`.

    Args:
        path: the file, for messages.
        loaded: the object in it.
        size: the file's size in bytes.
        key: the mapping or prefix to take (`ema`, `state_dict.backbone`); None: the usual ones.

    Raises:
        SharpError: there is no state dict, none of that name, or a tensor in it is not plain.
    """
    notes: list[str] = []
    around: list[Mapping[Any, Any]] = []
    weights = _Weights()
    state, prefix = loaded, key
    if key is not None:
        _refuse_nameless(path, loaded, key)
        state, prefix = _asked_for(loaded, key, weights, around, notes)
    state, undecided = _innermost(state, weights, around, notes, open_prefix=bool(prefix))
    if not isinstance(state, Mapping):
        raise SharpError(f"{path}: holds {_described(state)}, not tensors by name", _SAVE)
    plain = (
        (name, _plain(path, name, value, size))
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor | NotPlain)
    )
    tensors: dict[str, Tensor] = _alike(plain, state)
    if not tensors:
        _raise_without_tensors(path, state)
    _check_size(path, tensors, size)
    dropped = [str(name) for name in state if name not in tensors]
    if dropped and around:
        notes.append(f"left out {listed(dropped)}: not a tensor")
    elif dropped:
        around.append({name: value for name, value in state.items() if name not in tensors})
    others = _others(around, weights, size)
    if prefix:
        tensors = under_prefix(path, tensors, prefix, known=others)
        notes.append(f"only names under {quoted(prefix)} taken")
    metadata, optimizer = _facts(around, notes, weights, others)
    return Checkpoint(
        path,
        tensors,
        metadata,
        sha256_of(path),
        tuple(notes),
        optimizer,
        others if key is None else {},
        () if key is not None else undecided,
    )


def under_prefix(
    path: Path, tensors: Mapping[str, Tensor], key: str, known: Iterable[str] = ()
) -> dict[str, Tensor]:
    """The tensors whose names begin with `key` and a dot, without these.

    Raises:
        SharpError: there are none; the message lists the prefixes and the keys in `known`.
    """
    prefix = key.removesuffix(".") + "."
    taken = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    if taken:
        return StateDict(taken, versions_below(tensors, prefix), _origin(tensors))
    first = dict.fromkeys(name.partition(".")[0] for name in tensors if "." in name)
    there = [*known, *first]
    raise SharpError(
        f"{path}: has no weights {quoted(key)} ({setting('weights')}); it has "
        f"{listed(there, 8) or 'names without a prefix only'}",
        nearest(key, there) or f"name one of these, or leave {setting('weights')} out",
    )


def _innermost(
    state: object,
    weights: _Weights,
    around: list[Mapping[Any, Any]],
    notes: list[str],
    *,
    open_prefix: bool = False,
) -> tuple[object, tuple[str, ...]]:
    """The mapping that holds the weights, below the usual keys.

    Several mappings of which none is the usual one become a single mapping, each name after its
    key; the keys are then the second result. With `open_prefix`, one of them is meant.
    """
    for _ in range(_DEEPEST):
        keys = _state_keys(state, weights)
        if not keys or not isinstance(state, Mapping):
            break
        around.append({name: value for name, value in state.items() if name not in keys})
        if len(keys) > 1:
            if not open_prefix:
                notes.append(f"several mappings of weights: {listed(keys)}")
            return _joined(state, keys, weights), tuple(keys)
        notes.append(f"weights taken from {quoted(keys[0])}")
        state = state[keys[0]]
    return state, ()


def _joined(state: Mapping[Any, Any], keys: Sequence[str], weights: _Weights) -> StateDict:
    """The tensors of several mappings, each name after its mapping's key."""
    joined, seen = {}, set[int]()
    versions: Versions = {}
    for key in keys:
        inner, _ = _innermost(state[key], weights, [], [])
        if not isinstance(inner, Mapping) or id(inner) in seen:  # a file may link to one often
            continue
        seen.add(id(inner))
        for name, value in inner.items():
            if isinstance(name, str) and isinstance(value, Tensor | NotPlain):
                joined[f"{key}.{name}"] = value
        for name, table in (versions_below(inner, "") or {}).items():
            versions[f"{key}.{name}".removesuffix(".")] = table
    return StateDict(joined, versions or None)


def _asked_for(
    state: object,
    key: str,
    weights: _Weights,
    around: list[Mapping[Any, Any]],
    notes: list[str],
) -> tuple[object, str]:
    """The mapping that `key` names, and the rest of `key`, which is then a prefix of names."""
    rest = key.removesuffix(".")
    for _ in range(2 * _DEEPEST):
        if not isinstance(state, Mapping):
            break
        parts = rest.split(".") if rest else []
        heads = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
        head = next((each for each in heads if _holds_weights(state.get(each), weights)), None)
        if head is not None:
            rest = rest.removeprefix(head).removeprefix(".")
        else:
            usual = _state_keys(state, weights)
            if not rest or len(usual) != 1:
                break
            head = usual[0]
        around.append({name: value for name, value in state.items() if name != head})
        notes.append(f"weights taken from {quoted(head)}")
        state = state[head]
    return state, rest


def _refuse_nameless(path: Path, loaded: object, key: str) -> None:
    """Raise `SharpError` if `key` holds a list of tensors, as torch-ema and diffusers store it."""
    held = loaded.get(key) if isinstance(loaded, Mapping) else None
    lists = held.values() if isinstance(held, Mapping) else (held,)
    for each in lists:
        if isinstance(each, list | tuple) and any(isinstance(one, Tensor) for one in each):
            raise SharpError(
                f"{path}: {quoted(key)} holds a list of {len(each)} tensors without names",
                "in the training environment: ema.copy_to(model.parameters()), then save the "
                "model's state dict",
            )


def _others(
    around: Sequence[Mapping[Any, Any]], weights: _Weights, size: int
) -> dict[str, Mapping[str, Tensor]]:
    """Further mappings of plain tensors, by key; the outermost of a name is the one."""
    others: dict[str, Mapping[str, Tensor]] = {}
    seen: set[int] = set()
    for level in around:
        for key, value in level.items():
            if not _may_be_weights(key, value) or key in others:
                continue
            inner, several = _innermost(value, weights, [], [])
            if several or not isinstance(inner, Mapping) or id(inner) in seen:
                continue
            seen.add(id(inner))
            plain = (
                (name, each)
                for name, each in inner.items()
                if isinstance(name, str) and isinstance(each, Tensor) and is_text(name)
            )
            tensors = _alike(plain, inner)
            lost = any(isinstance(each, NotPlain) for each in inner.values())
            if tensors and not lost and _overlap(tensors) <= _MOST_OVERLAP * size + _SMALL:
                others[key] = tensors
    return others


def _may_be_weights(key: object, value: object) -> bool:
    return (
        isinstance(key, str)
        and is_text(key)
        and isinstance(value, Mapping)
        and key not in _OPTIMIZER_KEYS
        and not key.startswith(("optim", "lr_sched", "sched"))
        and not is_optimizer(value)
    )


def _alike(tensors: Iterable[tuple[str, Tensor]], state: Mapping[Any, Any]) -> StateDict:
    """Tensors with the versions and the origin of the mapping that they are from."""
    return StateDict(tensors, versions_below(state, ""), _origin(state))


def _origin(state: Mapping[Any, Any]) -> Origin:
    if isinstance(state, StateDict):
        return state.origin
    return "module" if isinstance(state, ModuleState) else "state dict"


class _Weights:
    """Remembers which mappings hold tensors, so that each one is searched only once."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}
        self._deeper: dict[int, bool] = {}

    def one_deeper_in(self, table: Mapping[Any, Any]) -> bool:
        """Whether a mapping has mappings of tensors: `{"raw": {…}, "ema": {…}}`."""
        if id(table) not in self._deeper:
            self._deeper[id(table)] = any(
                _may_be_weights(key, each) and self.in_(each, 1) for key, each in table.items()
            )
        return self._deeper[id(table)]

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


def _state_keys(loaded: object, weights: _Weights) -> list[str]:
    """The keys of what could be the weights one level deeper: none if they are on this level."""
    if not isinstance(loaded, Mapping):
        return []
    for key in _STATE_KEYS:
        if key in loaded and weights.in_(loaded[key], _DEEPEST):
            return [key]
    if weights.in_(loaded, 1) or is_optimizer(loaded):
        return []
    mappings = {name: each for name, each in loaded.items() if _may_be_weights(name, each)}
    direct = [name for name, each in mappings.items() if weights.in_(each, 1)]
    return direct or [name for name, each in mappings.items() if weights.one_deeper_in(each)]


def _holds_weights(value: object, weights: _Weights) -> bool:
    """Whether weights are in `value`, under usual keys or one level below any others."""
    return weights.in_(value, _DEEPEST) or (
        isinstance(value, Mapping) and not is_optimizer(value) and weights.one_deeper_in(value)
    )


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
    total = _overlap(tensors)
    if total > _MOST_OVERLAP * size + _SMALL:
        once = {place(tensor) for tensor in tensors.values()}
        raise SharpError(
            f"{path}: its {len(once)} tensors together have {total} bytes, the file {size}: they "
            "overlap",
            "save each with .contiguous(); if all are contiguous already, copy the file again",
        )


def _overlap(tensors: Mapping[str, Tensor]) -> int:
    """The bytes of all tensors, each view of the same data counted once."""
    once = {place(tensor): tensor for tensor in tensors.values()}.values()
    return sum(tensor.numel() * tensor.element_size() for tensor in once)


def _facts(
    around: list[Mapping[Any, Any]],
    notes: list[str],
    weights: _Weights,
    others: Container[str],
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
            elif weights.in_(value, 1) and key not in others:
                aside.append(str(key))
    for level in around:
        for key in _SETTINGS_KEYS:
            for name, value in flat_settings(level.get(key)):
                metadata.setdefault(name, value)
    if optimizer is not None:
        add_optimizer(metadata, optimizer)
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


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"one tensor of shape {tuple(value.shape)}"
    if isinstance(value, Stub):
        return f"an object of the class {quoted(value.name)}"
    return f"a {type(value).__name__}"
