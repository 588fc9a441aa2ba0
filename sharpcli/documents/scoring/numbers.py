"""The scores of one group of runs, and of the groups of one family."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sharpcli.documents.scores import (
    Band,
    Cost,
    Costs,
    OverRates,
    OverSeeds,
    RunCounts,
    Scores,
    Utility,
)
from sharpcli.documents.scoring.runs import Run
from sharpcli.documents.scoring.statistics import (
    deviation,
    interval_of_mean,
    interval_of_median,
    mean,
    median,
    quantile,
)

__all__ = ["NEAR", "NEAR_SHARE", "Scorer", "over_rates"]

NEAR = 0.01  # of a metric such as the accuracy: one point
NEAR_SHARE = 0.1  # of a loss, relative to the best: losses have no scale of their own
_OVER = ("steps", "epochs", "seconds")
_KEYS = {"steps": "step", "epochs": "epochs", "seconds": "seconds"}


class Scorer:
    """Scores a group of runs by one metric of one split.

    Inside it works with values of which lower ones are better: those of the metric, or their
    negatives. A run that failed or diverged has the value infinity.
    """

    def __init__(self, runs: Sequence[Run], split: str, metric: str, *, lower: bool) -> None:
        self._runs, self._split, self._metric, self.lower = runs, split, metric, lower
        self._sign = 1.0 if lower else -1.0
        self.unknown = [r for r in runs if r.status == "ok" and not r.knows(split, metric)]
        self.ended = [r for r in runs if r.status != "waiting" and r not in self.unknown]
        finals = {id(run): run.final(split, metric) for run in runs if run.status == "ok"}
        self.trained = [run for run in self.ended if finals.get(id(run)) is not None]
        self._finals = [float(finals[id(run)] or 0.0) for run in self.trained]
        self.lost = len(self.ended) - len(self.trained)

    @property
    def has_curves(self) -> bool:
        """Whether all trained runs were evaluated on the way."""
        return bool(self.trained) and all(
            run.curve(self._split, self._metric) for run in self.trained
        )

    def scores(self, target: float | None, rates: OverRates | None) -> Scores:
        """All scores of the group."""
        has = self.has_curves
        lost = bool(self.ended) and not self.trained
        return Scores(
            self._counts(),
            self._utility(self._finals),
            best=self._utility(self._bests()) if has else None,
            to_best=self._costs(None) if has else None,
            to_target=self._costs(target) if target is not None and (has or lost) else None,
            gap=self._gap(),
            over_seeds=self._over_seeds(),
            over_rates=rates,
            curve=self._band(),
        )

    def reached_by_most(self) -> float | None:
        """The best value that more than half of the runs reach, so that its median cost is known.

        It is that of the median run, of an even number the worse one of the two in the middle;
        infinite where so many failed.
        """
        values = [*(self._sign * v for v in self._bests()), *[math.inf] * self.lost]
        return self._sign * sorted(values)[len(values) // 2] if values else None

    def median_final(self) -> float | None:
        """The final value of the median run; infinite where the median run failed."""
        if not self.ended:
            return None
        found = median([*(self._sign * v for v in self._finals), *[math.inf] * self.lost])
        return self._sign * found

    def arrives_at_once(self, target: float) -> bool:
        """Whether some run is at the target before its first step."""
        return any(self._first(run, target) == 0 for run in self.trained)

    def _bests(self) -> list[float]:
        return [
            self._sign * min(self._sign * v for v in curve if v is not None)
            for run in self.trained
            for curve in [run.curve(self._split, self._metric) or ()]
        ]

    def _counts(self) -> RunCounts:
        states = [run.status for run in self._runs]
        failed = states.count("failed")
        return RunCounts(
            len(states),
            len(self.trained),
            len(self.ended) - len(self.trained) - failed,
            failed,
            states.count("waiting"),
            len(self.unknown),
        )

    def _utility(self, values: Sequence[float]) -> Utility:
        return Utility(mean(values), interval_of_mean(values), len(values), list(values))

    def _gap(self) -> Utility | None:
        ends = [[r.final(split, self._metric) for r in self.trained] for split in ("train", "test")]
        gaps = [b - a for a, b in zip(*ends, strict=True) if a is not None and b is not None]
        return self._utility(gaps) if gaps else None

    def _over_seeds(self) -> OverSeeds | None:
        if not self._finals:
            return None
        ends = [self._sign * max(self._sign * v for v in self._finals)]
        ends.append(self._sign * min(self._sign * v for v in self._finals))
        return OverSeeds(deviation(self._finals), *ends)

    def _costs(self, target: float | None) -> Costs:
        """What it takes to reach the target, or a run's own best."""
        places = [self._first(run, target) for run in self.trained]
        costs = {}
        for name in _OVER:
            known = [(run.evaluations or {})[_KEYS[name]] for run in self.trained]
            values = [
                math.inf if place is None else float(at[place])
                for at, place in zip(known, places, strict=True)
            ]
            costs[name] = _cost([*values, *[math.inf] * self.lost])
        reached = sum(place is not None for place in places)
        return Costs(reached, len(self.ended), **costs)

    def _first(self, run: Run, target: float | None) -> int | None:
        """The first evaluation that is as good as the target, or as the run's best."""
        curve = run.curve(self._split, self._metric) or ()
        values = [math.inf if v is None else self._sign * v for v in curve]
        goal = min(values) if target is None else self._sign * target
        return next((index for index, value in enumerate(values) if value <= goal), None)

    def _band(self) -> Band | None:
        """Median and quartiles over the trained runs, where at least half of them have a value."""
        if not self.has_curves:
            return self._band_of_steps()
        at: dict[int, list[tuple[float, float, float]]] = {}
        for run in self.trained:
            known = run.evaluations or {}
            curve = run.curve(self._split, self._metric) or ()
            places = zip(known["step"], known["epochs"], known["seconds"], curve, strict=True)
            for step, epochs, seconds, value in places:
                if value is not None:
                    at.setdefault(step, []).append((epochs, seconds, value))
        steps = self._common(at)
        columns = [list(zip(*at[step], strict=True)) for step in steps]
        epochs, seconds = ([median(column[i]) for column in columns] for i in (0, 1))
        return _band(steps, epochs, seconds, [column[2] for column in columns])

    def _band_of_steps(self) -> Band | None:
        """The same of the loss of single steps, where nothing was evaluated."""
        if (self._split, self._metric) != ("train", "loss"):
            return None
        at: dict[int, list[float]] = {}
        for run in self.trained:
            known = run.steps or {"step": (), "loss": ()}
            for step, value in zip(known["step"], known["loss"], strict=True):
                if value is not None and step is not None:
                    at.setdefault(int(step), []).append(value)
        steps = self._common(at)
        return _band(steps, None, None, [at[step] for step in steps]) if steps else None

    def _common(
        self, at: dict[int, list[float]] | dict[int, list[tuple[float, float, float]]]
    ) -> list[int]:
        return [step for step in sorted(at) if 2 * len(at[step]) >= len(self.trained)]


