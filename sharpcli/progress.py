"""What numerics say while they work: a callback that the command owns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["UNSAID", "Begin", "Notes", "Progress", "Say", "foretelling", "silent"]

# Seconds of work that are foretold to all, not only under --verbose.
_LONG = 120

Progress = Callable[[int, int | None], None]
"""Called with (units done, units in all or None where that is not known yet)."""

Begin = Callable[[str], Progress]
"""Called with what begins ("a.safetensors: hessian"); gives the callback for its progress."""


Say = Callable[[str], None]
"""Called with a line for a person."""


def _unsaid(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Notes:
    """Lines beside the results: a `note` that all should read, a `detail` for --verbose."""

    note: Say = _unsaid
    detail: Say = _unsaid

    def about(self, name: str) -> Notes:
        """The same, with what they are about before each line."""
        return Notes(
            lambda text: self.note(f"{name}: {text}"), lambda text: self.detail(f"{name}: {text}")
        )


UNSAID = Notes()


def silent(done: int, total: int | None) -> None:
    """Say nothing."""


def foretelling(progress: Progress, notes: Notes, beside: str) -> Progress:
    """The progress of products, that says after the first ones how long all may take.

    `beside` is said along. To all where it is long, else as a detail.
    """
    started = time.perf_counter()
    said = False

    def step(done: int, total: int | None) -> None:
        nonlocal said
        progress(done, total)
        if said or total is None or not done:
            return
        said = True
        seconds = (time.perf_counter() - started) / done * total
        say = notes.note if seconds >= _LONG else notes.detail
        say(f"about {max(1, round(seconds / 60))} min for {total} products, and {beside}")

    return step
