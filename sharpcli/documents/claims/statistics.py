"""The statistics that decide claims: each is one number a seed.

A statistic takes the stages of an experiment and the claim's arguments. `of` and `to` are settings
that choose runs. Where several runs of a seed are chosen, their mean counts, of a ratio the
geometric one; with `tuned` it is the run with the best values of these settings, chosen by the
next seed, so that the choice does not flatter the seed that is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from sharpcli.documents.statuses import NOT_CONVERGED
from sharpcli.errors import UsageError, did_you_mean

__all__ = [
    "STATISTICS",
    "PerSeed",
    "Stages",
    "best_settings",
    "compute_statistic",
    "less",
    "slopes_by_seed",
]

# Metrics of which it is known whether lower is better.
_BETTER = {"loss": True, "accuracy": False}

Stages = Mapping[str, StageRuns]
Arguments = Mapping[str, Any]
# By the values of settings, and by seed; smaller is better.
Scores = Mapping[tuple[Any, ...], Mapping[Any, float | None]]


@dataclass(frozen=True)
class PerSeed:
    """A statistic for each seed; those without one are missing, and `notes` say why.

    A ratio is kept as its logarithm: `logarithmic` says so. `missing` are the seeds that were asked
    for and have none.
    """

    values: Mapping[Any, float]
    logarithmic: bool = False
    notes: Sequence[str] = field(default_factory=list)
    missing: Sequence[Any] = ()


def compute_statistic(name: str, stages: Stages, arguments: Arguments) -> PerSeed:
    """The statistic of this name; raises `UsageError` for an unknown name or argument."""
    if name not in STATISTICS:
        raise UsageError(
            f"statistic {name}: {did_you_mean(name, STATISTICS)}",
            f"statistics: {', '.join(STATISTICS)}",
        )
    try:
        found = STATISTICS[name](stages, arguments)
    except KeyError as error:
        raise UsageError(f"statistic {name}: needs {error}", "add it to the claim") from error
    sides = _sides(stages, arguments)
    _refuse_no_setting(sides, arguments)
    seeds = [{run.seed for run in runs} if runs else {*stage.seeds} for stage, runs in sides]
    missing = [seed for seed in sorted(set.intersection(*seeds)) if seed not in found.values]
    # By name, because both sides may have the same runs.
    runs = {(stage.name, run.run.name): run for stage, own in sides for run in own}
    notes = [*found.notes, *_unsound([*runs.values()], arguments)]
    return replace(found, notes=notes, missing=missing)


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


def crossing(stages: Stages, arguments: Arguments) -> PerSeed:
    """The setting `along` where the slope of `value` over `over` changes its sign.

    Each seed's slopes are fitted by a line over log2 of `along`; where it crosses 0 beyond the
    values of `along`, the nearest of these counts. `rises` says in which direction the line has to
    go: a seed whose line goes the other way has no such place, and is left out.
    """
    found, notes = _crossings(_stage(stages, arguments), arguments)
    return PerSeed({seed: each * math.log(2) for seed, each in found.items()}, True, notes)


def crossing_ratio(stages: Stages, arguments: Arguments) -> PerSeed:
    """`crossing`, over the value of `along` at which a run's own `to_value` equals it.

    With `along` the batch size and `to_value` the critical one, this is where a batch is critical.
    It is the place where a line of log2(`to_value` / `along`) over log2 of `along` is 0.
    """
    stage, along = _stage(stages, arguments), arguments["along"]
    own, notes = _crossings(stage, arguments)
    ratios = {}
    critical = stages[arguments["to_stage"]] if "to_stage" in arguments else stage
    for seed, runs in sorted(by_seed(chosen(critical, arguments["to"])).items()):
        points = []
        for run in runs:
            x, y = number_of(run, f"setting.{along}"), number_of(run, arguments["to_value"])
            if x is not None and x > 0 and y is not None and y > 0:
                points.append((math.log2(x), math.log2(y / x)))
        place = _zero(points, rises=False)
        if place is None:
            notes.append(f"seed {seed}: {arguments['to_value']} / {along} does not fall")
        elif seed in own:
            ratios[seed] = (own[seed] - place) * math.log(2)
    return PerSeed(ratios, True, notes)


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
        both = [own[seed], other[seed]]
        curves = [series_of(run, arguments["value"]) for run in both]
        if not all(curves) or any(number_of(run, arguments["value"]) is None for run in both):
            notes.append(
                f"seed {seed}: {_without(both)} no {arguments['value']} on the way or at the end, "
                "and is left out"
            )
            continue
        level = sign * max(sign * curve[-1][1] for curve in curves)
        steps = [_first_crossing(curve, sign, level) for curve in curves]
        if any(not each for each in steps):
            notes.append(f"seed {seed}: is at the level before its first step")
            continue
        logs[seed] = math.log(steps[0]) - math.log(steps[1])  # type: ignore[arg-type]
    return PerSeed(logs, logarithmic=True, notes=notes)


def length_ratio(stages: Stages, arguments: Arguments) -> PerSeed:
    """The length of a training `of` that ends at the final `value` of the runs `to`, over theirs.

    Each of `stages` trains for another number of steps, so that a schedule ends with its training.
    The length is where the least-squares line of the final values over the logarithm of the length
    meets the level. The line goes on beyond the lengths: a ratio that stops at the longest would
    be cut off, and then confirmed to be below it without an effect.
    """
    by_length = [_picked(stages[name], arguments, "of") for name in arguments["stages"]]
    other = _picked(stages[arguments["to_stage"]], arguments, "to")
    name, logs, notes, outside = arguments["value"], {}, [], 0
    sign = 1 if _lower_is_better(name) else -1
    for seed, to in sorted(other.items()):
        ends = []
        for run in (picked[seed] for picked in by_length if seed in picked):
            end = number_of(run, name)
            if run.updates and end is not None:
                ends.append((math.log(run.updates), end))
        level, line = number_of(to, name), _line(ends)
        if level is None or not to.updates or line is None:
            continue
        at, height, rise = line
        if sign * rise >= 0:
            notes.append(f"seed {seed}: longer trainings do not end better")
            continue
        length = at + (level - height) / rise
        outside += not min(ends)[0] <= length <= max(ends)[0]
        logs[seed] = length - math.log(to.updates)
    if outside:
        notes.append(
            f"of {outside} of {len(logs)} seeds the length is beyond those that were trained"
        )
    return PerSeed(logs, logarithmic=True, notes=notes)


def target_ratio(stages: Stages, arguments: Arguments) -> PerSeed:
    """The steps in which the runs `of` reach the value `target`, over those of the runs `to`.

    With `tuned` they have the settings that arrive first. A run that never arrives counts with all
    its steps.
    """
    stage, notes, sides = _stage(stages, arguments), [], []
    for side in ("of", "to"):
        steps, late = _arrivals(chosen(stage, arguments[side]), arguments)
        sides.append(steps)
        if late:
            notes.append(
                f"{late} of {len(steps)} runs of {_said(arguments[side])} do not reach "
                f"{arguments['target']:g}, and count with all their steps"
            )
    own, other = sides
    logs = {
        seed: math.log(own[seed] / other[seed])
        for seed in sorted({*own} & {*other})
        if own[seed] > 0 and other[seed] > 0
    }
    return PerSeed(logs, logarithmic=True, notes=notes)


def half_life_ratio(stages: Stages, arguments: Arguments) -> PerSeed:
    """How long a gain of the runs `of` lasts, over how long that of the runs `to` does.

    The gain is by how much `value` is better than in the runs of the stage `minus`. It lasts from
    step 0 until it has fallen to half of its maximum; one that does not fall so far counts with all
    steps.
    """
    stage, minus = _stage(stages, arguments), stages[arguments["minus"]]
    notes, sides = [], []
    for side in ("of", "to"):
        own, other = (
            {run.seed: series_of(run, arguments["value"]) for run in chosen(each, arguments[side])}
            for each in (stage, minus)
        )
        found, kept = {}, 0
        for seed in sorted({*own} & {*other}):
            sign = -1 if _lower_is_better(arguments["value"]) else 1
            gains = [(step, sign * y) for step, y in less(own[seed], other[seed])]
            step, best = max(gains, key=lambda each: each[1], default=(0.0, 0.0))
            if best <= 0:
                notes.append(f"seed {seed}: {_said(arguments[side])} gain nothing")
                continue
            end = _first_crossing([each for each in gains if each[0] >= step], 1, best / 2)
            kept += end is None
            found[seed] = gains[-1][0] if end is None else end
        sides.append(found)
        if kept:
            notes.append(
                f"{kept} of {len(found)} runs of {_said(arguments[side])} keep more than half of "
                "their gain to the end, and count with all their steps"
            )
    own_life, other_life = sides
    logs = {
        seed: math.log(own_life[seed] / other_life[seed])
        for seed in own_life
        if other_life.get(seed, 0) > 0
    }
    return PerSeed(logs, logarithmic=True, notes=notes)


def cost_of_choice(stages: Stages, arguments: Arguments) -> PerSeed:
    """How much worse `value` is with the settings that are best in another stage.

    The settings are those of `by`: those that are best in the stage `chosen_in` are compared with
    those that are best in the stage itself, in that stage. Best is the best mean over the other
    seeds. With `tuned` each stage has its own values of these other settings.
    """
    stage, elsewhere = _stage(stages, arguments), stages[arguments["chosen_in"]]
    here, there = _choices(stage, arguments), _choices(elsewhere, arguments)
    found, notes, same = {}, [], 0
    for seed in sorted({*stage.seeds} & {*elsewhere.seeds}):
        own, foreign = (_best_of_others(each, seed) for each in (here, there))
        if own is None or foreign is None:
            continue
        ends = [here.get(key, {}).get(seed) for key in (foreign, own)]
        if None in ends:
            notes.append(f"seed {seed}: a run that was chosen has no {arguments['value']}")
            continue
        same += own == foreign
        found[seed] = ends[0] - ends[1]  # type: ignore[operator]
    notes.append(f"both stages choose the same for {same} of {len(found)} seeds")
    return PerSeed(found, notes=notes)


def rank_correlation(stages: Stages, arguments: Arguments) -> PerSeed:
    """Kendall's τ between `value` and `other` over the runs of each seed."""
    stage = _stage(stages, arguments)
    found, notes = _correlations(stage, arguments, arguments["value"], arguments["other"])
    return PerSeed(found, notes=notes)


