"""Rises of the loss around θ against closed forms and plain float64 PyTorch, and rescaling."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from problem import Setting
from report import Bar, Section
from torch import Tensor, nn

from sharpcli.measures import known_measures
from sharpcli.tasks import Task

sys.path.append(str(Path(__file__).parents[1] / "support"))

from networks import CASES, context, mlp, task, vectors
from plain_rises import Plain, largest_in_ball, least_squares, options, quadratic

NAME = "perturbations"
_EXACT, _ERRORS, _MOVED, _SHARE = 1e-6, 3.0, 0.02, 0.999
# The 90 % quantile of the normal distribution.
_QUANTILE = 1.2815515655446004
_ADAPTIVE = ("worst_linf", "worst_l2", "average_linf", "average_l2")


@dataclass(frozen=True)
class _Row:
    """One number against its reference; `errors` is the deviation in standard errors, if random."""

    what: str
    against: str
    found: float
    true: float
    error: float | None = None

    @property
    def off(self) -> float:
        """The deviation: relative, or in standard errors."""
        if self.error is None:
            return abs(self.found / self.true - 1)
        return abs(self.found - self.true) / self.error

    def cells(self) -> tuple[str, ...]:
        off = f"{self.off:.1e}" if self.error is None else f"{self.off:.2f} s.e."
        return self.what, self.against, f"{self.found:.6g}", f"{self.true:.6g}", off


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Measures of how the loss rises around a minimum",
        "Each number against its closed form on least squares, L = mean (wᵀx − y)², and against "
        "plain PyTorch in float64 that shares no code with the package, on small networks. Random "
        "estimates are compared in standard errors, with draws of their own and several seeds. "
        "Worst cases of networks have no reference, only the best of a plain projected ascent of "
        "60 steps. Rescaling multiplies hidden units of a ReLU network by up to 10 and leaves its "
        "function unchanged.",
    )
    seeds = range(2 if setting.quick else 6)
    closed = [*_exact(), *(row for seed in seeds for row in _random(seed))]
    names = ("tanh", "relu") if setting.quick else ("tanh", "relu", "gelu", "conv", "batch_norm")
    draws = 200 if setting.quick else 2000
    plain = [row for name in names for row in _plain(name, draws)]
    header = ("number", "reference", "found", "true", "off by")
    section.tables.append(("Closed forms", header, [row.cells() for row in closed]))
    section.tables.append(("Plain float64", header, [row.cells() for row in plain]))
    ascents = [_ascent(name, norm) for name in names for norm in ("linf", "l2")]
    section.tables.append(
        (
            "Worst cases",
            ("network", "norm", "found", "by", "plain ascent", "ratio"),
            [cells for cells, _ in ascents],
        )
    )
    moved = _rescaled()
    section.tables.append(
        (
            "Rescaling",
            ("number", "before", "after", "moved"),
            [(key, f"{a:.4g}", f"{b:.4g}", f"{abs(b / a - 1):.1%}") for key, a, b in moved],
        )
    )
    rows = [*closed, *plain]
    exact = max(row.off for row in rows if row.error is None)
    scatter = [row.off for row in rows if row.error is not None]
    invariant = max(abs(b / a - 1) for key, a, b in moved if not key.startswith("fixed"))
    least = min(ratio for _, ratio in ascents)
    section.bars += [
        Bar("largest relative deviation", f"{exact:.1e}", f"≤ {_EXACT:g}", exact <= _EXACT),
        Bar(
            "largest deviation of a random estimate",
            f"{max(scatter):.2f} s.e. of {len(scatter)}",
            f"≤ {_ERRORS:g}",
            max(scatter) <= _ERRORS,
        ),
        Bar("worst case over a plain ascent's", f"{least:.4f}", f"≥ {_SHARE}", least >= _SHARE),
        Bar("moved by rescaling (c = |θ|)", f"{invariant:.1e}", f"≤ {_MOVED}", invariant <= _MOVED),
    ]
    section.notes += list(_costs())
    return section


def _measured(name: str, of: Task, seed: int = 0, **given: Any) -> dict[str, Any]:
    """The numbers of one measure in float64."""
    measure = known_measures()[name]
    found = measure.compute(context(of, options=options(name, **given), seed=seed))
    return dict(found[measure.key])


def _exact() -> Iterator[_Row]:
    """Numbers without randomness on a quadratic."""
    of, against = least_squares(6), "quadratic"
    theta, gradient, matrix = quadratic(of)
    sam = _measured("sam-sharpness", of)
    for key, rho, scale in (("sam", 0.05, torch.ones_like(theta)), ("asam", 0.5, theta.abs())):
        step = rho * scale.square() * gradient / (scale * gradient).norm()
        yield _Row(
            key, against, sam[key]["value"], float(gradient @ step + step @ matrix @ step / 2)
        )
    for unit in ("weights", "one"):
        found = _measured("adaptive-sharpness", of, adaptive_scale=unit)
        radius = theta.abs() if unit == "weights" else torch.ones_like(theta)
        own = matrix * radius[:, None] * radius
        true = largest_in_ball(gradient * radius, own)
        yield _Row(f"worst ℓ2, c = {unit}", against, found["worst_l2"]["value"], true)
        corners = 0.002 * radius * (2 * (torch.arange(64)[:, None] >> torch.arange(6) & 1) - 1)
        best = float((corners @ gradient + (corners @ matrix * corners).sum(1) / 2).max())
        yield _Row(f"worst ℓ∞, c = {unit}", against, found["worst_linf"]["value"], best)


def _random(seed: int) -> Iterator[_Row]:
    """Random estimates on a quadratic, and σ where each example has a weight of its own."""
    of, against = least_squares(12), f"quadratic, seed {seed}"
    theta, gradient, matrix = quadratic(of)
    found = _measured("adaptive-sharpness", of, seed)
    for key, variance in (("average_l2", 0.04), ("average_linf", 0.04 / 3)):
        true = variance * float(matrix.diag() @ theta.square()) / 2
        yield _Row(key, against, found[key]["value"], true, found[key]["error"])
    low = _measured("low-pass", of, seed)
    yield _Row("low-pass", against, low["value"], 0.5e-4 * float(matrix.trace()), low["error"])
    eye, gamma = torch.eye(len(theta), dtype=torch.float64), 100.0
    entropy = _measured("local-entropy", of, seed, entropy_gamma=gamma)["mean"]
    true = float(gradient @ torch.linalg.solve(matrix + gamma * eye, gradient)) / 2
    true -= float(torch.logdet(eye + matrix / gamma)) / 2 + Plain(of).loss(0 * theta)
    yield _Row("local entropy", against, entropy.value, true, entropy.error)
    flat = _measured("pac-bayes", _each_its_own(0.7), seed)["isotropic"]
    sigma = math.sqrt(2) * 0.7 / _QUANTILE
    yield _Row("pac-bayes", f"Φ(w√2/σ) = 0.9, seed {seed}", flat["value"], sigma**-2, flat["error"])


def _plain(name: str, count: int) -> Iterator[_Row]:
    """Numbers on a network against plain loops."""
    of = CASES[name]
    at = Plain(of)
    zero = torch.zeros_like(at.theta)
    gradient = at.gradient(zero)
    sam = _measured("sam-sharpness", of)
    for key, rho, scale in (("sam", 0.05, zero + 1), ("asam", 0.5, at.theta.abs())):
        step = rho * scale.square() * gradient / (scale * gradient).norm()
        yield _Row(key, name, sam[key]["value"], at.rise(step))
    generator = torch.Generator().manual_seed(7)

    def normal() -> Tensor:
        return torch.randn(len(zero), generator=generator, dtype=torch.float64)

    def uniform() -> Tensor:
        return 2 * torch.rand(len(zero), generator=generator, dtype=torch.float64) - 1

    adaptive, low = _measured("adaptive-sharpness", of), _measured("low-pass", of)
    radius = 0.2 * at.theta.abs()
    trials: tuple[tuple[str, Any, Callable[[], Tensor]], ...] = (
        ("average_l2", adaptive["average_l2"], lambda: radius * normal()),
        ("average_linf", adaptive["average_linf"], lambda: radius * uniform()),
        ("low-pass", low, lambda: 0.01 * normal()),
    )
    for key, own, draw in trials:
        true, error = at.mean_rise(draw, count)
        yield _Row(key, name, own["value"], true, math.hypot(own["error"], error))
    entropy = _measured("local-entropy", of, entropy_gamma=25.0)["mean"]
    volumes = torch.tensor([math.exp(-at.loss(normal() / 5)) for _ in range(count)])
    true, error = math.log(float(volumes.mean())), float(volumes.std() / volumes.mean())
    both = math.hypot(entropy.error, error / math.sqrt(count))
    yield _Row("local entropy", name, entropy.value, true, both)


def _ascent(name: str, norm: str) -> tuple[tuple[str, ...], float]:
    """The worst case over the best of a plain projected gradient ascent with short steps."""
    of = CASES[name]
    at, own = Plain(of), _measured("adaptive-sharpness", of)[f"worst_{norm}"]
    radius, best = own["rho"] * at.theta.abs(), 0.0
    point = torch.zeros_like(radius)
    for _ in range(60):
        slope = radius * at.gradient(radius * point)
        point = point + 0.2 * (slope.sign() if norm == "linf" else slope / slope.norm())
        point = point.clamp(-1, 1) if norm == "linf" else point / max(1.0, float(point.norm()))
        best = max(best, at.rise(radius * point))
    by = max(own["by_maximizer"], key=own["by_maximizer"].get)
    ratio = own["value"] / best
    return (name, norm, f"{own['value']:.5g}", by, f"{best:.5g}", f"{ratio:.4f}"), ratio


class _Rescaled(nn.Module):
    """A ReLU network, of which hidden units are rescaled without changing the function."""

    def __init__(self, decades: float) -> None:
        super().__init__()
        self.net = mlp(6, 10, 8, 4, activation=nn.ReLU)
        units, layer = torch.logspace(-decades, decades, 10), 10**decades
        first, second, third = (self.net[i] for i in (0, 2, 4))  # type: ignore[index]
        with torch.no_grad():
            first.weight.mul_(units[:, None])
            first.bias.mul_(units)
            second.weight.mul_(layer / units)
            second.bias.mul_(layer)
            third.weight.div_(layer)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)


def _rescaled() -> list[tuple[str, float, float]]:
    """Numbers before and after rescaling, those with c = 1 last."""
    before, after = (
        task(lambda decades=decades: _Rescaled(decades), vectors(6, 4)) for decades in (0, 1)
    )
    found = []
    one, two = (_measured("adaptive-sharpness", of) for of in (before, after))
    found += [(key, one[key]["value"], two[key]["value"]) for key in _ADAPTIVE]
    one, two = (_measured("sam-sharpness", of) for of in (before, after))
    found.append(("asam", one["asam"]["value"], two["asam"]["value"]))
    found.append(("fixed: sam", one["sam"]["value"], two["sam"]["value"]))
    one, two = (_measured("low-pass", of) for of in (before, after))
    found.append(("fixed: low-pass", one["value"], two["value"]))
    return found


def _each_its_own(weight: float, count: int = 400) -> Task:
    """Example i is right where the two weights of its input say so."""

    def model() -> nn.Module:
        linear = nn.Linear(count, 2, bias=False)
        with torch.no_grad():
            linear.weight.copy_(weight * torch.tensor([[1.0], [-1.0]]).expand(2, count))
        return linear

    return task(
        model, lambda n, _: (torch.eye(count)[:n], torch.zeros(n, dtype=torch.int64)), train=count
    )


def _costs() -> Iterator[str]:
    """What each measure costs on one network, in gradients' time."""
    of = CASES["relu"]
    own = context(of)
    started = time.process_time()
    for _ in range(50):
        own.objective.gradient(own.theta)
    gradient = (time.process_time() - started) / 50
    for name in ("adaptive-sharpness", "sam-sharpness", "low-pass", "pac-bayes", "local-entropy"):
        before = time.process_time()
        _measured(name, of)
        spent = time.process_time() - before
        yield f"`{name}` takes the time of {spent / gradient:.0f} gradients on a small network."
