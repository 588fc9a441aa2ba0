"""Where a run is among its checkpoints: `run-37, 38 of 200, 4 min left`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sharpcli.documents.labels import short_labels
from sharpcli.runtime.progress import Begin, Progress, readable_time

__all__ = ["Course"]


class Course:
    """Counts checkpoints and extrapolates how long the rest will take.

    The first one also reads the data, so the time left is known after the second. It is the mean of
    those that were measured; those that an earlier run has finished do not count.

    Args:
        paths: The checkpoints, in the order in which they are measured; none if not known before.
        clock: Gives seconds.
    """

    def __init__(
        self, paths: Sequence[str | Path], clock: Callable[[], float] = time.monotonic
    ) -> None:
        names = [str(path) for path in paths]
        self._labels = short_labels(names) if len(names) > 1 else []
        self._name = ""
        self._clock = clock
        self._now = -1
        self._started = 0.0
        self._seconds: list[float] = []

    def next(self, path: Path) -> None:
        """Begin the next checkpoint."""
        self._now += 1
        self._name = path.name
        self._started = self._clock()

    def measured(self) -> None:
        """The checkpoint is measured."""
        self._seconds.append(self._clock() - self._started)

    def title(self) -> str:
        """The checkpoint's label, its number, and the time left."""
        count = len(self._labels)
        if not count:
            return self._name
        left = ""
        if others := self._seconds[1:]:
            each = sum(others) / len(others)
            spent = min(self._clock() - self._started, each)
            left = f", {readable_time(each * (count - self._now) - spent)} left"
        return f"{self._labels[self._now]}, {self._now + 1} of {count}{left}"

    def titled(self, begin: Begin) -> Begin:
        """A `begin` whose titles start with the checkpoint's."""

        def with_title(name: str) -> Progress:
            return begin(f"{self.title()}: {name}")

        return with_title