def rank_correlation_difference(stages: Stages, arguments: Arguments) -> PerSeed:
    """|τ| of `value` with `other`, minus |τ| of `value` with `than`, over the runs of each seed."""
    stage = _stage(stages, arguments)
    own, notes = _correlations(stage, arguments, arguments["value"], arguments["other"])
    than, more = _correlations(stage, arguments, arguments["value"], arguments["than"])
    both = {seed: abs(own[seed]) - abs(than[seed]) for seed in own if seed in than}
    return PerSeed(both, notes=[*dict.fromkeys([*notes, *more])])


def count_above(stages: Stages, arguments: Arguments) -> PerSeed:
    """How many numbers of the list `value` of the runs `of` are above `factor` times those of `to`.

    The list is a measure's, such as `hessian.eigenvalues`; of the runs `to` the largest counts.
    `factor` is 1 by default. Of several runs of a seed the mean is taken.
    """
    stage = _stage(stages, arguments)
    own, to = (by_seed(chosen(stage, arguments[side])) for side in ("of", "to"))
    found, notes = {}, []
    for seed in sorted({*own} & {*to}):
        lists = [_listed(run, arguments["value"]) for run in own[seed]]
        other = [each for run in to[seed] for each in _listed(run, arguments["value"])]
        if not other or not all(lists):
            notes.append(f"seed {seed}: a run has no {arguments['value']}, and is left out")
            continue
        bound = arguments.get("factor", 1) * max(other)
        counts = [sum(each > bound for each in numbers) for numbers in lists]
        found[seed] = sum(counts) / len(counts)
        if any(count == len(numbers) for count, numbers in zip(counts, lists, strict=True)):
            notes.append(f"seed {seed}: all that were computed are above it, and there may be more")
    return PerSeed(found, notes=notes)


