"""docs/python.md: what `import sharpcli` gives, from signatures and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

import sharpcli

__all__ = ["python_page"]

HEAD = """# Python

What `import sharpcli` gives, from its docstrings. Written by `python docs/write_reference.py`. The
guide has [examples](guide.md#from-python)."""


def python_page() -> str:
    """The functions first, then the settings and other classes."""
    names = sorted(sharpcli.__all__, key=lambda name: (inspect.isclass(_of(name)), name))
    return "\n\n".join([HEAD, *(_section(name) for name in names)]) + "\n"


def _of(name: str) -> Any:
    return getattr(sharpcli, name)


def _section(name: str) -> str:
    value = _of(name)
    parts = [f"## {name}"]
    settings = name.endswith("Settings")
    if not settings:
        parts.append(f"```python\n{_call(name, value)}\n```")
    parts.append(f"```text\n{inspect.getdoc(value)}\n```")
    if settings:
        parts.append(_fields(value))
    return "\n\n".join(parts)


def _call(name: str, value: Any) -> str:
    """The call with its defaults, on one line if it fits."""
    given = []
    for parameter in inspect.signature(value).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in given:
            given.append("*")
        default = "" if parameter.default is parameter.empty else f"={_shown(parameter.default)}"
        given.append(f"{parameter.name}{default}")
    line = f"{name}({', '.join(given)})"
    return line if len(line) <= 80 else "\n".join([f"{name}(", *(f"    {g}," for g in given), ")"])


def _fields(value: Any) -> str:
    """A table of the fields of settings: names, defaults, meanings."""
    hints = typing.get_type_hints(value, include_extras=True)
    rows = ["| field | default | |", "|---|---|---|"]
    for field in dataclasses.fields(value):
        default = "" if field.default is dataclasses.MISSING else f"`{_shown(field.default)}`"
        notes = getattr(hints[field.name], "__metadata__", ())
        meaning = next((note for note in notes if isinstance(note, str)), "")
        rows.append(f"| `{field.name}` | {default} | {meaning} |")
    return "\n".join(rows)


def _shown(default: Any) -> str:
    """A default as written; `…` for one that has no short form."""
    if type(default).__name__.endswith("Settings"):
        return f"{type(default).__name__}()"
    plain = default is None or isinstance(default, bool | int | float | str | tuple)
    return repr(default) if plain else "…"
