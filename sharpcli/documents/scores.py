"""The scores of a group of runs: utility, cost, robustness, and its curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from sharpcli.documents.fields import absent
from sharpcli.settings.fields import Keywords

__all__ = [
    "Band",
    "Cost",
    "Costs",
    "Over",
    "OverRates",
    "OverSeeds",
    "RunCounts",
    "ScoreSettings",
    "Scores",
    "Utility",
]

_COUNT = Keywords(minimum=0)
Over = Literal["steps", "epochs", "seconds"]
Pair = tuple[float | None, float | None]


@dataclass(frozen=True)
class ScoreSettings:
    """What is scored."""

    metric: Annotated[str, "`loss`, or a metric of the task."]
    split: Annotated[Literal["train", "test"], "The data that it is of."]
    lower_is_better: Annotated[bool, "As for the loss."]
    target: Annotated[float | None, "The value whose cost is asked for; null if there is none."]
    target_given: Annotated[bool, "false: the level that every group's median run reaches."]
    over: Annotated[Over, "What curves are drawn over."]


@dataclass(frozen=True)
class RunCounts:
    """How many runs a group has, and how they ended."""

    all: Annotated[int, "Of the group.", _COUNT]
    trained: Annotated[int, "To the end, with a finite value.", _COUNT]
    diverged: Annotated[int, "The loss, or the value at the end, is not finite.", _COUNT]
    failed: Annotated[int, "For another reason.", _COUNT]
    waiting: Annotated[int, "Not trained yet: left out of all numbers.", _COUNT]
    unknown: Annotated[int, "Trained, but without the metric: left out too.", _COUNT]


@dataclass(frozen=True)
class Utility:
    """A metric over the trained runs of a group."""

    mean: Annotated[float | None, "Null where no run is trained."]
    interval: Annotated[Pair | None, "Student's 95 % interval of the mean; null for one run."]
    n: Annotated[int, "Trained runs.", _COUNT]
    values: Annotated[Sequence[float], "One for each trained run, in the runs' order."]


@dataclass(frozen=True)
class Cost:
    """The median cost over all runs that have ended; one that does not arrive costs more than all.

    The interval is of the median and makes no assumption on the distribution: two order statistics,
    with the confidence that they have.
    """

    median: Annotated[float | None, "Null where it is beyond what the runs took."]
    interval: Annotated[
        Pair | None,
        "From the lower to the upper end; the upper one is null where it is beyond what the runs "
        "took. Null for one run.",
    ]
    confidence: Annotated[
        float | None, "Of the interval: 0.95 or more from 6 runs on, less for fewer."
    ]


@dataclass(frozen=True)
class Costs:
    """What it takes to arrive at a value, at the resolution of the evaluations."""

    reached: Annotated[int, "Runs that arrive.", _COUNT]
    n: Annotated[int, "Runs that have ended, also failed ones.", _COUNT]
    steps: Annotated[Cost | None, "Updates."] = absent()
    epochs: Annotated[Cost | None, "Passes over the data."] = absent()
    seconds: Annotated[Cost | None, "Time of the updates, without evaluations."] = absent()


@dataclass(frozen=True)
class OverSeeds:
    """How far apart the final values of a group's trained runs are."""

    standard_deviation: Annotated[float | None, "With n − 1; null for one run."]
    worst: Annotated[float | None, "The worst final value of a trained run."]
    best: Annotated[float | None, "The best one."]


@dataclass(frozen=True)
class OverRates:
    """How much the groups differ that share all but the learning rate or a schedule's parameters.

    A group counts by the median of its final values, in which a failed run is worse than all.
    """

    family: Annotated[str, "What these groups share."]
    tried: Annotated[int, "Groups.", Keywords(minimum=1)]
    within: Annotated[float | None, "How far from the best counts as near."]
    near: Annotated[int, "Groups that are so near to the best one, itself included.", _COUNT]
    best: Annotated[float | None, "The best group's median; null where all groups failed."]
    worst: Annotated[float | None, "The worst group's median; null where it failed."]


@dataclass(frozen=True)
class Band:
    """The metric of a group on the way: its median and quartiles over the trained runs."""

    steps: Annotated[Sequence[Annotated[int, _COUNT]], "Updates."]
    epochs: Annotated[Sequence[float] | None, "Passes over the data, the median over runs."]
    seconds: Annotated[Sequence[float] | None, "Time of the updates, the median over runs."]
    median: Annotated[Sequence[float], "Over the runs."]
    lower: Annotated[Sequence[float], "The first quartile."]
    upper: Annotated[Sequence[float], "The third quartile."]
    n: Annotated[Sequence[Annotated[int, _COUNT]], "Runs at that step."]


@dataclass(frozen=True)
class Scores:
    """Utility, cost and robustness of a group of runs."""

    runs: RunCounts
    final: Annotated[Utility, "At the end."]
    best: Annotated[Utility | None, "At the best of the evaluations."] = absent()
    to_best: Annotated[Costs | None, "What the best evaluation took."] = absent()
    to_target: Annotated[Costs | None, "What it took to reach the target."] = absent()
    gap: Annotated[
        Utility | None, "At the end, the value on test data minus that on training data."
    ] = absent()
    over_seeds: Annotated[OverSeeds | None, "Robustness over the runs of a group."] = absent()
    over_rates: Annotated[OverRates | None, "Robustness over learning rates."] = absent()
    curve: Annotated[Band | None, "The metric on the way."] = absent()
