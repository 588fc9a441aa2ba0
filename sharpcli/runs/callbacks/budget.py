"""How much time measuring may take beside a training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from sharpcli.errors import UsageError, setting

__all__ = ["Budget"]

# The part of the share that is planned with. The rest is for measurements that take longer than the
# last one did, and for what they cost outside: with all of it, 1,000 steps of a small GPT-2 took 6
# to 12 % longer at a share of 10 %.
_PLANNED = 0.9


class Budget:
    """Time for measurements: a share of the training's own time, and seconds in all.

    Nine tenths of the share are planned with. `setup` is the part of `spent` that is not taken
    again. Where it is known which part of the training is done, that part of it counts, so all of
    it at the end.

    Args:
        share: of the time that the training has taken without them; None: no limit.
        seconds: for the whole training; None: no limit.
        clock: seconds.
    """

    def __init__(
        self,
        share: float | None,
        seconds: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        for name, value in (("share", share), ("seconds", seconds)):
            if value is not None and not value > 0:
                raise UsageError(f"{setting(name, value)}: is out of range", "it is above 0")
        self.share, self.seconds = share, seconds
        self.spent = self.setup = 0.0
        self._clock, self._begun = clock, clock()

    @property
    def planned(self) -> float | None:
        """The part of the training's time that measurements may take, as far as is known."""
        return None if self.share is None else _PLANNED * self.share

    @property
    def training(self) -> float:
        """Seconds of the training so far, without the measurements."""
        return self._clock() - self._begun - self.spent

    def allows(self, expected: float, done: float = 1.0, *, setup: float = 0.0) -> bool:
        """Whether a measurement keeps both limits.

        Args:
            expected: its seconds.
            done: the part of the training that is over.
            setup: seconds to set up what it needs, once.
        """
        after = self.spent + setup + expected
        due = after - (self.setup + setup) * (1 - done)
        within = self.planned is None or due <= self.planned * self.training
        return within and (self.seconds is None or after <= self.seconds)

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time of a block."""
        started = self._clock()
        try:
            yield
        finally:
            self.spent += self._clock() - started
