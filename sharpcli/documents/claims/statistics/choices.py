"""Settings that are chosen by runs: each seed's by the next seed, and what a choice costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sharpcli.documents.claims.runs import StageRuns, Trained, by_seed, chosen, number_of
from sharpcli.documents.claims.statistics.per_seed import (
    Arguments,
    PerSeed,
    Stages,
    lower_is_better,
    stage_of,
    times,
)
from sharpcli.errors import UsageError

__all__ = ["best_of_others", "best_settings", "cost_of_choice", "grouped", "picked", "tuned"]

# By the values of settings, and by seed; smaller is better.
Scores = Mapping[tuple[Any, ...], Mapping[Any, float | None]]


def cost_of_choice(stages: Stages, arguments: Arguments) -> PerSeed:
    """How much worse `value` is with the settings that are best in another stage.

    The settings are those of `by`: those that are best in the stage `chosen_in` are compared with
    those that are best in the stage itself, in that stage. Best is the best mean over the other
    seeds. With `tuned` each stage has its own values of these other settings.
    """
    stage, elsewhere = stage_of(stages, arguments), stages[arguments["chosen_in"]]
    here, there = _choices(stage, arguments), _choices(elsewhere, arguments)
    found, notes, same = {}, [], 0
    for seed in sorted({*stage.seeds} & {*elsewhere.seeds}):
        own, foreign = (best_of_others(each, seed) for each in (here, there))
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


def picked(stage: StageRuns, arguments: Arguments, side: str) -> dict[Any, Trained]:
    """One run for each seed, tuned where that is asked for."""
    runs = chosen(stage, arguments[side])
    if "tuned" in arguments:
        return tuned(runs, arguments)
    groups = by_seed(runs)
    if any(len(own) > 1 for own in groups.values()):
        raise UsageError(
            f"stage {stage.name}: several runs of a seed have {dict(arguments[side])}",
            'name more settings, or those to choose: tuned = ["lr"]',
        )
    return {seed: own[0] for seed, own in groups.items()}


def tuned(runs: Sequence[Trained], arguments: Arguments) -> dict[Any, Trained]:
    """For each seed its run with the settings that are best for the next seed.

    The first seed chooses for the last. Settings that fail for some other seed are worse than any
    that do not. If all other seeds chose, their choices would be nearly the same for all, and the
    interval over seeds would not know how uncertain these are: of 20 seeds with eight settings that
    are equally good, 15 of 100 intervals were above no effect, and as many below it. With halves of
    the seeds that choose for each other, 8 of 100 were; with one seed for each, at most 5.
    """
    by = arguments.get("tuned_by", arguments["value"])
    sign = 1.0 if lower_is_better(by) else -1.0
    groups = grouped(runs, arguments["tuned"])
    scores = {
        key: {seed: times(sign, number_of(run, by)) for seed, run in own.items()}
        for key, own in groups.items()
    }
    picked = {}
    for seed in sorted({run.seed for run in runs}):
        key = best_of_others({key: each for key, each in scores.items() if seed in each}, seed)
        if key is not None:
            picked[seed] = groups[key][seed]
    return picked


def best_settings(runs: Sequence[Trained], keys: Sequence[str], value: str) -> list[Trained]:
    """Of these runs those with the settings whose mean `value` over all seeds is best."""
    sign = 1.0 if lower_is_better(value) else -1.0
    groups = grouped(runs, keys)
    scores = {
        key: {seed: times(sign, number_of(run, value)) for seed, run in own.items()}
        for key, own in groups.items()
    }
    best = best_of_others(scores, None)
    return [] if best is None else [*groups[best].values()]


def grouped(
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


def best_of_others(scores: Scores, seed: Any) -> tuple[Any, ...] | None:
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
    sign = 1.0 if lower_is_better(name) else -1.0
    scores: dict[tuple[Any, ...], dict[Any, float | None]] = {}
    runs: dict[tuple[Any, ...], list[Trained]] = {}
    for run in chosen(stage, arguments.get("of", {})):
        runs.setdefault(tuple(run.setting(key) for key in by), []).append(run)
    for key, own in runs.items():
        picked = tuned(own, arguments) if "tuned" in arguments else {run.seed: run for run in own}
        scores[key] = {seed: times(sign, number_of(run, name)) for seed, run in picked.items()}
    return scores
