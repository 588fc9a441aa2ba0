"""Every optimizer by its name: torch.optim's, sharp's own, and pytorch-optimizer's (an extra).

An optimizer's options are the arguments of its constructor; their types are read there too. Torch
is imported when a name is looked up, not before.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from sharpcli.errors import UsageError, nearest, setting
from sharpcli.tasks.arguments import as_text

__all__ = [
    "BASE",
    "IMPLEMENTATION",
    "Argument",
    "arguments_of",
    "class_of",
    "names",
    "options_text",
    "place_of",
    "read_options",
]

BASE = "base_optimizer"  # the argument of SAM and its kin that names what takes the steps
LIBRARY = "pytorch_optimizer"
OWN = ("sharpcli.training.sam", "sharpcli.training.smooth_adam", "sharpcli.training.proximal")
INSTALL = "pip install 'sharpcli[optimizers]'"

# Arguments that say how a step is computed, not which step it is.
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")
# Arguments that sharp passes itself, or that have no value that can be written down.
_OWN = ("self", "params", "optimizer", "model")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_NEEDED = inspect.Parameter.empty

# Optimizers that a training loop of one process and one backward pass a step cannot run.
REFUSED: Mapping[str, str] = {
    "SparseAdam": "it takes sparse gradients only, and a model's are dense",
    "LOMO": "it takes its steps inside of the backward pass",
    "AdaLOMO": "it takes its steps inside of the backward pass",
    "AdaHessian": "it needs the graph of the gradient at every step",
    "SophiaH": "it needs the graph of the gradient at every step",
    "DeMo": "it exchanges gradients between processes",
    "DistributedMuon": "it exchanges gradients between processes",
    "AdamMini": "it needs the model's own layout, with heads of attention by name",
    "GSAM": "it needs a schedule of its radius",
    "WSAM": "it changes the model's own mode between its steps",
    "Magma": "it wraps another optimizer that has to be built before",
    "Lookahead": "it wraps another optimizer that has to be built before",
    "OrthoGrad": "it wraps another optimizer that has to be built before",
    "TRAC": "it wraps another optimizer that has to be built before",
    "LoRARite": "it trains the factors of LoRA layers only",
    "PCGrad": "it needs several losses",
    "SaRA": "it trains only those weights that are next to zero",
    "ScheduleFreeWrapper": "it wraps another optimizer that has to be built before",
    "DynamicLossScaler": "it scales losses and takes no steps",
    "SafeFP16Optimizer": "it scales losses in float16, which is not trained in",
}


class Argument:
    """An argument of an optimizer's constructor: its name, its types and its default."""

    def __init__(self, name: str, kinds: tuple[Any, ...], default: Any) -> None:
        self.name, self.kinds, self.default = name, kinds, default

    @property
    def needed(self) -> bool:
        """Whether it has no default."""
        return self.default is _NEEDED

    def __str__(self) -> str:
        kinds = "|".join(_kind_name(kind) for kind in self.kinds)
        default = "" if self.needed else f" = {_written(self.default)}"
        return f"{self.name}: {kinds}{default}"

    def read(self, value: Any) -> Any:
        """A value from text or from Python, as one of the types; raises `ValueError`."""
        text = value if isinstance(value, str) else _written(value)
        for kind in sorted(self.kinds, key=_rank):
            try:
                return _read(kind, text)
            except ValueError:
                continue
        raise ValueError(text)


@functools.cache
def names() -> dict[str, str]:
    """Where each optimizer is, as `module:name`, by its name in lower case.

    A name that several libraries have is torch's, or sharp's own.
    """
    found: dict[str, str] = {}
    libraries = ["torch.optim", *OWN]
    if importlib.util.find_spec(LIBRARY) is not None:
        libraries.insert(0, LIBRARY)
    base = importlib.import_module("torch.optim").Optimizer
    for library in libraries:
        for name, value in vars(importlib.import_module(library)).items():
            is_one = isinstance(value, type) and issubclass(value, base) and value is not base
            if is_one and not name.startswith(("_", "Base")):
                found[name.lower()] = f"{library}:{name}"
    return dict(sorted(found.items()))


