"""Values of TOML and JSON files as the annotations of settings have them."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

__all__ = ["typed"]


def typed(kind: Any, value: Any) -> Any:
    """A value of a TOML or JSON file as an annotation of a setting has it: lists become tuples.

    Raises:
        ValueError: The text says what is wanted: `a whole number`.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return typed(arguments[0], value)
    if origin in (Union, types.UnionType):
        wanted = []
        for each in (each for each in arguments if each is not type(None)):
            try:
                return typed(each, value)
            except ValueError as error:
                wanted.append(str(error))
        raise ValueError(" or ".join(wanted))
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError("one of " + ", ".join(map(str, arguments)))
    if origin is tuple:
        return _typed_items(arguments, value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {name: typed(arguments[1], each) for name, each in value.items()}
        raise ValueError("a table")
    if kind is Any:
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and (whole or (isinstance(value, float) and math.isfinite(value))):
        return float(value)
    if kind is int and whole:
        return value
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(_WANTED.get(kind, f"a {getattr(kind, '__name__', kind)}"))


_WANTED = {
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
}


def _typed_items(arguments: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """The items of a list, each as its own annotation has it."""
    if not isinstance(value, list | tuple):
        raise ValueError("a list")
    if arguments[-1:] == (...,):
        return tuple(typed(arguments[0], each) for each in value)
    if len(value) != len(arguments):
        raise ValueError(f"a list of {len(arguments)}")
    return tuple(typed(each, item) for each, item in zip(arguments, value, strict=True))
