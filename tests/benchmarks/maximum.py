"""How much of the maximum ε-sharpness finds, on minima of every depth."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator

import torch
from ascents import Ascent, Box, random_starts, scipy_raw, scipy_scaled
from epsilon_sharpness import ours
from problem import Problem, Setting, digits, epochs_of_adam, objective, relu_mlp
from report import Bar, Section
from sharpcli.settings.measuring import MeasureSettings

from sharpcli.measures.context import Context
from sharpcli.measures.epsilon_sharpness import epsilon_sharpness

NAME = "maximum"
_EPSILON = 1e-3
_TARGETS = tuple(10.0**-power for power in range(1, 8))
_SCIPY_BAR, _RESTART_BAR, _RAW_BAR = 0.99, 0.95, 1e-6
# Training that has not come down to the last target by then stops there.
_MOST_EPOCHS = 5000


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "How much of the maximum is found",
        f"φ at ε = {_EPSILON:g} on minima that Adam (1e-3) passes through on its way down, "
        "float32. SciPy is L-BFGS-B with 10 iterations and memory 10 on the scaled problem, "
        "−L/L₀ and −log L; ours by SciPy is our L-BFGS-B alone over the better of the two, and "
        "what is reported, the better of both maximisers, over it. Random starts are 20 uniform "
        "points of the box for each of three ascents: twelve steps to the corner of the gradient's "
        "signs, twelve projected gradient steps, ten iterations of SciPy's L-BFGS-B; the column "
        "gives the best of all 60 and names its ascent. Raw compares `--maximizer raw` with SciPy "
        "on the problem as written.",
    )
    rows = []
    alone, reported, restarted, raw = [], [], [], []
    for name, made in _minima(quick=setting.quick):
        problem = made.to(setting.device)
        print(f"  {name}, training loss {problem.loss:.1e}", file=sys.stderr)
        found = ours(problem, _EPSILON)
        built, theta = objective(problem)
        box = Box(built, theta, _EPSILON)
        scipy = {kind: scipy_scaled(box, kind).sharpness(box.start) for kind in ("linear", "log")}
        better = max(scipy.values())
        starts = {
            method: random_starts(box, method, restarts=3 if setting.quick else 20)
            for method in ("corner", "gradient", "lbfgsb")
        }
        winner = max(starts, key=lambda method: starts[method].loss)
        best = starts[winner].sharpness(box.start)
        theirs, mine = _raw(problem, box)
        by = found["by_maximizer"]
        alone.append(by["lbfgsb"] / better)
        reported.append(found["value"] / better)
        restarted.append(found["value"] / best)
        raw.append(abs(mine - theirs.sharpness(box.start)) / max(abs(mine), 1e-300))
        rows.append(
            (
                name,
                f"{box.start:.1e}",
                f"{by['lbfgsb']:.4g}",
                f"{by['corner']:.4g}",
                str(found["evaluations"]),
                f"{scipy['linear']:.4g}",
                f"{scipy['log']:.4g}",
                f"{alone[-1]:.3f}",
                f"{reported[-1]:.3f}",
                f"{best:.4g} ({winner})",
                f"{restarted[-1]:.3f}",
                f"{mine:.4g}",
                f"{raw[-1]:.0e}",
            )
        )
    header = (
        "minimum",
        "train loss",
        "φ lbfgsb",
        "φ corner",
        "gradients",
        "SciPy −L/L₀",
        "SciPy −log L",
        "lbfgsb by SciPy",
        "reported by SciPy",
        "random starts",
        "reported by them",
        "raw",
        "raw off SciPy",
    )
    section.tables.append(("Minima", header, rows))
    for what, values, asked in (
        ("our L-BFGS-B by SciPy's better, least", alone, _SCIPY_BAR),
        ("reported φ by SciPy's better, least", reported, _SCIPY_BAR),
        ("reported φ by the best of all random starts, least", restarted, _RESTART_BAR),
    ):
        least = min(values)
        missed = sum(value < asked for value in values)
        seen = f"{least:.4f} ({missed} of {len(values)} below)"
        section.bars.append(Bar(what, seen, f"≥ {asked:g}", missed == 0))
    most = max(raw)
    bar = Bar("raw off SciPy's raw, most", f"{most:.1e}", f"≤ {_RAW_BAR:g}", most <= _RAW_BAR)
    section.bars.append(bar)
    return section


def _raw(problem: Problem, box: Box) -> tuple[Ascent, float]:
    built, theta = objective(problem)
    settings = MeasureSettings(epsilons=(_EPSILON,), maximizer="raw")
    found = epsilon_sharpness(Context(built, {"train": built}, theta, settings))
    return scipy_raw(box), float(found["epsilon_sharpness"][0]["value"])


def _minima(*, quick: bool) -> Iterator[tuple[str, Problem]]:
    """Networks at every depth of training loss, over data, batch sizes and seeds."""
    runs = [
        ("digits 64-64-64-10", digits(), (64, 64, 64, 10), 64, (0, 1)),
        ("digits 64-64-64-10", digits(), (64, 64, 64, 10), 1000, (0, 1)),
    ]
    for name, (inputs, targets), widths, batch, seeds in runs[:1] if quick else runs:
        for seed in seeds[:1] if quick else seeds:
            torch.manual_seed(seed)
            model = relu_mlp(*widths)
            training = epochs_of_adam(model, inputs, targets, batch=batch, seed=seed)
            left = list(_TARGETS[:3] if quick else _TARGETS)
            for epoch, loss in enumerate(training):
                if left and loss <= left[0]:
                    while left and loss <= left[0]:
                        left.pop(0)
                    title = f"{name}, batch {batch}, seed {seed}"
                    yield title, Problem(title, copy.deepcopy(model), inputs, targets, loss)
                if not left or epoch >= _MOST_EPOCHS:
                    break
