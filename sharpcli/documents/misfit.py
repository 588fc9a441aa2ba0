"""A problem of a saved result, and how its place is written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sharpcli.runtime.text import visible

__all__ = ["Misfit", "shortened"]

_LONGEST = 40  # characters of a text that a message quotes


@dataclass
class Misfit:
    """A problem and its place, as keys and indices from the innermost outwards."""

    message: str
    inside: list[str | int] = field(default_factory=list)
    of_type: str | None = None

    def at(self, key: str | int) -> Misfit:
        """The same problem, seen from one level further out."""
        self.inside.append(key)
        return self

    def __str__(self) -> str:
        where = "".join(map(_step, reversed(self.inside))).removeprefix(".")
        return f"{where or 'the document'}: {self.message}"


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    if re.fullmatch(r"\w+", key):
        return f".{shortened(key)}"
    return f'["{shortened(key)}"]'


def shortened(text: str) -> str:
    """A text as a message quotes it."""
    return visible(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")