def over_rates(family: str, scorers: Sequence[Scorer]) -> OverRates:
    """How much the groups of a family differ."""
    sign = 1.0 if scorers[0].lower else -1.0
    found = [each.median_final() for each in scorers]
    values = [sign * value for value in found if value is not None]  # groups that have ended
    best, worst = min(values, default=math.inf), max(values, default=math.inf)
    if not math.isfinite(best):
        return OverRates(family, len(scorers), None, 0, None, None)
    within = NEAR_SHARE * abs(best) if scorers[0].lower else NEAR
    near = sum(value <= best + within for value in values)
    return OverRates(
        family,
        len(scorers),
        within,
        near,
        sign * best,
        sign * worst if math.isfinite(worst) else None,
    )


def _cost(values: Sequence[float]) -> Cost:
    middle, interval = median(values), interval_of_median(values)
    if interval is None:
        return Cost(_finite(middle), None, None)
    return Cost(_finite(middle), (_finite(interval[0]), _finite(interval[1])), interval[2])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _band(
    steps: Sequence[int],
    epochs: Sequence[float] | None,
    seconds: Sequence[float] | None,
    values: Sequence[Sequence[float]],
) -> Band:
    middle, lower, upper = (
        [quantile(each, share) for each in values] for share in (0.5, 0.25, 0.75)
    )
    return Band(steps, epochs, seconds, middle, lower, upper, [len(each) for each in values])
