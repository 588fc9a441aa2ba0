"""ε-sharpness of the large network: both of our maximisers against SciPy's L-BFGS-B alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ascents import Ascent, Box, scipy_raw, scipy_scaled
from paired import in_turns, ratio
from problem import Problem, Setting, objective
from report import Bar, Section
from sharpcli.settings.measuring import MeasureSettings

from sharpcli.measures.context import Context
from sharpcli.measures.epsilon_sharpness import epsilon_sharpness

NAME = "epsilon_sharpness"
_EPSILON = 1e-3
_BAR = 0.5
_OURS = "sharp, both maximisers"
_SCALED = ("SciPy, −L/L₀", "SciPy, −log L")


def ours(problem: Problem, epsilon: float) -> dict[str, Any]:
    """Our measure, objective and all."""
    built, theta = objective(problem)
    settings = MeasureSettings(epsilons=(epsilon,))
    found: dict[str, Any] = epsilon_sharpness(Context(built, {"train": built}, theta, settings))
    return found["epsilon_sharpness"][0]


def run(setting: Setting) -> Section:
    problem = setting.main_problem()

    def scipy(solve: Callable[[Box], Ascent]) -> Ascent:
        built, theta = objective(problem)
        return solve(Box(built, theta, _EPSILON))

    rivals = {
        _OURS: lambda: ours(problem, _EPSILON),
        _SCALED[0]: lambda: scipy(lambda box: scipy_scaled(box, "linear")),
        _SCALED[1]: lambda: scipy(lambda box: scipy_scaled(box, "log")),
        "SciPy, −L as written (raw)": lambda: scipy(scipy_raw),
    }
    timed = in_turns(rivals, setting.repeats)
    mine = timed[_OURS]
    start = mine.result["loss"]
    section = Section(
        NAME,
        "ε-sharpness of the large network",
        f"φ at ε = {_EPSILON:g} of {problem.name} (training loss {problem.loss:.2g}), from model "
        "and data in memory. SciPy's L-BFGS-B (10 iterations, memory 10, float64 as it demands) "
        "climbs the same scaled problem, on −L/L₀ and on −log L, and for information the problem "
        "as it is written, driven by our gradient; ours runs both of its maximisers. "
        f"{setting.repeats} rounds.",
    )
    by = ", ".join(f"{name} {value:.4g}" for name, value in mine.result["by_maximizer"].items())
    rows = [
        (
            _OURS,
            mine.spread(),
            "1",
            f"{mine.result['value']:.4g} ({by})",
            str(mine.result["evaluations"]),
            "",
        )
    ]
    worst = 0.0
    for name, it in timed.items():
        if name == _OURS:
            continue
        found = it.result
        outside = 1 - found.inside / found.seconds
        phi = found.sharpness(start)
        worst = max(worst, phi)
        share = ratio(mine, it)
        rows.append(
            (
                name,
                it.spread(),
                str(share),
                f"{phi:.4g}",
                str(found.evaluations),
                f"{outside:.0%}",
            )
        )
        if name not in _SCALED:
            continue
        bar = Bar(f"our seconds by {name}", str(share), f"≤ {_BAR:g}", share.median <= _BAR)
        section.bars.append(bar)
    header = ("", "seconds", "ours by it", "φ", "gradients", "outside the gradient")
    section.tables.append(("Time and maximum", header, rows))
    value = mine.result["value"]
    seen = f"{value:.5g} against {worst:.5g}"
    section.bars.append(
        Bar("our φ against the best of SciPy's", seen, "not smaller", value >= worst)
    )
    return section
