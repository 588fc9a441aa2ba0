"""What can go wrong, said to a person: what happened, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["SharpError", "UsageError", "counted", "did_you_mean"]


class SharpError(Exception):
    """A failure a person can act on; exit code 1.

    `message` says what happened and where (file, key, option), `hint` what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class UsageError(SharpError):
    """The request itself cannot be carried out as it stands; exit code 2."""

    exit_code = 2


def counted(number: int | None, noun: str, plural: str | None = None) -> str:
    """`1 epoch`, `1,442 epochs`, `2 axes`: a number with its noun, `?` where it is not known."""
    shown = f"{number:,}" if isinstance(number, int) else "?"
    return f"{shown} {noun if number == 1 else plural or f'{noun}s'}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the list of what there is where nothing is near."""
    options = list(known)
    near = difflib.get_close_matches(name, options, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"there are: {', '.join(options)}" if options else "there are none"
