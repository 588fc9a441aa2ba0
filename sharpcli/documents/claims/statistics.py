"""The statistics that decide claims: each is one number a seed.

A statistic takes the stages of an experiment and the claim's arguments. `of` and `to` are settings
that choose runs. Where several runs of a seed are chosen, their mean counts, of a ratio the
geometric one; with `tuned` it is the run with the best values of these settings, chosen by the
other seeds, so that the choice does not flatter the seed that is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharpcli.documents.claims.runs import (
    StageRuns,
    Trained,
    by_seed,
    chosen,
    number_of,
    series_of,
)
from sharpcli.documents.comparison.granulated import Design, granulated
from sharpcli.documents.comparison.ranks import tau_b
from sharpcli.documents.scoring.statistics import median
from sharpcli.errors import UsageError, did_you_mean

__all__ = ["STATISTICS", "PerSeed", "Stages", "compute_statistic"]

Stages = Mapping[str, StageRuns]
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class PerSeed:
    """A statistic for each seed; those without one are missing, and `notes` say why.

    A ratio is kept as its logarithm: `logarithmic` says so.
    """

    values: Mapping[Any, float]
    logarithmic: bool = False
    notes: Sequence[str] = field(default_factory=list)


def compute_statistic(name: str, stages: Stages, arguments: Arguments) -> PerSeed:
    """The statistic of this name; raises `UsageError` for an unknown name or argument."""
    if name not in STATISTICS:
        raise UsageError(
            f"statistic {name}: {did_you_mean(name, STATISTICS)}",
            f"statistics: {', '.join(STATISTICS)}",
        )
    try:
        return STATISTICS[name](stages, arguments)
    except KeyError as error:
        raise UsageError(f"statistic {name}: needs {error}", "add it to the claim") from error


def ratio(stages: Stages, arguments: Arguments) -> PerSeed:
    """`value` of the runs `of`, over that of the runs `to`."""
    return _compared(stages, arguments, logarithmic=True)


def difference(stages: Stages, arguments: Arguments) -> PerSeed:
    """`value` of the runs `of`, minus that of the runs `to`."""
    return _compared(stages, arguments, logarithmic=False)


def value(stages: Stages, arguments: Arguments) -> PerSeed:
    """`value` of the runs `of`; with `log` it is averaged over seeds as its logarithm."""
    logarithmic = bool(arguments.get("log", False))
    levels, notes = _levels(_stage(stages, arguments), arguments["of"], arguments, logarithmic)
    return PerSeed(levels, logarithmic, notes)


def slope(stages: Stages, arguments: Arguments) -> PerSeed:
    """How much `value` rises for each factor of two in the setting `over`, by least squares.

    `of` chooses the runs. With `log` it is the logarithm of the value that rises, to base 2.
    """
    found, notes = _slopes(_stage(stages, arguments), arguments["of"], arguments)
    return PerSeed(found, notes=notes)


def slope_difference(stages: Stages, arguments: Arguments) -> PerSeed:
    """The slope of the runs `of`, minus that of the runs `to`."""
    stage = _stage(stages, arguments)
    own, notes = _slopes(stage, arguments["of"], arguments)
    other, more = _slopes(stage, arguments["to"], arguments)
    return PerSeed(
        {seed: own[seed] - other[seed] for seed in own if seed in other}, notes=[*notes, *more]
    )


def steps_ratio(stages: Stages, arguments: Arguments) -> PerSeed:
    """The steps that the runs `of` take to a level of `value`, over those of the runs `to`.

    The level of a seed is the worse one of the two final values, so that both arrive. A level that
    `of` may miss would cut the ratio off at 1: without an effect, such a ratio was below 1 with its
    whole interval in 8 of 100 simulations.
    """
    stage = _stage(stages, arguments)
    logs, notes = {}, []
    own, other = _picked(stage, arguments, "of"), _picked(stage, arguments, "to")
    sign = 1 if _lower_is_better(arguments["value"]) else -1
    for seed in sorted({*own} & {*other}):
        curves = [series_of(runs[seed], arguments["value"]) for runs in (own, other)]
        if not all(curves):
            notes.append(f"seed {seed}: {arguments['value']} was not evaluated on the way")
            continue
        level = sign * max(sign * curve[-1][1] for curve in curves)
        steps = [_first_crossing(curve, sign, level) for curve in curves]
        if any(not each for each in steps):
            notes.append(f"seed {seed}: is at the level before its first step")
            continue
        logs[seed] = math.log(steps[0]) - math.log(steps[1])  # type: ignore[arg-type]
    return PerSeed(logs, logarithmic=True, notes=notes)


def rank_correlation(stages: Stages, arguments: Arguments) -> PerSeed:
    """Kendall's τ between `value` and `other` over the runs of each seed."""
    stage = _stage(stages, arguments)
    found = _correlations(stage, arguments, arguments["value"], arguments["other"])
    return PerSeed(found)


