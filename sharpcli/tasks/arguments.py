"""A task's options: the keyword arguments of its functions, parsed from text."""

from __future__ import annotations

import inspect
import itertools
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sharpcli.errors import UsageError, did_you_mean, setting

__all__ = ["POSITIONAL", "Option", "as_text", "bind_options", "declared_options", "parse_value"]

# A task's functions, and the number of positional arguments that sharp passes to each.
POSITIONAL = {
    "model": 0,
    "data": 1,
    "predict": 2,
    "loss": 2,
    "metrics": 2,
    "collate": 1,
    "smoothed_loss": 3,
    "augment": 2,
}

_LONGEST = 80  # characters of an option that a message repeats
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
        """Whether the user has to give it."""
        return self.default is _REQUIRED

    @property
    def type_name(self) -> str:
        """Its type for a message: `int`, `mlp|cnn`, `float|none`."""
        return _type_name(self.kind)

    def __str__(self) -> str:
        return f"{self.name}: {self.type_name}" + (
            "" if self.required else f" = {as_text(self.default)}"
        )


def declared_options(functions: Mapping[str, Any]) -> tuple[Option, ...]:
    """The options of a task's functions (by name, as in `POSITIONAL`), each once."""
    known = _by_name(_options(f, POSITIONAL[name]) for name, f in _callable(functions))
    return tuple(known.values())


def bind_options(
    functions: Mapping[str, Any], given: Mapping[str, str], where: str
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Assign the given options to a task's functions.

    Each function gets the options that it names, parsed by its own annotations. Options that no
    function names go, as text, to every function that takes `**options`.

    Args:
        functions: the task's functions by name, as in `POSITIONAL`.
        given: options as text.
        where: the task's name in errors.

    Returns:
        The keyword arguments of each function, and all options with their values. If functions
        have different values for one name (their defaults differ, or a function with `**options`
        does not get it), the second mapping has the function's name in front: `data.seed`.

    Raises:
        UsageError: no function names an option, a required one is missing, a value is not of its
            type, or a decorator hides whether a function takes it.
    """
    named = {name: _options(function, POSITIONAL[name]) for name, function in _callable(functions)}
    open_ = [name for name, function in _callable(functions) if _open(function)]
    known = _by_name(named.values())
    for key in given:
        if key not in known and not open_:
            raise UsageError(
                f"{where}: has no option '{_shortened(key)}': {did_you_mean(key, known)}",
                f"its options: {'; '.join(map(str, known.values()))}"
                if known
                else "an option is a keyword argument of one of its functions, as in "
                "def model(width: int = 128)",
            )
        if key in known:
            _refuse_hidden(key, {name: functions[name] for name in open_}, where)
    bound: dict[str, dict[str, Any]] = {}
    values: dict[str, dict[str, Any]] = {}  # option → function → its value
    for name, options in named.items():
        bound[name] = {o.name: _read(o, given[o.name], where) for o in options if o.name in given}
        for option in options:
            if option.name not in given and option.required:
                raise UsageError(
                    f"{where}: needs the option '{option.name}' ({option})",
                    f"give it with {setting(f'options.{option.name}', '…')}",
                )
            value = bound[name].get(option.name, option.default)
            values.setdefault(option.name, {})[name] = _plain(value)
    for key, text in given.items():
        if key not in known:
            values[key] = dict.fromkeys(open_, text)
            for name in open_:
                bound[name][key] = text
    return bound, _resolved(values, dict.fromkeys(given, open_))


def _resolved(
    values: Mapping[str, Mapping[str, Any]], offered: Mapping[str, Iterable[str]]
) -> dict[str, Any]:
    """Each option's value; by function if values differ or not all functions `offered` have it."""
    resolved: dict[str, Any] = {}
    for key, by_function in values.items():
        first, *others = by_function.values()
        missed = any(name not in by_function for name in offered.get(key, ()))
        if missed or any(other != first for other in others):
            resolved |= {f"{name}.{key}": value for name, value in by_function.items()}
        else:
            resolved[key] = first
    return resolved


def _callable(functions: Mapping[str, Any]) -> list[tuple[str, Callable[..., Any]]]:
    """The functions that the task defines, in the order of `POSITIONAL`."""
    return [(name, functions[name]) for name in POSITIONAL if callable(functions.get(name))]


def _by_name(functions: Iterable[Iterable[Option]]) -> dict[str, Option]:
    """Each option once; among several of one name the first, so the model's before others'."""
    found: dict[str, Option] = {}
    for option in itertools.chain(*functions):
        found.setdefault(option.name, option)
    return found


def _refuse_hidden(option: str, open_: Mapping[str, Callable[..., Any]], where: str) -> None:
    """Raise `UsageError` if `(*args, **kwargs)` may hide that a function takes the option."""
    for name, function in open_.items():
        kinds = {parameter.kind for parameter in _signature(function).parameters.values()}
        if kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            raise UsageError(
                f"{where}: cannot tell whether `{name}` takes the option '{option}': its "
                "arguments are (*args, **kwargs)",
                f"put @functools.wraps(function) on what wraps `{name}`, or name its arguments",
            )


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
        return inspect.signature(_called(function))
    except ValueError:  # a builtin without a signature takes no options
        return inspect.Signature()


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a call reaches: for an `nn.Module`, its `forward`."""
    forward = getattr(function, "forward", None)
    return forward if callable(forward) and not isinstance(function, type) else function


def _globals(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The names that annotations in quotes can refer to."""
    inner: Any = _called(function)
    while True:
        unwrapped = inspect.unwrap(inner)
        unwrapped = getattr(unwrapped, "func", unwrapped)  # of a functools.partial
        if unwrapped is inner:
            break
        inner = unwrapped
    if isinstance(inner, type):
        inner = inner.__init__  # type: ignore[misc]  # a class has its signature
    elif not hasattr(inner, "__globals__"):
        inner = type(inner).__call__
    return getattr(inner, "__globals__", {})


def _kind(parameter: inspect.Parameter, function: Callable[..., Any]) -> Any:
    """The parameter's annotation; if it has none that can be resolved, its default's type."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        names = dict(_globals(function))
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
    """An option's value as text, as a user gives it."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _plain(value: Any) -> Any:
    """A value for a document: a plain value as it is, others as text without addresses."""
    if value is None or isinstance(value, _SCALARS):
        return value
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))


def _read(option: Option, text: str, where: str) -> Any:
    try:
        return parse_value(option.kind, text)
    except ValueError as error:
        raise UsageError(
            f"{where}: {setting(f'options.{option.name}', _shortened(text))}: is not "
            f"{option.type_name}",
            f"the option is {option}",
        ) from error


def _shortened(text: str) -> str:
    """`text` shortened for a message: options from a checkpoint may have any length."""
    return f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text


def parse_value(kind: Any, text: str) -> Any:
    """Parse `text` as a value of the type `kind`; raises `ValueError` if it is not one."""
    if _is_union(kind):
        # None first, so that `none` is not read as a string
        for member in sorted(typing.get_args(kind), key=lambda m: m is not types.NoneType):
            try:
                return parse_value(member, text)
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
