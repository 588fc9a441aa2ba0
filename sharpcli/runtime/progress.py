"""What numerics say while they work: a callback that the command owns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sharpcli.errors import counted

__all__ = ["UNSAID", "Begin", "Notes", "Progress", "Say", "foretelling", "readable_time", "silent"]

# Seconds of work that are foretold to all, not only to those who ask for details.
_LONG = 120
# Work that turns out to be more than this many times what was foretold is foretold again.
_LONGER = 1.5
# When this part of the work is done, or two or four times as much, it shows whether its steps take
# longer and longer.
_GROWING = 8

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
    """Lines beside the results: a `note` that all should read, a `detail` on request."""

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
    second, and again where there are many more than told, or where, once an eighth, a quarter or
    half is done, each is seen to take longer than the one before. `beside` is said along. To all
    where it is long, else as a detail.
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
    """Seconds until `total` units are done, from the times at which others were.

    Each may take longer than the one before it, in proportion to how many are done: so it is with
    vectors that are made orthogonal to all that came before.
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
    """Seconds as a person says them: 12 s, 4 min, 2.5 h, 40 days."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {name}"
    days = seconds / 86400
    if days < 1000:
        return f"{days:.2g} days" if days < 100 else f"{days:.0f} days"
    return f"{days / 365.25:,.0f} years"