def worse_from(stages: Stages, arguments: Arguments) -> PerSeed:
    """The value of the setting `over` from which on `value` is worse than the best by `margin`.

    The best is that of the same seed. The runs with this setting and with all larger ones are worse
    by more than `margin`. Where even those with the largest are not, twice the largest counts.
    """
    stage = _stage(stages, arguments)
    sign = 1.0 if _lower_is_better(arguments["value"]) else -1.0
    logs, notes, never = {}, [], 0
    for seed, runs in sorted(by_seed(chosen(stage, arguments.get("of", {}))).items()):
        at: dict[float, list[float]] = {}
        for run in runs:
            x, y = (
                number_of(run, f"setting.{arguments['over']}"),
                number_of(run, arguments["value"]),
            )
            if x is not None and x > 0 and y is not None:
                at.setdefault(x, []).append(sign * y)
        means = {x: math.fsum(ys) / len(ys) for x, ys in at.items()}
        if len(means) < 2:
            notes.append(f"seed {seed}: fewer than two values of {arguments['over']}")
            continue
        best, start = min(means.values()), 2 * max(means)
        never += means[max(means)] <= best + arguments["margin"]
        for x in sorted(means, reverse=True):
            if means[x] <= best + arguments["margin"]:
                break
            start = x
        logs[seed] = math.log(start)
    if never:
        notes.append(
            f"{never} of {len(logs)} seeds are not worse anywhere, and count as twice the largest"
        )
    return PerSeed(logs, logarithmic=True, notes=notes)


