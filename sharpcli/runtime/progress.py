"""Callbacks through which long computations report progress, notes and time estimates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sharpcli.errors import counted

__all__ = [
    "UNSAID",
    "Begin",
    "BeginBar",
    "Latest",
    "Notes",
    "Progress",
    "Say",
    "foretelling",
    "readable_time",
    "silent",
]

# Seconds of work that are foretold to all, not only to those who ask for details.
_LONG = 120
# A new estimate is shown if the work grows to more than this many times the last one.
_LONGER = 1.5
# After 1/8, 1/4 and 1/2 of the work, check whether the steps are getting slower.
_GROWING = 8

Progress = Callable[[int, int | None], None]
"""Called with (units done, total units or None if not yet known)."""

Begin = Callable[[str], Progress]
"""Called with what begins ("a.safetensors: hessian"); returns the callback for its progress."""


class Latest:
    """The latest numbers of long work, such as its loss, for whoever shows its progress.

    The work sets `text`, which is called only when something is shown, perhaps in another thread.
    """

    def __init__(self) -> None:
        self.text: Callable[[], str] = str


class BeginBar(Protocol):
    """A `Begin` whose bar also shows `latest`."""

    def __call__(self, description: str, /, latest: Latest | None = None) -> Progress:
        """Begin."""


Say = Callable[[str], None]
"""Called with a line for the user."""


def _unsaid(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Notes:
    """Lines beside the results: a `note` that all should read, a `detail` on request."""

    note: Say = _unsaid
    detail: Say = _unsaid

    def about(self, name: str) -> Notes:
        """The same, with `name` in front of each line."""
        return Notes(
            lambda text: self.note(f"{name}: {text}"), lambda text: self.detail(f"{name}: {text}")
        )


UNSAID = Notes()


def silent(done: int, total: int | None) -> None:
    """Say nothing."""


def foretelling(progress: Progress, notes: Notes, beside: str) -> Progress:
    """Wrap `progress` so that it also reports early how long all products may take.

    The first product also builds the graphs, so the time estimate starts with the second. A new
    estimate follows if many more products are needed than announced, or if, after an eighth, a
    quarter or half of them, each takes longer than the one before. `beside` is added to the line.
    A long estimate is a note, a short one a detail.
    """
    times: list[tuple[int, float]] = []
    told, foretold, share = 0, 0.0, 1 / _GROWING

    def step(done: int, total: int | None) -> None:
        nonlocal told, foretold, share
        progress(done, total)
        if total is None or not done or done == (times[-1][0] if times else 0):
            return
        times.append((done, time.perf_counter()))
        if len(times) < 2 or done >= total:
            return
        more = total > _LONGER * told
        if not more and done < share * total:
            return
        while done >= share * total:
            share *= 2
        seconds = _remaining(times, total)
        whole = seconds + times[-1][1] - times[0][1]
        if more or whole > _LONGER * foretold:
            told, foretold = total, whole
            say = notes.note if seconds >= _LONG else notes.detail
            about = f"{counted(total, 'product')} in all, {beside}"
            say(f"about {readable_time(seconds)} more: {about}")

    return step


def _remaining(times: list[tuple[int, float]], total: int) -> float:
    """Seconds until `total` units are done, extrapolated from the (count, time) pairs in `times`.

    The time per unit may grow linearly with the number done, as it does when each new vector is
    made orthogonal to all earlier ones.
    """
    (start, begun), (done, now) = times[0], times[-1]
    half, then = min(times, key=lambda each: abs(each[0] - (start + done) / 2))
    pace = (now - begun) / max(done - start, 1)
    growth = 0.0
    if start < half < done:
        early, late = (then - begun) / (half - start), (now - then) / (done - half)
        growth = max(0.0, 2 * (late - early) / (done - start))
    now_at = pace + growth * (done - start) / 2
    return (total - done) * (now_at + growth * (total - done) / 2)


def readable_time(seconds: float) -> str:
    """Seconds in readable form: 12 s, 4 min, 2.5 h, 40 days."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {name}"
    days = seconds / 86400
    if days < 1000:
        return f"{days:.2g} days" if days < 100 else f"{days:.0f} days"
    return f"{days / 365.25:,.0f} years"
