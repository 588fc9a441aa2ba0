"""Statistics of courses: steps to a level, how long a gain lasts, where a curve stays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sharpcli.documents.claims.runs import Trained, by_seed, chosen, number_of, series_of
from sharpcli.documents.claims.statistics.choices import best_of_others, grouped, picked
from sharpcli.documents.claims.statistics.per_seed import (
    Arguments,
    PerSeed,
    Stages,
    lower_is_better,
    settings_text,
    stage_of,
)
from sharpcli.documents.claims.statistics.slopes import least_squares_line
from sharpcli.documents.scoring.statistics import median

__all__ = [
    "half_life_ratio",
    "highest",
    "length_ratio",
    "less",
    "rise",
    "rise_ratio",
    "share_within",
    "target_ratio",
]


def length_ratio(stages: Stages, arguments: Arguments) -> PerSeed:
    """The length of a training `of` that ends at the final `value` of the runs `to`, over theirs.

    Each of `stages` trains for another number of steps, so that a schedule ends with its training.
    The length is where the least-squares line of the final values over the logarithm of the length
    meets the level. The line goes on beyond the lengths: a ratio that stops at the longest would
    be cut off, and then confirmed to be below it without an effect.
    """
    by_length = [picked(stages[name], arguments, "of") for name in arguments["stages"]]
    other = picked(stages[arguments["to_stage"]], arguments, "to")
    name, logs, notes, outside = arguments["value"], {}, [], 0
    sign = 1 if lower_is_better(name) else -1
    for seed, to in sorted(other.items()):
        ends = []
        for run in (runs[seed] for runs in by_length if seed in runs):
            end = number_of(run, name)
            if run.updates and end is not None:
                ends.append((math.log(run.updates), end))
        level, line = number_of(to, name), least_squares_line(ends)
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
    stage, notes, sides = stage_of(stages, arguments), [], []
    for side in ("of", "to"):
        steps, late = _arrivals(chosen(stage, arguments[side]), arguments)
        sides.append(steps)
        if late:
            notes.append(
                f"{late} of {len(steps)} runs of {settings_text(arguments[side])} do not reach "
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
    stage, minus = stage_of(stages, arguments), stages[arguments["minus"]]
    notes, sides = [], []
    for side in ("of", "to"):
        own, other = (
            {run.seed: series_of(run, arguments["value"]) for run in chosen(each, arguments[side])}
            for each in (stage, minus)
        )
        found, kept = {}, 0
        for seed in sorted({*own} & {*other}):
            sign = -1 if lower_is_better(arguments["value"]) else 1
            gains = [(step, sign * y) for step, y in less(own[seed], other[seed])]
            step, best = max(gains, key=lambda each: each[1], default=(0.0, 0.0))
            if best <= 0:
                notes.append(f"seed {seed}: {settings_text(arguments[side])} gain nothing")
                continue
            end = _first_crossing([each for each in gains if each[0] >= step], 1, best / 2)
            kept += end is None
            found[seed] = gains[-1][0] if end is None else end
        sides.append(found)
        if kept:
            notes.append(
                f"{kept} of {len(found)} runs of {settings_text(arguments[side])} keep more than "
                "half of their gain to the end, and count with all their steps"
            )
    own_life, other_life = sides
    logs = {
        seed: math.log(own_life[seed] / other_life[seed])
        for seed in own_life
        if other_life.get(seed, 0) > 0
    }
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


def rise_ratio(stages: Stages, arguments: Arguments) -> PerSeed:
    """How much the loss rises around the end b of a line, over how much it does around the end a.

    The rise is the mean of those at the two places `distance` away from the end, on both sides, as
    a share of the line. `split` is "train" by default.
    """
    logs, notes = {}, []
    distance, split = arguments["distance"], arguments.get("split", "train")
    for line in stage_of(stages, arguments).lines:
        at = dict(zip(line.coordinates, line.curves[split]["loss"], strict=True))
        a, b = (_rise(at, end, distance) for end in (0.0, 1.0))
        if a is None or b is None:
            notes.append(f"seed {line.seed}: the line has no loss at one of the places")
        elif a <= 0 or b <= 0:
            notes.append(f"seed {line.seed}: the loss does not rise around an end, and is left out")
        else:
            logs[line.seed] = math.log(b / a)
    return PerSeed(logs, logarithmic=True, notes=notes)


def _rise(at: Mapping[float, float | None], end: float, distance: float) -> float | None:
    """The mean of a curve at `end` ± `distance`, minus that at `end`; None where it has a gap."""
    places = (end - distance, end, end + distance)
    # Places are computed, so that they agree up to rounding.
    found = [y for place in places for x, y in at.items() if math.isclose(x, place, abs_tol=1e-9)]
    known = [y for y in found if y is not None]
    return (known[0] + known[2]) / 2 - known[1] if len(known) == len(places) else None


def _arrivals(runs: Sequence[Trained], arguments: Arguments) -> tuple[dict[Any, float], int]:
    """The step at which each seed's run reaches the target, and how many runs do not."""
    name, target = arguments["value"], arguments["target"]
    sign = 1 if lower_is_better(name) else -1
    groups = grouped(runs, arguments.get("tuned", ()))
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
        best = best_of_others({key: each for key, each in reached.items() if seed in each}, seed)
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


def _of_courses(
    stages: Stages,
    arguments: Arguments,
    number: Callable[[Sequence[tuple[float, float]]], float | None],
    *,
    logarithmic: bool,
) -> PerSeed:
    """A number of the course of `value`, averaged over the chosen runs of each seed."""
    levels, notes = {}, []
    runs = chosen(stage_of(stages, arguments), arguments["of"])
    for seed, own in sorted(by_seed(runs).items()):
        numbers = [number(series_of(run, arguments["value"])) for run in own]
        known = [each for each in numbers if each is not None]
        if len(known) < len(numbers):
            notes.append(f"seed {seed}: a run has no {arguments['value']}, and is left out")
        if known:
            levels[seed] = math.fsum(known) / len(known)
    return PerSeed(levels, logarithmic, notes)


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
