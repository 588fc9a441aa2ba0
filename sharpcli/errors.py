"""Errors that tell the user what happened, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["SharpError", "UsageError", "counted", "did_you_mean"]


class SharpError(Exception):
    """An error that the user can act on; exit code 1.

    `message` says what happened and where (file, key, option); `hint` says what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class UsageError(SharpError):
    """The request cannot be carried out as given; exit code 2."""

    exit_code = 2


def counted(number: int | None, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 epoch`, `1,442 epochs`, `2 axes`; `?` for an unknown number."""
    shown = f"{number:,}" if isinstance(number, int) else "?"
    return f"{shown} {noun if number == 1 else plural or f'{noun}s'}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the list of known names if none is similar."""
    options = list(known)
    near = difflib.get_close_matches(name, options, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"there are: {', '.join(options)}" if options else "there are none"
