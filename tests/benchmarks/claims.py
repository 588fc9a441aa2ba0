"""Verdicts on simulated sweeps with a known effect and with none."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

from problem import Setting
from report import Bar, Section

from sharpcli.documents.claims.conclusions import claim_result
from sharpcli.documents.claims.statistics import STATISTICS

sys.path.append(str(Path(__file__).parents[1] / "support"))

from simulated_claims import SEEDS, SIMULATIONS, WITHOUT_EFFECT, simulated

NAME = "claims"
_SWEEPS = 1000
_EFFECT = 2.5  # standard deviations of what one seed says
_RIGHT, _FALSE = 0.90, 0.05


def run(setting: Setting) -> Section:
    sweeps = 50 if setting.quick else _SWEEPS
    section = Section(
        NAME,
        "Verdicts on simulated sweeps",
        f"For each statistic {sweeps:,} sweeps of {SEEDS} seeds with an effect of {_EFFECT} "
        f"standard deviations of what one seed says, and {sweeps:,} without: shares of verdicts. "
        "Rates are tuned in both. Without an effect a range is missed by its edge: the level is "
        "where half of the intervals would be centred outside.",
    )
    rows = []
    for name in STATISTICS:
        with_effect, without = (
            Counter(
                claim_result(claim, made).verdict
                for index in range(sweeps)
                for made, claim in [simulated(name, random.Random(f"{name}{index}"), effect)]
            )
            for effect in (_EFFECT, 0.0)
        )
        right, false = with_effect["confirmed"] / sweeps, without["confirmed"] / sweeps
        rows.append(
            (
                name.replace("_", " "),
                f"{100 * right:.1f} %",
                f"{100 * with_effect['reversed'] / sweeps:.1f} %",
                f"{100 * false:.1f} %",
                f"{100 * without['reversed'] / sweeps:.1f} %",
            )
        )
        section.bars += [
            Bar(
                f"{name.replace('_', ' ')}: confirmed with the effect",
                f"{100 * right:.1f} of 100",
                f"≥ {100 * _RIGHT:.0f}",
                right >= _RIGHT,
            ),
            Bar(
                f"{name.replace('_', ' ')}: confirmed without it",
                f"{100 * false:.1f} of 100",
                f"≤ {100 * _FALSE:.0f}",
                false <= _FALSE,
            ),
        ]
    header = ("statistic", "confirmed", "reversed", "without: confirmed", "without: reversed")
    section.tables.append(("", header, rows))
    rows = []
    for title, make in WITHOUT_EFFECT.items():
        found = Counter(
            claim_result(claim, made).verdict
            for index in range(sweeps)
            for made, claim in [make(random.Random(f"{title}{index}"))]
        )
        false = found["confirmed"] / sweeps
        rows.append((title, f"{100 * false:.1f} %", f"{100 * found['reversed'] / sweeps:.1f} %"))
        section.bars.append(
            Bar(
                f"{title}: confirmed without an effect",
                f"{100 * false:.1f} of 100",
                f"≤ {100 * _FALSE:.0f}",
                false <= _FALSE,
            )
        )
    section.tables.append(
        ("What could flatter a claim", ("without an effect", "confirmed", "reversed"), rows)
    )
    missing = [*{*STATISTICS} - {*SIMULATIONS}]
    section.bars.append(Bar("statistics without a simulation", str(len(missing)), "0", not missing))
    return section
