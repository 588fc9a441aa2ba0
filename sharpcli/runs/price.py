"""How long a measurement will take, and how much of a given time each checkpoint gets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from sharpcli.errors import counted, setting
from sharpcli.measures import Measure
from sharpcli.measures.context import Context
from sharpcli.runtime.progress import Notes, readable_time

__all__ = ["Foreteller", "TimeShares", "gradients_of", "samples_for"]

# Seconds of a run that are foretold.
_LONG = 60.0
# A gradient takes about as long as this many forward passes: the backward pass makes two products
# for each one of the forward pass.
_FORWARD_PASSES = 3.0
# The relative sampling error of λ1 on one example: its standard deviation on 512 of 4,000 MNIST
# images is about .14 for minima of Adam, and it decreases with the root of the number of examples.
_OF_ONE = 3.2
# The error for which a sample is proposed.
_PROPOSED = 0.05
# Cost of a measure that does not say its own, in gradients.
_UNKNOWN = 1.0

Clock = Callable[[], float]


def gradients_of(context: Context, measures: Sequence[Measure]) -> float:
    """About how many gradients over the data the measures take together."""
    settings, size = context.settings, context.objective.size
    return sum(
        _UNKNOWN if measure.gradients is None else measure.gradients(settings, size)
        for measure in measures
    )


def samples_for(share: float, total: int) -> int:
    """About how many of `total` examples give a relative sampling error of `share`.

    It is a power of two, or `total` if only all of them do.
    """
    alone = (_OF_ONE / share) ** 2
    count = 1 << math.ceil(math.log2(alone / (1 + alone / total)))
    return min(count, total)


class Foreteller:
    """Notes, before the first checkpoint's measures, how long a run of several will take."""

    def __init__(self, checkpoints: int, notes: Notes, clock: Clock = time.perf_counter) -> None:
        self._checkpoints, self._notes, self._clock = checkpoints, notes, clock
        self._said = False

    def __call__(self, context: Context, measures: Sequence[Measure]) -> None:
        """Note it if the run takes over a minute.

        Cost: none if the loss is measured, which keeps its forward pass; otherwise that pass.
        """
        if self._said:
            return
        self._said = True
        context.synchronize()
        started = self._clock()
        evaluations = context.evaluations
        context.synchronize()
        seconds = self._clock() - started
        rows = context.objective.rows
        seen = sum(context.splits[name].rows.count for name in evaluations)
        forward = seconds * rows.count / max(seen, 1)
        each = _FORWARD_PASSES * forward * gradients_of(context, measures)
        line = self._line(each, rows.count, sampled=rows.sampled)
        if line:
            self._notes.note(line)

    def _line(self, each: float, count: int, *, sampled: bool) -> str | None:
        whole = each * self._checkpoints
        if whole < _LONG:
            return None
        line = f"about {readable_time(whole)}"
        if self._checkpoints > 1:
            line += f" for {counted(self._checkpoints, 'checkpoint')} ({readable_time(each)} each)"
        fewer = count if sampled else samples_for(_PROPOSED, count)
        if fewer < count:
            less = readable_time(whole * fewer / count)
            line += (
                f"; {setting('samples', fewer)} gives about {100 * _PROPOSED:g} % sampling error "
                f"in {less}"
            )
        return line


class TimeShares:
    """Divides a run's seconds evenly over its checkpoints; what one leaves, the next ones get."""

    def __init__(self, seconds: float, checkpoints: int, clock: Clock = time.monotonic) -> None:
        self._end, self._left, self.clock = clock() + seconds, checkpoints, clock

    def end_of_next(self) -> float:
        """When the next checkpoint's time ends, by the clock."""
        now = self.clock()
        share = max(0.0, self._end - now) / max(self._left, 1)
        self._left -= 1
        return now + share
