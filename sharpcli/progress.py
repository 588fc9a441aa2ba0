"""What numerics say while they work: a callback that the command owns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .errors import counted

__all__ = ["UNSAID", "Begin", "Notes", "Progress", "Say", "foretelling", "readable_time", "silent"]

# Seconds of work that are foretold to all, not only under --verbose.
_LONG = 120
# Work that turns out to be more than this many times what was foretold is foretold again.
_LONGER = 1.5

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
    """The progress of products, that says early how long all may take.

    The first ones set up what the others use, so their pace is not theirs: it is told after the
    second, and again where there are many more than told. `beside` is said along. To all where it
    is long, else as a detail.
    """
    first: tuple[int, float] | None = None
    told = 0

    def step(done: int, total: int | None) -> None:
        nonlocal first, told
        progress(done, total)
        now = time.perf_counter()
        if total is None or not done or (told and total <= _LONGER * told):
            return
        if first is None:
            first = done, now
            return
        told = total
        seconds = (now - first[1]) / max(done - first[0], 1) * (total - done)
        say = notes.note if seconds >= _LONG else notes.detail
        say(f"about {readable_time(seconds)} more: {counted(total, 'product')} in all, {beside}")

    return step


def readable_time(seconds: float) -> str:
    """Seconds as a person says them: 12 s, 4 min, 2.5 h, 40 days."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {name}"
    days = seconds / 86400
    if days < 1000:
        return f"{days:.2g} days" if days < 100 else f"{days:.0f} days"
    return f"{days / 365.25:,.0f} years"
