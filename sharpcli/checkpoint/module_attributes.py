"""Compare what a model's modules hold beside their parameters and buffers, before and after."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["attributes", "changed"]

_SCALARS = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)
_MOST = 20_000  # objects looked into for one attribute, in a second at most
_DEEPEST = 50  # levels of objects; Python's own limit is 1000 calls


def attributes(model: nn.Module) -> dict[str, Any]:
    """A comparable value for each attribute of each module, and for each tensor's kind.

    Tensors count by their digest, objects by what they hold, functions by their code and what they
    have captured. What cannot be looked into counts by identity, and is kept alive for that.

    Cost: a digest of the tensors in attributes.
    """
    look = _Look(model)
    found: dict[str, Any] = {}
    for prefix, module in model.named_modules():
        found[prefix] = type(module).__name__
        for name, value in vars(module).items():
            if name in _HOOKS:  # by numbers that count all hooks of the process
                value = [*value.values()]
                look.keep(value)
            if name not in _OF_MODULES:
                place = f"{prefix}.{name}".lstrip(".")
                found[place] = look.into(value, place)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[name] = tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `after` that were others, or none, before; entries that are gone as None."""
    found = {name: value for name, value in after.items() if before.get(name, ...) != value}
    return found | {name: None for name in before if name not in after}


class _Same:
    """A value that equals only itself. It is kept, so that no later one gets its address."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


class _Look:
    """Makes comparable values of a model's attributes. Each object is looked into once."""

    def __init__(self, model: nn.Module) -> None:
        self._left = 0
        self._kept: list[Any] = []
        # What is a module, a parameter or a buffer is compared at its own place.
        own = (model.named_modules(), model.named_parameters(), model.named_buffers())
        self._places = {id(each): f"<{name}>" for named in own for name, each in named}

    def into(self, value: Any, place: str) -> Any:
        """The comparable value of an attribute."""
        self._left = _MOST
        return self._at(value, place, _DEEPEST)

    def _at(self, value: Any, place: str, depth: int) -> Any:
        if isinstance(value, _SCALARS):
            return type(value).__name__, _short(repr(value))
        if isinstance(value, _Same):
            return value
        if id(value) in self._places:
            return "at", self._places[id(value)]
        self._left -= 1
        constant = isinstance(value, type | types.BuiltinFunctionType | types.ModuleType)
        if self._left < 0 or depth == 0 or constant:
            return _Same(value)
        if not isinstance(value, tuple):  # some of them are one constant of Python
            self._places[id(value)] = place
        if isinstance(value, Tensor):
            return _digest(value)
        parts = _parts(value)
        if parts is None:
            return _Same(value)
        self.keep(parts)
        return type(value), *self._each(value, parts, place, depth - 1)

    def keep(self, made: Any) -> None:
        """Keep an object that was made for a comparison, so that no other gets its address."""
        self._kept.append(made)

    def _each(self, value: Any, parts: Iterable[Any], place: str, depth: int) -> list[Any]:
        found = [self._at(each, f"{place}[{n}]", depth) for n, each in enumerate(parts)]
        if isinstance(value, set | frozenset):  # their order depends on addresses
            return [frozenset(found)]
        return found


def _short(text: str) -> str:
    return text if len(text) < 100 else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _digest(value: Tensor) -> Any:
    if value.is_meta or value.layout != torch.strided:
        return _Same(value)
    data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256(data.data).hexdigest()
    return tuple(value.shape), str(value.dtype), value.requires_grad, digest


def _parts(value: Any) -> list[Any] | None:
    """What a value holds, in a fixed order; None if that is not known."""
    if isinstance(value, types.FunctionType):
        cells = [_inside(cell) for cell in value.__closure__ or ()]
        own = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return [_Same(value.__code__), *cells, *own, *vars(value).items()]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if type(value) in (list, tuple, set, frozenset):
        return list(value)
    if isinstance(value, dict) and type(value).__module__ in ("builtins", "collections"):
        return [each for pair in value.items() for each in pair]
    try:  # as copy and pickle see it
        reduced = value.__reduce_ex__(4)
    except Exception:  # locks, files, generators, or the object's own refusal
        return None
    if not isinstance(reduced, tuple):
        return None
    made, arguments, state, items, pairs, *_ = (*reduced, None, None, None, None)[:6]
    return [made, arguments, state, list(items or ()), list(pairs or ())]


def _inside(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is filled later
        return None


# What torch itself keeps in every module; its parameters and buffers are compared as tensors, and
# hooks of its forward and backward passes like any other attribute.
_HOOKS = {f"_{when}_hooks" for when in ("forward_pre", "forward", "backward_pre", "backward")}
_OF_MODULES = ({*vars(nn.Module())} | {"_is_full_backward_hook"}) - _HOOKS
