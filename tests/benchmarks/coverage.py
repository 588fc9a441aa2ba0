"""How often the intervals of a subset of the data hold what all of the data give."""

from __future__ import annotations

import copy
import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from problem import Problem, Setting, epochs_of_adam, mnist, objective, relu_mlp
from report import Bar, Section
from sharpcli.settings.measuring import MeasureSettings
from torch import Tensor

from sharpcli.measures import compute, known_measures
from sharpcli.measures.context import Context
from sharpcli.objective.objective import Objective

NAME = "coverage"
_IMAGES, _SAMPLES, _SUBSETS = 4000, 1024, 200
_DEPTHS = (1e-1, 1e-2)
_LEAST, _MOST = 90.0, 99.0
_WITHIN = 1.96  # standard errors, of a nominal 95 %
# What is to be covered, and what is looked at beside it.
_PROMISED = {
    "loss": lambda m: m["loss"]["train"],
    "φ": lambda m: m["epsilon_sharpness"][0],
    "λ1": lambda m: m["hessian"]["eigenvalues"][0],
    "trace": lambda m: m["trace"],
}
_OTHERS = {
    "λ2": lambda m: m["hessian"]["eigenvalues"][1],
    "λ5": lambda m: m["hessian"]["eigenvalues"][4],
    "λmin": lambda m: m["hessian"]["smallest"],
    "λ1/λ5": lambda m: m["hessian"]["ratio_1_5"],
    "‖∇L‖": lambda m: m["gradient"]["norm"],
    "‖∇L‖₁": lambda m: m["gradient"]["l1"],
    "max |∇L|": lambda m: m["gradient"]["max"],
}


@dataclass(frozen=True)
class _Number:
    """A number with its standard error, its bias and the residual that bounds it beside.

    `holds` says whether its interval has a value in it.
    """

    value: float
    error: float
    bias: float
    residual: float

    def holds(self, true: float) -> bool:
        return abs(self.value - self.bias - true) <= _WITHIN * self.error + self.residual


def run(setting: Setting) -> Section:
    images, samples, subsets = (600, 150, 4) if setting.quick else (_IMAGES, _SAMPLES, _SUBSETS)
    section = Section(
        NAME,
        "A sample's sampling error",
        f"784-32-10 on {images} MNIST images, at minima that Adam (1e-3, batches of 64) passes "
        f"through on its way down; {subsets} random subsets of {samples} images each are measured "
        "as `--samples` does, and all images once, eigenvalues to 1e-5. An interval is value − "
        "sampling_bias ± 1.96·√(sampling_error² + standard error²), and a residual beyond. Bias "
        "and errors are in standard deviations of the value over the subsets: bias is what the "
        "values are too high on average, told what of it is in `sampling_bias`. Seconds are "
        "medians, with errors and without, the same subset taken for all there is.",
    )
    header = (
        "number",
        "all images",
        "bias",
        "told",
        "mean error",
        "covered",
        "too low",
        "too high",
    )
    for depth in _DEPTHS[:1] if setting.quick else _DEPTHS:
        built, theta, loss = minimum(depth, images, setting.device)
        # λmin is small against λ1, and so what a usual tolerance leaves of it.
        whole, _ = _measured(built, theta, tol=1e-5)
        found: list[Mapping[str, Any]] = []
        seconds: list[tuple[float, float]] = []
        for number in range(subsets):
            generator = torch.Generator().manual_seed(1000 + number)
            chosen = torch.randperm(images, generator=generator)[:samples].sort().values
            rows = built.rows.take(chosen)
            part = functools.partial(Objective, built.network, fixed=built.fixed)
            measures, spent = _measured(part(rows=rows), theta)
            found.append(measures)
            if number % 20 == 0:
                _, without = _measured(part(rows=rows.head(samples)), theta)
                seconds.append((spent, without))
                print(f"  loss {loss:.2g}: {number} of {subsets}", file=sys.stderr)
        rows_ = []
        for name, pick in {**_PROMISED, **_OTHERS}.items():
            true = _number(pick(whole)).value
            numbers = [_number(pick(measures)) for measures in found]
            rows_.append((name, f"{true:.4g}", *_row(numbers, true)))
            if name in _PROMISED:
                share = 100 * sum(number.holds(true) for number in numbers) / subsets
                met = _LEAST <= share <= _MOST
                what = f"{name} covered, training loss {loss:.2g}"
                asked = f"{_LEAST:g}–{_MOST:g} %"
                section.bars.append(Bar(what, f"{share:.1f} %", asked, met))
        spent, without = (statistics.median(each) for each in zip(*seconds, strict=True))
        title = f"Training loss {loss:.2g}, {spent:.2f} s a subset, {without:.2f} s without errors"
        section.tables.append((title, header, rows_))
    return section


def minimum(depth: float, count: int, device: torch.device) -> tuple[Objective, Tensor, float]:
    torch.manual_seed(0)
    inputs, targets = mnist(count)
    model = relu_mlp(784, 32, 10)
    training = epochs_of_adam(model, inputs, targets, batch=64, seed=0)
    loss = next(loss for loss in training if loss < depth)
    problem = Problem("784-32-10", copy.deepcopy(model), inputs, targets, loss).to(device)
    return *objective(problem), loss


def _measured(
    built: Objective, theta: Tensor, *, tol: float = MeasureSettings.tol
) -> tuple[Mapping[str, Any], float]:
    """All measures as `sharp measure` makes them, and the seconds that they took."""
    settings = MeasureSettings(epsilons=(1e-3,), tol=tol)
    context = Context(built, {"train": built}, theta, settings)
    started = time.perf_counter()
    try:
        return compute(list(known_measures().values()), context), time.perf_counter() - started
    finally:
        context.release()


def _number(scalar: Any) -> _Number:
    read: Callable[[str], Any] = (
        scalar.get if isinstance(scalar, Mapping) else lambda name: getattr(scalar, name)
    )
    kind, own, sampling = read("error_kind"), read("error") or 0.0, read("sampling_error") or 0.0
    random = own if kind == "standard_error" and own != sampling else 0.0
    residual = own if kind == "residual" else 0.0
    error = (random**2 + sampling**2) ** 0.5
    return _Number(read("value"), error, read("sampling_bias") or 0.0, residual)


def _row(numbers: list[_Number], true: float) -> tuple[str, ...]:
    values = torch.tensor([number.value for number in numbers], dtype=torch.float64)
    scatter = float(values.std()) or 1.0
    count = len(numbers)
    missed = [number for number in numbers if not number.holds(true)]
    low = sum(number.value - number.bias < true for number in missed)
    errors = sum(number.error for number in numbers) / count
    return (
        f"{float(values.mean() - true) / scatter:+.2f}",
        f"{sum(number.bias for number in numbers) / count / scatter:.2f}",
        f"{errors / scatter:.2f}",
        f"{100 * (count - len(missed)) / count:.1f} %",
        f"{100 * low / count:.1f} %",
        f"{100 * (len(missed) - low) / count:.1f} %",
    )