def rise_ratio(stages: Stages, arguments: Arguments) -> PerSeed:
    """How much the loss rises around the end b of a line, over how much it does around the end a.

    The rise is the mean of those at the two places `distance` away from the end, on both sides, as
    a share of the line. `split` is "train" by default.
    """
    logs, notes = {}, []
    distance, split = arguments["distance"], arguments.get("split", "train")
    for line in _stage(stages, arguments).lines:
        at = dict(zip(line.coordinates, line.curves[split]["loss"], strict=True))
        a, b = (_rise(at, end, distance) for end in (0.0, 1.0))
        if a is None or b is None:
            notes.append(f"seed {line.seed}: the line has no loss at one of the places")
        elif a <= 0 or b <= 0:
            notes.append(f"seed {line.seed}: the loss does not rise around an end, and is left out")
        else:
            logs[line.seed] = math.log(b / a)
    return PerSeed(logs, logarithmic=True, notes=notes)


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
        crossing,
        crossing_ratio,
        steps_ratio,
        length_ratio,
        target_ratio,
        half_life_ratio,
        cost_of_choice,
        rank_correlation,
        rank_correlation_difference,
        count_above,
        worse_from,
        rise_ratio,
        rise,
        highest,
        share_within,
        granulated_correlation,
        granulated_correlation_difference,
    )
}


def _listed(run: Trained, value: str) -> list[float]:
    """The numbers of a list among a run's measures: `value[0]`, `value[1]`, and so on."""
    found: list[float] = []
    while (number := number_of(run, f"{value}[{len(found)}]")) is not None:
        found.append(number)
    return found


