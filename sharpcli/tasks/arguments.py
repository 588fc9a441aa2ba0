"""The options of a task: the keyword arguments of its `model` and `data`, read from text."""

from __future__ import annotations

import inspect
import itertools
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError, did_you_mean

__all__ = ["Option", "as_text", "bind_options", "declared_options"]

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One option: its name, its type (an annotation) and its default."""

    name: str
    kind: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether it has to be given."""
        return self.default is _REQUIRED

    @property
    def type_name(self) -> str:
        """Its type as a person reads it: `int`, `mlp|cnn`, `float|none`."""
        return _type_name(self.kind)

    def __str__(self) -> str:
        return f"{self.name}: {self.type_name}" + (
            "" if self.required else f" = {as_text(self.default)}"
        )


def declared_options(model: Callable[..., Any], data: Callable[..., Any]) -> tuple[Option, ...]:
    """The options that a task's `model` and `data` name, each once, in order."""
    return tuple(_by_name(_options(model, skip=0), _options(data, skip=1)).values())


def bind_options(
    model: Callable[..., Any], data: Callable[..., Any], given: Mapping[str, str], where: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What to pass to `model`, what to pass to `data`, and all options with their defaults.

    Each function gets those options it names (all that no function names go to one that takes
    `**options`). Raises `UsageError` for one that none names, for a value that is not of its
    type, and for one that is needed and was not given; `where` is what the errors call the task.
    """
    per_function = [(_options(model, 0), _open(model)), (_options(data, 1), _open(data))]
    known = _by_name(*(options for options, _ in per_function))
    if not any(takes_any for _, takes_any in per_function):
        for name in given:
            if name not in known:
                raise UsageError(
                    f"{where}: has no option '{name}': {did_you_mean(name, known)}",
                    f"its options: {'; '.join(map(str, known.values())) or 'none'}",
                )
    for option in known.values():
        if option.required and option.name not in given:
            raise UsageError(
                f"{where}: needs the option '{option.name}' ({option})",
                f"give it with -O {option.name}=…",
            )
    bound = []
    for options, takes_any in per_function:
        named = {o.name: _read(o, given[o.name], where) for o in options if o.name in given}
        rest = {name: text for name, text in given.items() if name not in known}
        bound.append({**named, **(rest if takes_any else {})})
    resolved = {o.name: _plain(o.default) for o in known.values() if not o.required}
    for arguments in reversed(bound):
        resolved.update(arguments)
    return bound[0], bound[1], resolved


def _by_name(*options: Iterable[Option]) -> dict[str, Option]:
    """Each option once; of two with one name the first, which is the model's."""
    found: dict[str, Option] = {}
    for option in itertools.chain(*options):
        found.setdefault(option.name, option)
    return found


def _options(function: Callable[..., Any], skip: int) -> list[Option]:
    """The keyword arguments of `function` after its first `skip` positional ones."""
    options = []
    for index, parameter in enumerate(_signature(function).parameters.values()):
        by_keyword = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if by_keyword and (index >= skip or parameter.kind is parameter.KEYWORD_ONLY):
            options.append(Option(parameter.name, _kind(parameter, function), parameter.default))
    return options


def _open(function: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in _signature(function).parameters.values())


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError:  # a builtin without a signature takes no options
        return inspect.Signature()


def _kind(parameter: inspect.Parameter, function: Callable[..., Any]) -> Any:
    """Its annotation; without one (or with one that cannot be resolved) its default's type."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        names = getattr(inspect.unwrap(function), "__globals__", {})
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            annotation = typing.get_type_hints(holder, globalns=names, localns={})["it"]
        except (NameError, AttributeError, SyntaxError, TypeError):
            annotation = _REQUIRED
    if annotation is not _REQUIRED and _supported(annotation):
        return annotation
    default = type(parameter.default)
    return default if parameter.default is not _REQUIRED and default in _SCALARS else str


_SCALARS = (bool, int, float, str)


def _supported(kind: Any) -> bool:
    if kind in _SCALARS or kind is types.NoneType or typing.get_origin(kind) is typing.Literal:
        return True
    return _is_union(kind) and all(_supported(member) for member in typing.get_args(kind))


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _type_name(kind: Any) -> str:
    if _is_union(kind):
        return "|".join(_type_name(member) for member in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(as_text(value) for value in typing.get_args(kind))
    return "none" if kind is types.NoneType else str(kind.__name__)


def as_text(value: Any) -> str:
    """An option's value as it is given with -O."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, _SCALARS) else str(value)


def _read(option: Option, text: str, where: str) -> Any:
    try:
        return _parse(option.kind, text)
    except ValueError as error:
        raise UsageError(
            f"{where}: -O {option.name}={text}: is not {option.type_name}",
            f"the option is {option}",
        ) from error


def _parse(kind: Any, text: str) -> Any:
    """`text` as a value of the type `kind`; raises `ValueError` where it is none."""
    if _is_union(kind):
        # None first, so that `none` is not taken for a string
        for member in sorted(typing.get_args(kind), key=lambda m: m is not types.NoneType):
            try:
                return _parse(member, text)
            except ValueError:
                continue
        raise ValueError(text)
    if typing.get_origin(kind) is typing.Literal:
        for value in typing.get_args(kind):
            if as_text(value) == text:
                return value
        return _refuse(text)
    if kind is types.NoneType:
        return None if text.lower() == "none" else _refuse(text)
    if kind is bool:
        lowered = text.lower()
        return lowered in _TRUE if lowered in _TRUE | _FALSE else _refuse(text)
    return kind(text)


def _refuse(text: str) -> Any:
    raise ValueError(text)
