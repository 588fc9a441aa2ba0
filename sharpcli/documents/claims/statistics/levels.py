"""Statistics of a number of the runs: levels, their differences and ratios, where they drop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sharpcli.documents.claims.runs import StageRuns, Trained, by_seed, chosen, number_of
from sharpcli.documents.claims.statistics.choices import tuned
from sharpcli.documents.claims.statistics.per_seed import (
    Arguments,
    PerSeed,
    Stages,
    loss_text,
    lower_is_better,
    stage_of,
)

__all__ = ["count_above", "difference", "ratio", "value", "worse_from"]


def ratio(stages: Stages, arguments: Arguments) -> PerSeed:
    """`value` of the runs `of`, over that of the runs `to`."""
    return _compared(stages, arguments, logarithmic=True)


def difference(stages: Stages, arguments: Arguments) -> PerSeed:
    """`value` of the runs `of`, minus that of the runs `to`."""
    return _compared(stages, arguments, logarithmic=False)


def value(stages: Stages, arguments: Arguments) -> PerSeed:
    """`value` of the runs `of`; with `log` it is averaged over seeds as its logarithm."""
    logarithmic = bool(arguments.get("log", False))
    levels, notes = levels_of(stage_of(stages, arguments), arguments["of"], arguments, logarithmic)
    return PerSeed(levels, logarithmic, notes)


def count_above(stages: Stages, arguments: Arguments) -> PerSeed:
    """How many numbers of the list `value` of the runs `of` are above `factor` times those of `to`.

    The list is a measure's, such as `hessian.eigenvalues`; of the runs `to` the largest counts.
    `factor` is 1 by default. Of several runs of a seed the mean is taken.
    """
    stage = stage_of(stages, arguments)
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
    stage = stage_of(stages, arguments)
    sign = 1.0 if lower_is_better(arguments["value"]) else -1.0
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


def _listed(run: Trained, value: str) -> list[float]:
    """The numbers of a list among a run's measures: `value[0]`, `value[1]`, and so on."""
    found: list[float] = []
    while (number := number_of(run, f"{value}[{len(found)}]")) is not None:
        found.append(number)
    return found


def _compared(stages: Stages, arguments: Arguments, *, logarithmic: bool) -> PerSeed:
    stage = stage_of(stages, arguments)
    to = stages[arguments["to_stage"]] if "to_stage" in arguments else stage
    own, notes = levels_of(stage, arguments["of"], arguments, logarithmic)
    other, more = levels_of(to, arguments["to"], arguments, logarithmic)
    both = {seed: own[seed] - other[seed] for seed in own if seed in other}
    return PerSeed(both, logarithmic, [*notes, *more])


def levels_of(
    stage: StageRuns, where: Mapping[str, Any], arguments: Arguments, logarithmic: bool
) -> tuple[dict[Any, float], list[str]]:
    """The value for each seed, averaged over its chosen runs; and what is missing."""
    runs = chosen(stage, where)
    if "tuned" in arguments:
        groups = {seed: [run] for seed, run in tuned(runs, arguments).items()}
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
                f"seed {seed}: {loss_text(own)} no {arguments['value']}{said}, and is left out"
            )
            continue
        each = [math.log(x) for x in known] if logarithmic else known
        levels[seed] = math.fsum(each) / len(each)
    return levels, notes
