"""Policies against their published formulas, and batch growth at the noise scale of a decay."""

from __future__ import annotations

import itertools
import sys
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from problem import Setting
from report import Bar, Section

from sharpcli.training.noise_scale import Plan, as_batch_size, default_max_batch
from sharpcli.training.policies import POLICIES
from sharpcli.training.schedules import parse_schedule

sys.path.append(str(Path(__file__).parents[1] / "support"))

from published_policies import PUBLISHED

NAME = "schedules"
_STEPS, _EXAMPLES = 1000, 50_000
_EXACT, _CLOSE = 1e-12, 0.01
# A rate that decays, and the updates of its rewriting from a batch of 128 by hand: runs of equal
# batches N/(1 + g/η), each as many as see its share of the examples.
_STEPPED, _BY_HAND = "0.1:300, 0.02:300, 0.004:300", 300 + 61 + 13
_DECAYS = (
    _STEPPED,
    "cosine(0.1, steps=1000, warmup=100)",
    "EXP(k0=0.1, gamma=0.995)",
    "POLY(k0=0, k1=0.1, p=1.2, l=1000)",
    "TRI2(k0=0.001, k1=0.1, l=100)",
    "wsd(0.1, steps=1000, decay=300, warmup=50)",
)


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Schedules",
        f"Each policy at {_STEPS:,} steps against its published formula, written out apart from "
        "the package. Decaying rates rewritten as growing batches on "
        f"{_EXAMPLES:,} examples: the noise scale g = η(N/B−1), with momentum ηN/(B(1−m)), of each "
        "update against that of the decay after the same examples.",
    )
    steps = 100 if setting.quick else _STEPS
    section.bars.append(_policies(section, steps))
    section.bars += _growing(section, setting.quick)
    return section


def _policies(section: Section, steps: int) -> Bar:
    worst: dict[str, float] = {}
    for spec, published in PUBLISHED.items():
        schedule = parse_schedule(spec)
        off = max(abs(schedule.at(t) - published(t)) for t in range(steps))
        worst[schedule.parts[0].policy] = off
    rows = [(name, POLICIES[name].formula, f"{off:.1e}") for name, off in worst.items()]
    section.tables.append(("Policies", ("policy", "formula", "largest difference"), rows))
    met = max(worst.values()) <= _EXACT and set(worst) == set(POLICIES)
    seen = f"{max(worst.values()):.1e} over {len(worst)} of {len(POLICIES)}"
    return Bar("policies by their formulas", seen, f"≤ {_EXACT:g}, all", met)


def _growing(section: Section, quick: bool) -> list[Bar]:
    rows, farthest = [], 0.0
    for spec in _DECAYS[:2] if quick else _DECAYS:
        for batch, momentum in itertools.product((8, 128, 1000), (0.0, 0.9)):
            schedule = parse_schedule(spec)
            steps = 900 if spec == _STEPPED else _STEPS
            old = Plan([schedule.at(t) for t in range(steps)], [batch] * steps, momentum)
            new = as_batch_size(old, _EXAMPLES, default_max_batch(old, _EXAMPLES))
            off = _farthest(old, new)
            farthest = max(farthest, off)
            growth = f"{batch} → {max(new.batch_size)}"
            rows.append((spec, growth, f"{momentum:g}", f"{len(new.lr)}/{steps}", f"{off:.2%}"))
    section.tables.append(
        ("Batch growth", ("rate", "batch", "momentum", "updates", "noise scale off by"), rows)
    )
    schedule = parse_schedule(_STEPPED)
    old = Plan([schedule.at(t) for t in range(900)], [128] * 900)
    updates = len(as_batch_size(old, _EXAMPLES, 5000).lr)
    return [
        Bar(
            "noise scale at every update",
            f"{farthest:.2%} off",
            f"≤ {_CLOSE:.0%}",
            farthest <= _CLOSE,
        ),
        Bar("updates, batch 128", str(updates), f"{_BY_HAND} by hand", updates == _BY_HAND),
    ]


def _farthest(old: Plan, new: Plan) -> float:
    """How far an update's noise scale is at most from that of `old` after the same examples."""
    ends = [*itertools.accumulate(old.batch_size)]
    before = [0, *itertools.accumulate(new.batch_size)]
    wanted, found = _noise(old), _noise(new)
    pairs = [(g, wanted[bisect_right(ends, seen)]) for g, seen in zip(found, before, strict=False)]
    return max(abs(g - asked) / asked if asked else g for g, asked in pairs)


def _noise(plan: Plan) -> Sequence[float]:
    """The published formulas, written out once more."""
    n, m = _EXAMPLES, plan.momentum
    pairs = zip(plan.lr, plan.batch_size, strict=True)
    return [lr * n / (b * (1 - m)) if m else lr * (n / b - 1) for lr, b in pairs]
