"""The statistics that decide claims: each is one number a seed.

A statistic takes the stages of an experiment and the claim's arguments. `of` and `to` are settings
that choose runs. Where several runs of a seed are chosen, their mean counts, of a ratio the
geometric one; with `tuned` it is the run with the best values of these settings, chosen by the
next seed, so that the choice does not flatter the seed that is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sharpcli.documents.claims.runs import StageRuns, Trained, chosen
from sharpcli.documents.claims.statistics.choices import cost_of_choice
from sharpcli.documents.claims.statistics.correlations import (
    granulated_correlation,
    granulated_correlation_difference,
    rank_correlation,
    rank_correlation_difference,
)
from sharpcli.documents.claims.statistics.courses import (
    half_life_ratio,
    highest,
    length_ratio,
    rise,
    rise_ratio,
    share_within,
    target_ratio,
)
from sharpcli.documents.claims.statistics.levels import (
    count_above,
    difference,
    ratio,
    value,
    worse_from,
)
from sharpcli.documents.claims.statistics.per_seed import Arguments, PerSeed, Stages, stage_of
from sharpcli.documents.claims.statistics.slopes import (
    crossing_ratio,
    slope,
    slope_difference,
)
from sharpcli.documents.statuses import NOT_CONVERGED
from sharpcli.errors import UsageError, did_you_mean

__all__ = ["STATISTICS", "compute_statistic"]

STATISTICS: dict[str, Callable[[Stages, Arguments], PerSeed]] = {
    each.__name__: each
    for each in (
        ratio,
        difference,
        value,
        slope,
        slope_difference,
        crossing_ratio,
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


def _sides(stages: Stages, arguments: Arguments) -> list[tuple[StageRuns, list[Trained]]]:
    """The runs that each side of a statistic asks for, whether or not they ended well."""
    own = stage_of(stages, arguments)
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
