"""Schedules that look at the loss: a plateau changes what comes next. Imports no torch.

Each has `at(step)` as a `Schedule` has, and `observe(loss, step)`, to be called after an epoch.
`state` is all that changes, so that a run that goes on elsewhere can set it again. `PLATEAUS` has
their names and parameters, as `POLICIES` has those of the policies that are formulas.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sharpcli.errors import UsageError
from sharpcli.training.policies import Parameter, Policy

if TYPE_CHECKING:
    from sharpcli.training.schedules import Schedule

__all__ = ["PLATEAUS", "ChangeLROnPlateau", "PlateauState", "ReduceLROnPlateau"]

_UPWARDS = 0.8  # of the steps: a plateau raises the rate before, and lowers it from then on


@dataclass
class PlateauState:
    """What has been observed: the best loss, or the latest ones, and what followed from them."""

    best: float = math.inf
    bad: int = 0
    cooling: int = 0
    reductions: int = 0
    chosen: int = 0
    losses: list[float] = field(default_factory=list)


@dataclass
class ReduceLROnPlateau:
    """A schedule times `factor` for each plateau: `patience` + 1 losses in a row without a better.

    A loss is better where it is below the best one by a share of `threshold`. For `cooldown` losses
    after a reduction none is counted. `torch.optim.lr_scheduler.ReduceLROnPlateau` gives the same,
    but for changes of less than its `eps`, which it does not make.
    """

    schedule: Schedule
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    min_lr: float = 0.0
    state: PlateauState = field(default_factory=PlateauState)

    def __post_init__(self) -> None:
        """Refuse a factor that does not reduce."""
        if not 0 <= self.factor < 1:
            raise UsageError(
                f"factor={self.factor:g} does not reduce a rate",
                "a factor is at least 0 and below 1",
            )

    def at(self, step: int) -> float:
        """The rate at `step`, as far as losses have been observed."""
        rate = self.schedule.at(step)
        return max(rate * self.factor**self.state.reductions, min(self.min_lr, rate))

    def observe(self, loss: float, _step: int = 0) -> None:
        """Take in one more loss; a loss that is not a number is no better one."""
        state = self.state
        if loss < state.best * (1 - self.threshold) or (loss < state.best == math.inf):
            state.best, state.bad = loss, 0
        else:
            state.bad += 1
        if state.cooling:
            state.cooling, state.bad = state.cooling - 1, 0
        if state.bad > self.patience:
            state.reductions, state.cooling, state.bad = state.reductions + 1, self.cooldown, 0


@dataclass
class ChangeLROnPlateau:
    """Schedules from the largest to the smallest, of which a plateau chooses the next.

    A plateau is where none of the last `window` losses is better than the one before it by
    `threshold` or more. In the first 80 % of `steps` it chooses the next larger schedule, then the
    next smaller one; after that it waits for `cooldown` losses. All schedules count from step 0.

    Source: LRBench's ChangeLROnPlateau.
    """

    schedules: Sequence[Schedule]
    steps: int
    start: int = 0
    threshold: float = 0.05
    window: int = 5
    cooldown: int = 5
    state: PlateauState = field(default_factory=PlateauState)

    def __post_init__(self) -> None:
        """Begin with the schedule `start`; refuses one that is not there."""
        if not 0 <= self.start < len(self.schedules):
            raise UsageError(
                f"start={self.start} is none of the {len(self.schedules)} schedules",
                "they count from 0",
            )
        if self.window < 2:
            raise UsageError(f"window={self.window} shows no plateau", "give at least 2 losses")
        if not self.state.losses:
            self.state.chosen = self.start

    def at(self, step: int) -> float:
        """The rate at `step`, as far as losses have been observed."""
        return self.schedules[self.state.chosen].at(step)

    def observe(self, loss: float, step: int) -> None:
        """Take in the loss after `step`; the choice holds from the next step on."""
        state = self.state
        state.losses = [*state.losses[-self.window :], loss]
        if state.cooling:
            state.cooling -= 1
        elif self._on_plateau():
            state.cooling = self.cooldown
            move = -1 if step < _UPWARDS * self.steps else 1
            state.chosen = min(max(state.chosen + move, 0), len(self.schedules) - 1)

    def _on_plateau(self) -> bool:
        latest = self.state.losses
        if len(latest) <= self.window:
            return False
        falls = [a - b for a, b in itertools.pairwise(latest[1:])]
        return max(falls) < self.threshold


def _of_losses(*_: Any) -> float:
    raise ValueError("its value depends on the losses of a training")


def _whole(x: float) -> bool:
    return x >= 0 and x == int(x)


def _reduce(
    schedule: Schedule,
    factor: float,
    patience: float,
    threshold: float,
    cooldown: float,
    min_lr: float,
) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(schedule, factor, int(patience), threshold, int(cooldown), min_lr)


def _change(
    schedules: Sequence[Schedule],
    steps: float,
    window: float,
    threshold: float,
    cooldown: float,
    start: float,
) -> ChangeLROnPlateau:
    return ChangeLROnPlateau(
        schedules, int(steps), int(start), threshold, int(window), int(cooldown)
    )


_ENTRIES = (
    Policy(
        "ReduceLROnPlateau",
        "schedule·factorⁿ, n the plateaus so far: patience + 1 epochs in a row whose mean loss is "
        "not below (1 − threshold) times the best one. `plateau` is its short name",
        (
            Parameter(
                "schedule", "a rate or a policy", lambda _: True, word="k0", is_schedule=True
            ),
            Parameter("factor", "at least 0 and below 1", lambda x: 0 <= x < 1, 0.1),
            Parameter("patience", "a whole number of epochs", _whole, 10),
            Parameter("threshold", "at least 0", lambda x: x >= 0, 1e-4),
            Parameter("cooldown", "a whole number of epochs", _whole, 0),
            Parameter("min_lr", "at least 0", lambda x: x >= 0, 0.0),
        ),
        _of_losses,
        rule=_reduce,
        also="plateau",
    ),
    Policy(
        "ChangeLROnPlateau",
        "one of the schedules, such as [0.1, 0.03, 0.01]. Where the mean loss of none of the last "
        "window epochs is threshold below the one before: the next larger one in the first 80 % of "
        "steps, then the next smaller one",
        (
            Parameter(
                "schedules",
                "a list of rates or policies, such as [0.1, 0.01]",
                lambda x: len(x) > 1,
                is_list=True,
                is_schedule=True,
            ),
            Parameter("steps", "above 0", lambda x: x > 0),
            Parameter(
                "window", "a whole number of epochs, at least 2", lambda x: _whole(x) and x > 1, 5
            ),
            Parameter("threshold", "at least 0", lambda x: x >= 0, 0.05),
            Parameter("cooldown", "a whole number of epochs", _whole, 5),
            Parameter("start", "the number of a schedule, from 0", _whole, 0),
        ),
        _of_losses,
        rule=_change,
    ),
)

PLATEAUS: Mapping[str, Policy] = {policy.name: policy for policy in _ENTRIES}
