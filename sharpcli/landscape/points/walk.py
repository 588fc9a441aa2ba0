"""Evaluate every point of a line, a plane or a path once, and store it at once."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sharpcli.errors import UsageError, counted, setting
from sharpcli.landscape.points.evaluator import Anchors, Point, Surface, Values, WeightsOf
from sharpcli.landscape.points.journal import Journal
from sharpcli.objective.means import Mean
from sharpcli.runtime import interruption
from sharpcli.runtime.memory import available_memory, readable_size
from sharpcli.runtime.processes import share
from sharpcli.runtime.progress import Begin, readable_time, silent

__all__ = ["Walk", "Watch"]

# Memory per point for the grid and its document, and space in the file; measured on two splits with
# loss and accuracy.
_BYTES_A_POINT = 2000
_FILE_BYTES_A_POINT = 200
# Seconds before the remaining time is estimated (the first points are slower), and the shortest
# remaining time that is worth a message.
_PATIENCE, _LONG = 1.0, 10.0


@dataclass(frozen=True)
class Watch:
    """Receives a run's progress, messages and finished points."""

    begin: Begin = lambda _: silent
    say: Callable[[str], None] = lambda _: None
    journal: Journal | None = None


@dataclass
class Walk:
    """Evaluates points in order, after those of an earlier run; Ctrl-C keeps finished points.

    `interrupted` says after how many points a part was interrupted; None if all are finished.
    """

    surface: Surface
    watch: Watch
    interrupted: str | None = None

    def values(
        self, part: str, anchors: Anchors, points: Sequence[Point], weights: WeightsOf
    ) -> list[Values | None]:
        """The values of all points; None for points that were not reached before Ctrl-C.

        `part` names these points in the journal. A `SharpError` says that the journal cannot be
        written; finished points are kept.

        Cost: that of `Surface.at` for each point.
        """
        found: list[Values | None] = [None] * len(points)
        if self.interrupted:
            return found
        finished = share(self.watch.journal.finished(part) if self.watch.journal else {})
        for first, group in finished.items():
            found[first : first + len(group)] = [_decoded(values) for values in group]
        self._choose_together(anchors, points, weights)
        before = done = sum(values is not None for values in found)
        if 0 < done < len(points):
            self.watch.say(
                f"{done} of {counted(len(points), 'point')} were finished by a former run"
            )
        progress = self.watch.begin(f"{part}: points")
        progress(done, len(points))
        started, said = time.monotonic(), False
        try:
            for first, group in self.surface.each(anchors, points, weights, finished):
                with interruption.deferred():  # in the result, on disk and counted, or in none
                    found[first : first + len(group)] = group
                    if self.watch.journal:
                        self.watch.journal.add(part, first, [_encoded(values) for values in group])
                    done += len(group)
                progress(done, len(points))
                spent, new = time.monotonic() - started, done - before
                left = spent * (len(points) - done) / new
                if not said and spent > _PATIENCE:
                    said = True
                    if left > _LONG:
                        self._say_how_long(len(points) - done, left)
        except KeyboardInterrupt:
            self.interrupted = (
                f"interrupted after {done} of {counted(len(points), 'point')} of the {part}"
            )
        return found

    def _say_how_long(self, points: int, seconds: float) -> None:
        kept = self.watch.journal.path if self.watch.journal else None
        where = f"; finished ones are kept in {kept}" if kept else ""
        self.watch.say(f"{points} more points: about {readable_time(seconds)}{where}")

    def check_size(self, shape: Sequence[int], anchors: Anchors, weights: WeightsOf) -> None:
        """Check that a grid fits in memory and on disk.

        Raises:
            UsageError: it does not; the message gives its size and the time it would take.

        Cost: nothing, or one point if it does not fit.
        """
        count = math.prod(shape)
        memory, file = count * _BYTES_A_POINT, count * _FILE_BYTES_A_POINT
        free = available_memory(torch.device("cpu"))
        journal = self.watch.journal
        room = shutil.disk_usage(journal.folder).free if journal else file
        if memory <= free / 2 and file <= room:
            return
        started = time.monotonic()
        self.surface.at(anchors, weights((0.0,) * len(shape)))
        seconds = (time.monotonic() - started) * count
        size = "×".join(map(str, shape))
        enough = "25 draw a line, 101" if len(shape) == 1 else "25x25 draws a surface, 101x101"
        raise UsageError(
            f"{setting('points', size)}: {counted(count, 'point')} take about "
            f"{readable_time(seconds)}, {readable_size(memory)} of memory ({readable_size(free)} "
            f"are free) and {readable_size(file)} on disk ({readable_size(room)} are free)",
            f"ask for fewer: {enough} a fine one",
        )

    def _choose_together(
        self, anchors: Anchors, points: Sequence[Point], weights: WeightsOf
    ) -> None:
        """Use the `together` of an earlier run, since it decides how sums are rounded."""
        if not self.watch.journal:
            return
        kept = share(self.watch.journal.finished("together"))
        if kept:
            self.surface.together = int(kept[0])
        elif self.surface.together is None:
            self.surface.together = self.surface.choose_together(anchors, points, weights)
            self.watch.journal.add("together", 0, self.surface.together)


def _encoded(values: Values) -> dict[str, Any]:
    return {
        split: {
            name: [mean.value, mean.sampling_error, mean.carriers] for name, mean in means.items()
        }
        for split, means in values.items()
    }


def _decoded(values: dict[str, Any]) -> Values:
    return {
        split: {name: Mean(*parts) for name, parts in means.items()}
        for split, means in values.items()
    }
