"""How each measure goes with the generalization gap, and the measures with one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sharpcli.documents.comparison.bootstrap import (
    MOST_PAIRS,
    Resamples,
    correlation_interval,
    granulated_intervals,
    resampled,
)
from sharpcli.documents.comparison.factors import SEED, factors_of, settings_of
from sharpcli.documents.comparison.granulated import Design, granulated, signs
from sharpcli.documents.comparison.members import Member, value_of
from sharpcli.documents.comparison.ranks import kendall, pearson, smallest_p_value, tau_b
from sharpcli.documents.results import Document
from sharpcli.documents.statuses import SOUND
from sharpcli.documents.uncertainty import worst_status
from sharpcli.errors import counted, setting

__all__ = ["GAP", "agreement", "correlations"]

GAP = "loss.gap"
_FEWEST = 4  # correlated checkpoints: three have no p-value below 1/3


def correlations(
    members: Sequence[Member], by: Sequence[str], within: Sequence[str]
) -> tuple[list[Document], list[str]]:
    """Kendall, Pearson and granulated Kendall of every measure with the gap, and notes on them.

    Test values and gaps are left out, because the gap is computed from them.
    """
    having_gap = [member for member in members if value_of(member, GAP) is not None]
    n = len(having_gap)
    if n < _FEWEST:
        found = (
            f"{n} of these {counted(len(members), 'checkpoint')} {'has' if n == 1 else 'have'} one"
        )
        return [], [
            "no rank correlations with the generalization gap (test loss minus training loss): "
            f"they need {_FEWEST} checkpoints with a gap, but {found}"
        ]
    keys = _compared(having_gap)
    factors, held = _factors(members, by, within)
    resamples: dict[tuple[int, ...], tuple[Resamples, Resamples]] = {}
    designs: dict[tuple[int, ...], Design] = {}
    rows = []
    for key in keys:
        having = tuple(i for i, m in enumerate(having_gap) if value_of(m, key) is not None)
        if len(having) < _FEWEST:
            continue
        chosen = [having_gap[index] for index in having]
        if having not in designs:
            settings = settings_of(chosen, [*factors, *held])
            designs[having] = Design.of(settings, factors, held)
            of_factors = [tuple(row[factor] for factor in factors) for row in settings]
            single = range(len(chosen))
            units = of_factors if factors else single
            resamples[having] = resampled(units, len(keys)), resampled(single, len(keys))
        rows.append(_correlation(key, chosen, designs[having], *resamples[having]))
    notes = [
        f"rank correlations are over {n} checkpoints: the smallest possible p-value is "
        f"{smallest_p_value(n):.2g}, and each p is for one measure alone"
    ]
    return rows, [*notes, *_about(rows, by, factors, held)]


def agreement(members: Sequence[Member]) -> Document | None:
    """Kendall's tau-b of each pair of measures, as a matrix; None for fewer than four checkpoints.

    Test values and gaps are left out, as are measures that fewer than four checkpoints have.
    """
    values = {key: [value_of(member, key) for member in members] for key in _compared(members)}
    keys = [key for key, row in values.items() if sum(v is not None for v in row) >= _FEWEST]
    if len(keys) < 2:
        return None
    taus: list[list[float | None]] = [[None] * len(keys) for _ in keys]
    for i, one in enumerate(keys):
        for j, other in enumerate(keys[: i + 1]):
            both = [
                (a, b)
                for a, b in zip(values[one], values[other], strict=True)
                if a is not None and b is not None
            ]
            if len(both) >= _FEWEST:
                taus[i][j] = taus[j][i] = tau_b([a for a, _ in both], [b for _, b in both])
    return {"measures": keys, "tau": taus}


def _compared(members: Sequence[Member]) -> list[str]:
    keys = dict.fromkeys(key for member in members for key in member.scalars)
    return [key for key in keys if not key.endswith((".test", ".gap"))]


def _factors(
    members: Sequence[Member], by: Sequence[str], within: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The factors, and the keys that agree in every compared pair: `within`, or else the seed."""
    factors = factors_of(members, by, within)
    held = [*within] if within else [SEED]
    return factors, [key for key in held if key not in factors]


def _correlation(
    key: str, members: Sequence[Member], design: Design, resamples: Resamples, runs: Resamples
) -> Document:
    x, y = ([float(m.scalars[name]["value"]) for m in members] for name in (key, GAP))
    statuses = [m.scalars[name]["status"] for m in members for name in (key, GAP)]
    found = {
        "measure": key,
        "with": GAP,
        **asdict(kendall(x, y)),
        "status": worst_status([each for each in statuses if each not in SOUND]),
        "tau_interval": correlation_interval(tau_b, x, y, resamples),
        "pearson": pearson(x, y),
        "pearson_interval": correlation_interval(pearson, x, y, resamples),
        "resampled": resamples.of,
        "resamples": len(resamples.draws),
    }
    by_factors = _granulated(x, y, design, runs)
    return {**found, "granulated": by_factors} if by_factors else found


def _granulated(
    x: Sequence[float], y: Sequence[float], design: Design, resamples: Resamples
) -> Mapping[str, Any] | None:
    value = granulated(x, y, design)
    if value is None:
        return None
    interval, intervals = None, dict.fromkeys(value.factors)
    if design.pairs <= MOST_PAIRS:
        pairs = signs(x, y, design)
        interval, intervals = granulated_intervals(pairs, value.factors, value.value, resamples)
    return {
        "value": value.value,
        "interval": interval,
        "factors": {
            factor: {
                "value": psi,
                "interval": intervals[factor],
                "settings": value.settings[factor],
            }
            for factor, psi in value.factors.items()
        },
    }


def _about(
    rows: Sequence[Document], by: Sequence[str], factors: Sequence[str], held: Sequence[str]
) -> list[str]:
    """What the granulated coefficients compare, or why there are none."""
    if not rows or not factors:
        return []
    used = dict.fromkeys(
        f for row in rows for f in (row.get("granulated") or {}).get("factors", ())
    )
    same = f" with the same {', '.join(held)}" if held else ""
    if used:
        return [
            f"granulated Kendall: over {', '.join(used)}, comparing runs{same} that differ in one "
            "of them"
        ]
    return [
        f"no granulated Kendall: no two checkpoints{same} differ in only one of "
        f"{', '.join(factors)}" + ("" if by else f"; name the factors with `{setting('by', '…')}`")
    ]