def _rise(at: Mapping[float, float | None], end: float, distance: float) -> float | None:
    """The mean of a curve at `end` ± `distance`, minus that at `end`; None where it has a gap."""
    places = (end - distance, end, end + distance)
    # Places are computed, so that they agree up to rounding.
    found = [y for place in places for x, y in at.items() if math.isclose(x, place, abs_tol=1e-9)]
    known = [y for y in found if y is not None]
    return (known[0] + known[2]) / 2 - known[1] if len(known) == len(places) else None


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
            # A mean of the others would be of other settings than that of the other seeds.
            said = " above 0" if logarithmic else ""
            notes.append(
                f"seed {seed}: {_without(own)} no {arguments['value']}{said}, and is left out"
            )
            continue
        each = [math.log(x) for x in known] if logarithmic else known
        levels[seed] = math.fsum(each) / len(each)
    return levels, notes


def slopes_by_seed(
    stage: StageRuns, where: Mapping[str, Any], arguments: Arguments
) -> dict[Any, float]:
    """The slope of the runs `where` for each seed, as the statistic `slope` has it."""
    return _slopes(stage, where, arguments)[0]


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
        if len(points) < len(runs):
            notes.append(f"seed {seed}: the slope is of {len(points)} of {len(runs)} runs")
        found = _least_squares(points)
        if found is None:
            notes.append(f"seed {seed}: fewer than two values of {arguments['over']}")
        else:
            slopes[seed] = found
    return slopes, notes


def _crossings(stage: StageRuns, arguments: Arguments) -> tuple[dict[Any, float], list[str]]:
    """log2 of the setting `along` where each seed's slopes cross 0."""
    along = arguments["along"]
    points: dict[Any, list[tuple[float, float]]] = {}
    for place in sorted({run.setting(along) for run in chosen(stage, arguments["of"])}):
        found, _ = _slopes(stage, {**arguments["of"], along: place}, arguments)
        for seed, each in found.items():
            points.setdefault(seed, []).append((math.log2(place), each))
    rises = bool(arguments["rises"])
    zeros = {seed: _zero(each, rises=rises) for seed, each in sorted(points.items())}
    goes = "rise" if rises else "fall"
    notes = [
        f"seed {seed}: the slopes do not {goes} with {along}, and it is left out"
        for seed, zero in zeros.items()
        if zero is None
    ]
    return {seed: zero for seed, zero in zeros.items() if zero is not None}, notes


def _zero(points: Sequence[tuple[float, float]], *, rises: bool) -> float | None:
    """Where a least-squares line is 0, within the range of x; None if it goes the other way."""
    found = _least_squares(points)
    if found is None or found == 0 or (found > 0) is not rises:
        return None
    x, y = (math.fsum(each) / len(points) for each in zip(*points, strict=True))
    low, high = (end(each for each, _ in points) for end in (min, max))
    return min(max(x - y / found, low), high)


def _least_squares(points: Sequence[tuple[float, float]]) -> float | None:
    """The slope of the least-squares line."""
    line = _line(points)
    return None if line is None else line[2]


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float] | None:
    """The least-squares line: a place, its height there, and its slope."""
    if len({x for x, _ in points}) < 2:
        return None
    middle = math.fsum(x for x, _ in points) / len(points)
    slope = math.fsum((x - middle) * y for x, y in points) / math.fsum(
        (x - middle) ** 2 for x, _ in points
    )
    return middle, math.fsum(y for _, y in points) / len(points), slope


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
    """For each seed its run with the settings that are best for the next seed.

    The first seed chooses for the last. Settings that fail for some other seed are worse than any
    that do not. If all other seeds chose, their choices would be nearly the same for all, and the
    interval over seeds would not know how uncertain these are: of 20 seeds with eight settings that
    are equally good, 15 of 100 intervals were above no effect, and as many below it. With halves of
    the seeds that choose for each other, 8 of 100 were; with one seed for each, at most 5.
    """
    by = arguments.get("tuned_by", arguments["value"])
    sign = 1.0 if _lower_is_better(by) else -1.0
    groups = _grouped(runs, arguments["tuned"])
    scores = {
        key: {seed: _times(sign, number_of(run, by)) for seed, run in own.items()}
        for key, own in groups.items()
    }
    picked = {}
    for seed in sorted({run.seed for run in runs}):
        key = _best_of_others({key: each for key, each in scores.items() if seed in each}, seed)
        if key is not None:
            picked[seed] = groups[key][seed]
    return picked