def place_of(name: str) -> str:
    """Where an optimizer is, `module:name`, by its name in any case.

    Raises:
        UsageError: for an unknown name, with the nearest one, and for an optimizer that a training
            cannot run.
    """
    place = names().get(name.lower())
    if place is None:
        near = nearest(name.lower(), names())
        known = ", ".join(each.partition(":")[2] for each in names().values())
        missing = importlib.util.find_spec(LIBRARY) is None
        more = f"; more, such as Lion and AdEMAMix, with {INSTALL}" if missing else ""
        raise UsageError(
            f"there is no optimizer '{name}'" + (f": {near}" if near else ""),
            f"there are: {known}{more}",
        )
    kind = place.partition(":")[2]
    if kind in REFUSED:
        raise UsageError(f"the optimizer {kind} cannot be used: {REFUSED[kind]}", "take another")
    return place


def class_of(name: str) -> type:
    """The class of an optimizer by its name in any case; raises as `place_of`."""
    module, _, kind = place_of(name).partition(":")
    found: type = getattr(importlib.import_module(module), kind)
    return found


@functools.cache
def arguments_of(kind: type) -> dict[str, Argument]:
    """The arguments of an optimizer's constructor that can be given, by name.

    `base_optimizer`, where there is one, is the name of the optimizer that takes the steps.
    """
    constructor: Callable[..., Any] = kind.__init__  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(constructor)
    except (NameError, TypeError):  # an annotation that only a type checker can read
        hints = {}
    found = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name in _OWN or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name == BASE:
            found[name] = Argument(name, (str,), "sgd")
            continue
        kinds = tuple(_kinds(hints.get(name)))
        if not kinds and parameter.default not in (None, _NEEDED):
            kinds = tuple(_kinds(type(parameter.default)))
        if kinds:
            found[name] = Argument(name, kinds, parameter.default)
    return found


def options_text(known: Mapping[str, Argument]) -> str:
    """The options of an optimizer in one line."""
    return "; ".join(str(each) for name, each in known.items() if name not in IMPLEMENTATION)


def read_options(
    optimizer: str, known: Mapping[str, Argument], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Options by their types; raises `UsageError` for one that is not `known` or mistyped."""
    read = {}
    for name, value in given.items():
        about = setting(f"optimizer_options.{name}", _written(value))
        if name not in known:
            near = nearest(name, known)
            raise UsageError(
                f"{about}: {optimizer} has no option '{name}'" + (f": {near}" if near else ""),
                f"its options: {options_text(known)}",
            )
        try:
            read[name] = known[name].read(value)
        except ValueError as error:
            raise UsageError(
                f"{about}: is not of its type", f"the option is {known[name]}"
            ) from error
    return read


def _kinds(annotation: Any) -> list[Any]:
    """The types that a value can be read as, of an annotation and the members of its union."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return [kind for each in typing.get_args(annotation) for kind in _kinds(each)]
    if annotation in (bool, int, float, str, types.NoneType) or origin is typing.Literal:
        return [annotation]
    if origin is tuple:
        members = [_kinds(each) for each in typing.get_args(annotation) if each is not ...]
        return [annotation] if all(members) else []
    return []


_ORDER = (types.NoneType, bool, int, float)


def _rank(kind: Any) -> int:
    """What text is tried as first: none, a truth value, a number, a tuple, and text last."""
    if kind in _ORDER:
        return _ORDER.index(kind)
    return len(_ORDER) + (kind is str)


def _read(kind: Any, text: str) -> Any:
    if kind is types.NoneType:
        return None if text.lower() == "none" else _refuse(text)
    if kind is bool:
        lowered = text.lower()
        return lowered in _TRUE if lowered in _TRUE + _FALSE else _refuse(text)
    if typing.get_origin(kind) is typing.Literal:
        matching = [value for value in typing.get_args(kind) if as_text(value) == text]
        return matching[0] if matching else _refuse(text)
    if typing.get_origin(kind) is tuple:
        members, parts = typing.get_args(kind), text.split(",")
        if members[-1] is ...:
            members = members[:1] * len(parts)
        if len(parts) != len(members):
            return _refuse(text)
        pairs = zip(members, parts, strict=True)
        return tuple(Argument("", tuple(_kinds(m)), None).read(part.strip()) for m, part in pairs)
    number = kind(text)
    return _refuse(text) if number != number else number


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _kind_name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(as_text(value) for value in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        members = typing.get_args(kind)
        return ",".join("…" if m is ... else "|".join(map(_kind_name, _kinds(m))) for m in members)
    return "none" if kind is types.NoneType else str(kind.__name__)


def _written(value: Any) -> str:
    """A value as it is given: `0.9,0.999`, `true`, `none`."""
    if isinstance(value, tuple | list):
        return ",".join(map(_written, value))
    return as_text(value)