def rank_correlation_difference(stages: Stages, arguments: Arguments) -> PerSeed:
    """|τ| of `value` with `other`, minus |τ| of `value` with `than`, over the runs of each seed."""
    stage = _stage(stages, arguments)
    own = _correlations(stage, arguments, arguments["value"], arguments["other"])
    than = _correlations(stage, arguments, arguments["value"], arguments["than"])
    return PerSeed({seed: abs(own[seed]) - abs(than[seed]) for seed in own if seed in than})


def rise(stages: Stages, arguments: Arguments) -> PerSeed:
    """The median of `value` over the last half of its course, over its first number.

    `value` is a course, such as `tracked.KEY`; `of` chooses the runs.
    """

    def factor(course: Sequence[tuple[float, float]]) -> float | None:
        known = [y for _, y in course]
        if len(known) < 2 or known[0] <= 0:
            return None
        late = median(known[len(known) // 2 :])
        return math.log(late / known[0]) if late > 0 else None

    return _of_courses(stages, arguments, factor, logarithmic=True)


def highest(stages: Stages, arguments: Arguments) -> PerSeed:
    """The largest number of the course of `value`; `of` chooses the runs."""

    def most(course: Sequence[tuple[float, float]]) -> float | None:
        return max((y for _, y in course), default=None)

    return _of_courses(stages, arguments, most, logarithmic=False)


def share_within(stages: Stages, arguments: Arguments) -> PerSeed:
    """The share of a course's numbers from `low_end` to `high_end`, once it has been at `reached`.

    Numbers count from the first one that is at least `reached`. A run that never gets there has 0.
    """
    low, high = arguments["low_end"], arguments["high_end"]

    def share(course: Sequence[tuple[float, float]]) -> float | None:
        if not course:
            return None
        known = [y for _, y in course]
        first = next((i for i, y in enumerate(known) if y >= arguments["reached"]), len(known))
        later = known[first:]
        return sum(low <= y <= high for y in later) / len(later) if later else 0.0

    return _of_courses(stages, arguments, share, logarithmic=False)


def granulated_correlation(stages: Stages, arguments: Arguments) -> PerSeed:
    """The granulated Kendall coefficient of `value` and `other` over the settings `factors`.

    `value` may be a list: its mean over them.

    Source: Jiang et al. 2020, section 3.
    """
    found, notes = _granulated(stages, arguments, arguments["value"])
    return PerSeed(found, notes=notes)


def granulated_correlation_difference(stages: Stages, arguments: Arguments) -> PerSeed:
    """The granulated coefficient of `value` with `other`, minus that of `than` with `other`.

    `value` and `than` may be lists: the mean over them.
    """
    own, notes = _granulated(stages, arguments, arguments["value"])
    than, more = _granulated(stages, arguments, arguments["than"])
    return PerSeed(
        {seed: own[seed] - than[seed] for seed in own if seed in than}, notes=[*notes, *more]
    )


STATISTICS: dict[str, Callable[[Stages, Arguments], PerSeed]] = {
    each.__name__: each
    for each in (
        ratio,
        difference,
        value,
        slope,
        slope_difference,
        steps_ratio,
        rank_correlation,
        rank_correlation_difference,
        rise,
        highest,
        share_within,
        granulated_correlation,
        granulated_correlation_difference,
    )
}


def _compared(stages: Stages, arguments: Arguments, *, logarithmic: bool) -> PerSeed:
    stage = _stage(stages, arguments)
    to = stages[arguments["to_stage"]] if "to_stage" in arguments else stage
    own, notes = _levels(stage, arguments["of"], arguments, logarithmic)
    other, more = _levels(to, arguments["to"], arguments, logarithmic)
    both = {seed: own[seed] - other[seed] for seed in own if seed in other}
    return PerSeed(both, logarithmic, [*notes, *more])


def _levels(
    stage: StageRuns, where: Mapping[str, Any], arguments: Arguments, logarithmic: bool
) -> tuple[dict[Any, float], list[str]]:
    """The value for each seed, averaged over its chosen runs; and what is missing."""
    runs = chosen(stage, where)
    if "tuned" in arguments:
        groups = {seed: [run] for seed, run in _tuned(runs, arguments).items()}
    else:
        groups = by_seed(runs)
    levels, notes = {}, []
    for seed, own in sorted(groups.items()):
        numbers = [number_of(run, arguments["value"]) for run in own]
        known = [each for each in numbers if each is not None and (each > 0 or not logarithmic)]
        if len(known) < len(numbers):
            said = " above 0" if logarithmic else ""
            notes.append(f"seed {seed}: a run has no {arguments['value']}{said}, and is left out")
        if known:
            each = [math.log(x) for x in known] if logarithmic else known
            levels[seed] = math.fsum(each) / len(each)
    return levels, notes


def _slopes(
    stage: StageRuns, where: Mapping[str, Any], arguments: Arguments
) -> tuple[dict[Any, float], list[str]]:
    """The least-squares slope for each seed over log2 of a setting."""
    slopes, notes = {}, []
    for seed, runs in sorted(by_seed(chosen(stage, where)).items()):
        points = []
        for run in runs:
            x, y = (
                number_of(run, f"setting.{arguments['over']}"),
                number_of(run, arguments["value"]),
            )
            if x is not None and x > 0 and y is not None and (y > 0 or not arguments.get("log")):
                points.append((math.log2(x), math.log2(y) if arguments.get("log") else y))
        found = _least_squares(points)
        if found is None:
            notes.append(f"seed {seed}: fewer than two values of {arguments['over']}")
        else:
            slopes[seed] = found
    return slopes, notes


def _least_squares(points: Sequence[tuple[float, float]]) -> float | None:
    if len({x for x, _ in points}) < 2:
        return None
    middle = math.fsum(x for x, _ in points) / len(points)
    return math.fsum((x - middle) * y for x, y in points) / math.fsum(
        (x - middle) ** 2 for x, _ in points
    )


def _picked(stage: StageRuns, arguments: Arguments, side: str) -> dict[Any, Trained]:
    """One run for each seed, tuned where that is asked for."""
    runs = chosen(stage, arguments[side])
    if "tuned" in arguments:
        return _tuned(runs, arguments)
    groups = by_seed(runs)
    if any(len(own) > 1 for own in groups.values()):
        raise UsageError(
            f"stage {stage.name}: several runs of a seed have {dict(arguments[side])}",
            'name more settings, or those to choose: tuned = ["lr"]',
        )
    return {seed: own[0] for seed, own in groups.items()}


def _tuned(runs: Sequence[Trained], arguments: Arguments) -> dict[Any, Trained]:
    """For each seed its run with the settings whose mean over the other seeds is best."""
    by = arguments.get("tuned_by", arguments["value"])
    sign = 1.0 if _lower_is_better(by) else -1.0
    groups: dict[tuple[Any, ...], dict[Any, Trained]] = {}
    for run in runs:
        key = tuple(run.setting(name) for name in arguments["tuned"])
        groups.setdefault(key, {})[run.seed] = run
    picked = {}
    for seed in sorted({run.seed for run in runs}):
        best: tuple[float, Trained] | None = None
        for own in groups.values():
            others = [number_of(run, by) for other, run in own.items() if other != seed]
            # A setting that fails for some seed is worse than any that does not.
            known = [sign * x if x is not None else math.inf for x in others]
            score = math.fsum(known) / len(known) if known else math.inf
            if seed in own and (best is None or score < best[0]):
                best = score, own[seed]
        if best is not None:
            picked[seed] = best[1]
    return picked


def _correlations(stage: StageRuns, arguments: Arguments, a: str, b: str) -> dict[Any, float]:
    found = {}
    for seed, runs in sorted(by_seed(chosen(stage, arguments.get("of", {}))).items()):
        pairs = [(number_of(run, a), number_of(run, b)) for run in runs]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        tau = tau_b([x for x, _ in known], [y for _, y in known]) if len(known) > 2 else None
        if tau is not None:
            found[seed] = tau
    return found


def _of_courses(
    stages: Stages,
    arguments: Arguments,
    number: Callable[[Sequence[tuple[float, float]]], float | None],
    *,
    logarithmic: bool,
) -> PerSeed:
    """A number of the course of `value`, averaged over the chosen runs of each seed."""
    levels, notes = {}, []
    runs = chosen(_stage(stages, arguments), arguments["of"])
    for seed, own in sorted(by_seed(runs).items()):
        numbers = [number(series_of(run, arguments["value"])) for run in own]
        known = [each for each in numbers if each is not None]
        if len(known) < len(numbers):
            notes.append(f"seed {seed}: a run has no {arguments['value']}, and is left out")
        if known:
            levels[seed] = math.fsum(known) / len(known)
    return PerSeed(levels, logarithmic, notes)


def _granulated(
    stages: Stages, arguments: Arguments, values: str | Sequence[str]
) -> tuple[dict[Any, float], list[str]]:
    """The granulated coefficient for each seed, averaged over several values."""
    names = [values] if isinstance(values, str) else list(values)
    factors, found, notes = arguments["factors"], {}, []
    runs = chosen(_stage(stages, arguments), arguments.get("of", {}))
    for seed, own in sorted(by_seed(runs).items()):
        known = []
        for name in names:
            pairs = [(run, number_of(run, name), number_of(run, arguments["other"])) for run in own]
            whole = [(run, x, y) for run, x, y in pairs if x is not None and y is not None]
            if len(whole) < len(own):
                left = len(own) - len(whole)
                notes.append(f"seed {seed}: {left} of {len(own)} runs have no {name}")
            design = Design.of([{k: r.setting(k) for k in factors} for r, _, _ in whole], factors)
            psi = granulated([x for _, x, _ in whole], [y for _, _, y in whole], design)
            if psi is not None:
                known.append(psi.value)
        if len(known) == len(names):
            found[seed] = math.fsum(known) / len(known)
    return found, notes


def _first_crossing(points: Sequence[tuple[float, float]], sign: int, level: float) -> float | None:
    """The step where the curve first is as good as `level`, between two evaluations linearly."""
    before: tuple[float, float] | None = None
    for step, y in points:
        if sign * y <= sign * level:
            if before is None or y == before[1]:
                return step
            share = (before[1] - level) / (before[1] - y)
            return before[0] + share * (step - before[0])
        before = step, y
    return None


def _lower_is_better(name: str) -> bool:
    return name.rpartition(".")[2] == "loss"


def _stage(stages: Stages, arguments: Arguments) -> StageRuns:
    return stages[arguments["stage"]] if "stage" in arguments else next(iter(stages.values()))