def best_settings(runs: Sequence[Trained], keys: Sequence[str], value: str) -> list[Trained]:
    """Of these runs those with the settings whose mean `value` over all seeds is best."""
    sign = 1.0 if _lower_is_better(value) else -1.0
    groups = _grouped(runs, keys)
    scores = {
        key: {seed: _times(sign, number_of(run, value)) for seed, run in own.items()}
        for key, own in groups.items()
    }
    best = _best_of_others(scores, None)
    return [] if best is None else [*groups[best].values()]


def _grouped(
    runs: Sequence[Trained], keys: Sequence[str]
) -> dict[tuple[Any, ...], dict[Any, Trained]]:
    """The runs by these settings, and by seed.

    Raises:
        UsageError: several runs of a seed have the same settings.
    """
    groups: dict[tuple[Any, ...], dict[Any, Trained]] = {}
    for run in runs:
        own = groups.setdefault(tuple(run.setting(key) for key in keys), {})
        if run.seed in own:
            raise UsageError(
                f"tuned = {list(keys)}: several runs of a seed have the same of these, "
                f"such as {own[run.seed].run.name} and {run.run.name}",
                "name more settings in of and to, or in tuned",
            )
        own[run.seed] = run
    return groups


def _best_of_others(scores: Scores, seed: Any) -> tuple[Any, ...] | None:
    """The settings with the lowest score for the next seed; None where there are none.

    Settings that fail for some other seed are worse than any that do not. Without a seed they are
    those with the lowest mean.
    """
    seeds = sorted({each for own in scores.values() for each in own} | {seed} - {None})
    others = [each for each in seeds if each != seed]
    if seed is not None and not others:
        return None
    choosing = others if seed is None else [seeds[(seeds.index(seed) + 1) % len(seeds)]]

    def order(key: tuple[Any, ...]) -> tuple[int, float]:
        failed = sum(scores[key].get(each) is None for each in others)
        known = [scores[key].get(each) for each in choosing]
        return failed, math.fsum(math.inf if x is None else x for x in known)

    return min(scores, key=order, default=None)


def _choices(stage: StageRuns, arguments: Arguments) -> Scores:
    """The value of each of the settings `by` for each seed, smaller for a better one."""
    by, name = arguments["by"], arguments["value"]
    sign = 1.0 if _lower_is_better(name) else -1.0
    scores: dict[tuple[Any, ...], dict[Any, float | None]] = {}
    runs: dict[tuple[Any, ...], list[Trained]] = {}
    for run in chosen(stage, arguments.get("of", {})):
        runs.setdefault(tuple(run.setting(key) for key in by), []).append(run)
    for key, own in runs.items():
        picked = _tuned(own, arguments) if "tuned" in arguments else {run.seed: run for run in own}
        scores[key] = {seed: _times(sign, number_of(run, name)) for seed, run in picked.items()}
    return scores


def _arrivals(runs: Sequence[Trained], arguments: Arguments) -> tuple[dict[Any, float], int]:
    """The step at which each seed's run reaches the target, and how many runs do not."""
    name, target = arguments["value"], arguments["target"]
    sign = 1 if _lower_is_better(name) else -1
    groups = _grouped(runs, arguments.get("tuned", ()))
    reached: dict[tuple[Any, ...], dict[Any, float | None]] = {}
    late = set()
    for key, own in groups.items():
        for seed, run in own.items():
            points = series_of(run, name)
            at = _first_crossing(points, sign, target)
            if at is None:
                late.add((key, seed))
                at = points[-1][0] if points else None
            reached.setdefault(key, {})[seed] = at
    steps = {}
    count = 0
    for seed in sorted({run.seed for run in runs}):
        best = _best_of_others({key: each for key, each in reached.items() if seed in each}, seed)
        if best is not None and (at := reached[best][seed]) is not None:
            steps[seed] = at
            count += (best, seed) in late
    return steps, count


