"""Statistics of how a number goes with a setting: slopes, and where they change their sign."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sharpcli.documents.claims.runs import StageRuns, by_seed, chosen, number_of
from sharpcli.documents.claims.statistics.per_seed import Arguments, PerSeed, Stages, stage_of

__all__ = [
    "crossing_ratio",
    "least_squares_line",
    "slope",
    "slope_difference",
    "slopes_by_seed",
]


def slope(stages: Stages, arguments: Arguments) -> PerSeed:
    """How much `value` rises for each factor of two in the setting `over`, by least squares.

    `of` chooses the runs. With `log` it is the logarithm of the value that rises, to base 2.
    """
    found, notes = _slopes(stage_of(stages, arguments), arguments["of"], arguments)
    return PerSeed(found, notes=notes)


def slope_difference(stages: Stages, arguments: Arguments) -> PerSeed:
    """The slope of the runs `of`, minus that of the runs `to`."""
    stage = stage_of(stages, arguments)
    own, notes = _slopes(stage, arguments["of"], arguments)
    other, more = _slopes(stage, arguments["to"], arguments)
    return PerSeed(
        {seed: own[seed] - other[seed] for seed in own if seed in other}, notes=[*notes, *more]
    )


def crossing_ratio(stages: Stages, arguments: Arguments) -> PerSeed:
    """`crossing`, over the value of `along` at which a run's own `to_value` equals it.

    With `along` the batch size and `to_value` the critical one, this is where a batch is critical.
    It is the place where a line of log2(`to_value` / `along`) over log2 of `along` is 0.
    """
    stage, along = stage_of(stages, arguments), arguments["along"]
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
    line = least_squares_line(points)
    return None if line is None else line[2]


def least_squares_line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float] | None:
    """The least-squares line: a place, its height there, and its slope."""
    if len({x for x, _ in points}) < 2:
        return None
    middle = math.fsum(x for x, _ in points) / len(points)
    slope = math.fsum((x - middle) * y for x, y in points) / math.fsum(
        (x - middle) ** 2 for x, _ in points
    )
    return middle, math.fsum(y for _, y in points) / len(points), slope
