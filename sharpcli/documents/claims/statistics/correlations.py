"""Statistics of ranks: how a measure goes with another number over the runs of a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sharpcli.documents.claims.runs import StageRuns, by_seed, chosen, number_of
from sharpcli.documents.claims.statistics.per_seed import Arguments, PerSeed, Stages, stage_of
from sharpcli.documents.comparison.granulated import Design, granulated
from sharpcli.documents.comparison.ranks import tau_b

__all__ = [
    "granulated_correlation",
    "granulated_correlation_difference",
    "rank_correlation",
    "rank_correlation_difference",
]


def rank_correlation(stages: Stages, arguments: Arguments) -> PerSeed:
    """Kendall's τ between `value` and `other` over the runs of each seed."""
    stage = stage_of(stages, arguments)
    found, notes = _correlations(stage, arguments, arguments["value"], arguments["other"])
    return PerSeed(found, notes=notes)


def rank_correlation_difference(stages: Stages, arguments: Arguments) -> PerSeed:
    """|τ| of `value` with `other`, minus |τ| of `value` with `than`, over the runs of each seed."""
    stage = stage_of(stages, arguments)
    own, notes = _correlations(stage, arguments, arguments["value"], arguments["other"])
    than, more = _correlations(stage, arguments, arguments["value"], arguments["than"])
    both = {seed: abs(own[seed]) - abs(than[seed]) for seed in own if seed in than}
    return PerSeed(both, notes=[*dict.fromkeys([*notes, *more])])


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


def _granulated(
    stages: Stages, arguments: Arguments, values: str | Sequence[str]
) -> tuple[dict[Any, float], list[str]]:
    """The granulated coefficient for each seed, averaged over several values."""
    names = [values] if isinstance(values, str) else list(values)
    factors, found, notes = arguments["factors"], {}, []
    runs = chosen(stage_of(stages, arguments), arguments.get("of", {}))
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