def less(
    points: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """A curve minus another one, at the steps that both have."""
    at = dict(other)
    return [(step, y - at[step]) for step, y in points if step in at]


def _times(sign: float, number: float | None) -> float | None:
    return None if number is None else sign * number


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in settings.items())


def _correlations(
    stage: StageRuns, arguments: Arguments, a: str, b: str
) -> tuple[dict[Any, float], list[str]]:
    """Kendall's τ for each seed; and what is missing."""
    found, notes = {}, []
    for seed, runs in sorted(by_seed(chosen(stage, arguments.get("of", {}))).items()):
        pairs = [(number_of(run, a), number_of(run, b)) for run in runs]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if len(known) < len(runs):
            notes.append(f"seed {seed}: the correlation is of {len(known)} of {len(runs)} runs")
        tau = tau_b([x for x, _ in known], [y for _, y in known]) if len(known) > 2 else None
        if tau is not None:
            found[seed] = tau
    return found, notes


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


def _without(runs: Sequence[Trained]) -> str:
    """`a run (diverged) has`, of runs of which some have no number."""
    lost = [run.run.status for run in runs if run.is_lost]
    return f"a run ({lost[0]}) has" if lost else "a run has"


def _lower_is_better(name: str) -> bool:
    """Whether a loss; raises `UsageError` for what is neither that nor an accuracy."""
    metric = name.rpartition(".")[2]
    if metric not in _BETTER:
        raise UsageError(
            f"{name}: nothing says whether lower or higher is better",
            f"choose by one that ends in {', '.join(f'.{each}' for each in _BETTER)}",
        )
    return _BETTER[metric]


def _sides(stages: Stages, arguments: Arguments) -> list[tuple[StageRuns, list[Trained]]]:
    """The runs that each side of a statistic asks for, whether or not they ended well."""
    own = _stage(stages, arguments)
    sides = [(stages[name], arguments["of"]) for name in arguments.get("stages", ())]
    sides = sides or [(own, arguments.get("of", {}))]
    if "to" in arguments:
        to = stages[arguments["to_stage"]] if "to_stage" in arguments else own
        sides.append((to, arguments["to"]))
    return [(stage, chosen(stage, where) if stage.runs else []) for stage, where in sides]


def _refuse_no_setting(sides: list[tuple[StageRuns, list[Trained]]], arguments: Arguments) -> None:
    """Refuse a setting that no run has: it is known before the runs."""
    values = _numbers_asked(arguments)
    asked = [each.removeprefix("setting.") for each in values if each.startswith("setting.")]
    runs = [run for _, own in sides for run in own]
    for key in [*asked, *([arguments["over"]] if "over" in arguments else [])]:
        if runs and all(run.setting(key) is None for run in runs):
            raise UsageError(
                f"{key}: is no setting of these runs: {did_you_mean(key, [*runs[0].run.settings])}",
                "name a key of the sweep file",
            )


def _numbers_asked(arguments: Arguments) -> list[str]:
    """The numbers of runs that a statistic is of."""
    given = [arguments[each] for each in ("value", "other", "than") if each in arguments]
    return [*dict.fromkeys(name for e in given for name in ([e] if isinstance(e, str) else e))]


def _unsound(runs: Sequence[Trained], arguments: Arguments) -> list[str]:
    """What is to be known of measures that are neither converged nor a bound."""
    notes = []
    for key in _numbers_asked(arguments):
        states = [run.measures.get(key, {}).get("status") for run in runs]
        bad = [state for state in states if state in NOT_CONVERGED]
        if bad:
            kinds = ", ".join(dict.fromkeys(map(str, bad)))
            notes.append(
                f"{len(bad)} of {len(runs)} runs have a {key} that did not converge: {kinds}"
            )
    return notes


def _stage(stages: Stages, arguments: Arguments) -> StageRuns:
    return stages[arguments["stage"]] if "stage" in arguments else next(iter(stages.values()))
