"""The time that a training takes, without what only looks at it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

__all__ = ["Clock"]


class Clock:
    """Seconds of training. It goes on where an earlier part of the training stopped.

    >>> now = iter([10.0, 12.0, 15.0, 16.0])
    >>> clock = Clock(lambda: next(now))
    >>> clock.start()
    >>> with clock.paused():
    ...     clock.seconds
    2.0
    >>> clock.seconds
    3.0
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._before = now, 0.0
        self._since: float | None = None

    def start(self, before: float = 0.0) -> None:
        """Begin, or go on after `before` seconds."""
        self._before, self._since = before, self._now()

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return self._before + (0.0 if self._since is None else self._now() - self._since)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While active, the clock stands still."""
        ran = self._since is not None
        self._before, self._since = self.seconds, None
        try:
            yield
        finally:
            if ran:
                self.start(self._before)
