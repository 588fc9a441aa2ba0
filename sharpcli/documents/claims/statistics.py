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
from sharpcli.documents.comparison.ranks import tau_b
from sharpcli.documents.statuses import NOT_CONVERGED
from sharpcli.errors import UsageError, did_you_mean

__all__ = ["STATISTICS", "PerSeed", "Stages", "compute_statistic"]

# Metrics of which it is known whether lower is better.
_BETTER = {"loss": True, "accuracy": False}

Stages = Mapping[str, StageRuns]
Arguments = Mapping[str, Any]


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
            # A mean of the others would be of other settings than that of the other seeds.
            said = " above 0" if logarithmic else ""
            notes.append(
                f"seed {seed}: {_without(own)} no {arguments['value']}{said}, and is left out"
            )
            continue
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
        if len(points) < len(runs):
            notes.append(f"seed {seed}: the slope is of {len(points)} of {len(runs)} runs")
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
    """For each seed its run with the settings that are best for the next seed.

    The first seed chooses for the last. Settings that fail for some other seed are worse than any
    that do not. If all other seeds chose, their choices would be nearly the same for all, and the
    interval over seeds would not know how uncertain these are: of 20 seeds with eight settings that
    are equally good, 15 of 100 intervals were above no effect, and as many below it. With halves of
    the seeds that choose for each other, 8 of 100 were; with one seed for each, at most 5.

    Raises:
        UsageError: several runs of a seed have the same settings.
    """
    by = arguments.get("tuned_by", arguments["value"])
    sign = 1.0 if _lower_is_better(by) else -1.0
    groups: dict[tuple[Any, ...], dict[Any, Trained]] = {}
    for run in runs:
        key = tuple(run.setting(name) for name in arguments["tuned"])
        own = groups.setdefault(key, {})
        if run.seed in own:
            raise UsageError(
                f"tuned = {arguments['tuned']}: several runs of a seed have the same of these, "
                f"such as {own[run.seed].run.name} and {run.run.name}",
                "name more settings in of and to, or in tuned",
            )
        own[run.seed] = run
    picked = {}
    seeds = sorted({run.seed for run in runs})
    for place, seed in enumerate(seeds):
        best: tuple[tuple[int, float], Trained] | None = None
        for own in groups.values():
            numbers = {
                other: number_of(own[other], by) if other in own else None
                for other in seeds
                if other != seed
            }
            failed = sum(number is None for number in numbers.values())
            found = numbers.get(seeds[(place + 1) % len(seeds)])
            score = failed, math.inf if found is None else sign * found
            if seed in own and numbers and (best is None or score < best[0]):
                best = score, own[seed]
        if best is not None:
            picked[seed] = best[1]
    return picked


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
