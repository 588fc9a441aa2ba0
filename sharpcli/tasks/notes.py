"""Notes of a task: what it chose for the user, collected while its functions run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

__all__ = ["collected", "note"]

_collecting: ContextVar[list[str] | None] = ContextVar("_collecting", default=None)


def note(text: str) -> None:
    """Tell the user what a task chose; nothing happens where nobody collects notes."""
    notes = _collecting.get()
    if notes is not None and text not in notes:
        notes.append(text)


@contextlib.contextmanager
def collected(notes: list[str]) -> Iterator[None]:
    """While active, `note` adds to `notes`, each text once."""
    token = _collecting.set(notes)
    try:
        yield
    finally:
        _collecting.reset(token)
