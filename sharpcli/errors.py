"""What can go wrong, and how a message names settings: in Python's words, or as options."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

__all__ = [
    "SharpError",
    "UsageError",
    "counted",
    "did_you_mean",
    "nearest",
    "setting",
    "settings_written_by",
]


class SharpError(Exception):
    """A failure a person can act on.

    `message` says what happened and where (file, key, option); `hint` says what to do next.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class UsageError(SharpError):
    """The request itself cannot be carried out as it stands."""


def setting(name: str, value: Any = ...) -> str:
    """A setting as whoever reads the message writes it: `dtype="float64"`, or an option.

    Args:
        name: A setting's name, with that of its group where it needs one: `path.lr`. An option of
            the task is `options.NAME`.
        value: What it is set to; left out where only the name is meant. A list holds the values of
            a setting that takes several.
    """
    return _write.get()(name, value)


@contextlib.contextmanager
def settings_written_by(write: Callable[[str, Any], str]) -> Iterator[None]:
    """While active, `setting` gives what `write` makes of a name and a value (`...`: none)."""
    token = _write.set(write)
    try:
        yield
    finally:
        _write.reset(token)


def _in_python(name: str, value: Any) -> str:
    if value is ...:
        return name
    return f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}"


_write: ContextVar[Callable[[str, Any], str]] = ContextVar("_write", default=_in_python)


def counted(number: int | None, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 epoch`, `1,442 epochs`, `2 axes`; `?` for an unknown number."""
    shown = f"{number:,}" if isinstance(number, int) else "?"
    return f"{shown} {noun if number == 1 else plural or f'{noun}s'}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """`did you mean 'x'?`, None where nothing is near."""
    import difflib  # slow to import, and only errors need it

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the list of known names if none is similar."""
    options = list(known)
    if near := nearest(name, options):
        return near
    return f"there are: {', '.join(options)}" if options else "there are none"
