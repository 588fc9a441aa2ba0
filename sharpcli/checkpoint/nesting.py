"""Find the weights in the object of a torch file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpcli.checkpoint.contents import Checkpoint, NotPlain, is_text, listed, quoted, sha256_of
from sharpcli.checkpoint.optimizer import is_optimizer
from sharpcli.checkpoint.pickled_modules import ModuleState
from sharpcli.checkpoint.plain_tensors import SAVE, check_total_size, plain_tensor, within_bounds
from sharpcli.checkpoint.stand_ins import Stub
from sharpcli.checkpoint.state_dict import Origin, StateDict, Versions, versions_below
from sharpcli.checkpoint.training_facts import OPTIMIZER_KEYS, training_facts
from sharpcli.errors import SharpError, nearest, setting

__all__ = ["under_prefix", "unnest"]

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
_DEEPEST = 5


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
        raise SharpError(f"{path}: holds {_described(state)}, not tensors by name", SAVE)
    plain = (
        (name, plain_tensor(path, name, value, size))
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor | NotPlain)
    )
    tensors: dict[str, Tensor] = _alike(plain, state)
    if not tensors:
        _raise_without_tensors(path, state)
    check_total_size(path, tensors, size)
    dropped = [str(name) for name in state if name not in tensors]
    if dropped and around:
        notes.append(f"left out {listed(dropped)}: not a tensor")
    elif dropped:
        around.append({name: value for name, value in state.items() if name not in tensors})
    others = _others(around, weights, size)
    if prefix:
        tensors = under_prefix(path, tensors, prefix, known=others)
        notes.append(f"only names under {quoted(prefix)} taken")
    metadata, optimizer = training_facts(around, notes, lambda value: weights.in_(value, 1), others)
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
            if tensors and not lost and within_bounds(tensors, size):
                others[key] = tensors
    return others


def _may_be_weights(key: object, value: object) -> bool:
    return (
        isinstance(key, str)
        and is_text(key)
        and isinstance(value, Mapping)
        and key not in OPTIMIZER_KEYS
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
    raise SharpError(f"{path}: holds no tensors by name; its keys: {keys}", SAVE)


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"one tensor of shape {tuple(value.shape)}"
    if isinstance(value, Stub):
        return f"an object of the class {quoted(value.name)}"
    return f"a {type(value).__name__}"
