"""ε-sharpness of small networks against the true maximum: corners, and points inside the box."""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from problem import Problem, Setting, objective
from report import Bar, Section
from sharpcli.settings.measuring import MeasureSettings
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from sharpcli.measures.context import Context
from sharpcli.measures.epsilon_sharpness import epsilon_sharpness
from sharpcli.measures.subspace import RandomSubspace

NAME = "corners"
_LEAST, _ABOVE = 0.99, 1e-9
_EPSILONS = (1e-3, 5e-4, 1e-2, 1e-1)
_DEFAULT = (1e-3, 5e-4)
_ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid, nn.SiLU, nn.LeakyReLU)
# Widths of networks with at most 14 parameters, of 16 to 19, and of 60 to 600.
_SMALL = ((2, 2, 2), (2, 3, 1), (3, 2, 1), (2, 1, 1, 2), (2, 4), (6, 2), (1, 4, 1), (3, 1, 1, 1))
_MIDDLE = ((2, 3, 2), (3, 3, 1), (2, 4, 1), (4, 2, 3), (1, 5, 1), (5, 2, 2))
_LARGE = ((4, 8, 3), (6, 10, 8, 4), (2, 20, 2), (10, 12, 5), (5, 16, 16, 2), (8, 24, 10))
_STEPS = (0, 30, 400, 3000)
_CHUNK = 2048

Losses = Callable[[Tensor], Tensor]
LossFunction = Callable[[Any, Any], Tensor]


def _cross_entropy(outputs: Tensor, batch: Any) -> Tensor:
    if outputs.shape[1] == 1:
        signs = 2 * (batch[1] % 2).to(outputs.dtype) - 1
        return functional.softplus(-signs * outputs[:, 0])
    return functional.cross_entropy(outputs, batch[1] % outputs.shape[1], reduction="none")


def _squares(outputs: Tensor, batch: Any) -> Tensor:
    wanted = (batch[0][:, :1] * batch[0][:, -1:]).to(outputs.dtype)
    return (outputs - wanted).square().mean(1)


@dataclass(frozen=True)
class _Case:
    """A network with its data and loss, at some stage of its training."""

    name: str
    problem: Problem
    loss: LossFunction

    def losses(self) -> tuple[Losses, Tensor]:
        """L in float64 at the rows of (k, n), by plain torch, and θ."""
        model = self.problem.double().model
        inputs = self.problem.inputs.double()
        names, shapes = zip(*((k, p.shape) for k, p in model.named_parameters()), strict=True)
        sizes = [math.prod(shape) for shape in shapes]

        def one(theta: Tensor) -> Tensor:
            parts = theta.split(sizes)
            own = {k: v.view(s) for k, v, s in zip(names, parts, shapes, strict=True)}
            outputs = functional_call(model, own, (inputs,))
            return self.loss(outputs, (inputs, self.problem.targets)).mean()

        theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        return vmap(one), theta


def run(setting: Setting) -> Section:
    count = 3 if setting.quick else 100
    section = Section(
        NAME,
        "ε-sharpness against the true maximum",
        "φ of small networks (six activations, cross-entropy and squares, 16 to 200 examples, 0 to "
        "3,000 steps of Adam, every second one to a gradient of rounding size by L-BFGS) in "
        "float32, every third in float64, over the largest loss there is in the box: in float64 by "
        "plain torch, all 2ⁿ corners, then projected gradient ascents from the best eight of them "
        "and from 24 random points, and SciPy's L-BFGS-B from the best: the largest loss may lie "
        "inside the box where the loss is not convex. Larger networks have no such reference: "
        "there it is the best of 200 ascents from random corners and 32 from random points.",
    )
    rows: list[Sequence[str]] = []
    shares: dict[tuple[str, float], list[float]] = {}

    def seen(title: str, cases: Iterator[_Case], epsilons: Sequence[float], reference: Any) -> None:
        for case in cases:
            losses, theta = case.losses()
            start = float(losses(theta[None])[0])
            for entry in _ours(case, epsilons):
                bound = entry["epsilon"] * (theta.abs() + 1)
                best = reference(losses, theta, bound)
                share = _share(entry, start, best, f"{title}: {case.name}")
                shares.setdefault((title, entry["epsilon"]), []).append(share)

    seen("n ≤ 14", _cases(_SMALL, count), _EPSILONS, _true_maximum)
    seen("n = 16 to 19", _cases(_MIDDLE, count // 8), (*_DEFAULT, 0.1), _true_maximum)
    seen("n = 60 to 600", _cases(_LARGE, count), (1e-3, 0.1), _best_of_many)
    for case in _cases(_LARGE, -(-count // 10)):
        for dimensions in (4, 10):
            for epsilon, found in _subspaces(case, dimensions):
                shares.setdefault((f"subspaces, p = {dimensions}", epsilon), []).extend(found)
    for (title, epsilon), found in shares.items():
        rows.append(
            (
                title,
                f"{epsilon:g}",
                str(len(found)),
                f"{min(found):.6f}",
                f"{statistics.median(found):.6f}",
                f"{max(found) - 1:.1e}",
                str(sum(share < _LEAST for share in found)),
            )
        )
        exact = title == "n ≤ 14" and epsilon in _DEFAULT
        if exact:
            section.bars.append(
                Bar(
                    f"{title}, ε = {epsilon:g}, least share of the maximum",
                    f"{min(found):.6f}",
                    f"≥ {_LEAST:g}",
                    min(found) >= _LEAST,
                )
            )
        # In larger boxes the reference's own ascents may stop short of a maximum inside.
        if epsilon in _DEFAULT and title != "n = 60 to 600":
            above = max(found) - 1
            section.bars.append(
                Bar(
                    f"{title}, ε = {epsilon:g}, most above the maximum",
                    f"{above:.1e}",
                    f"≤ {_ABOVE:g} (rounding)",
                    above <= _ABOVE,
                )
            )
    header = ("networks", "ε", "measured", "least share", "median", "most − 1", "below 0.99")
    section.tables.append(("Share of the maximum", header, rows))
    return section


def _share(entry: dict[str, Any], start: float, best: float, name: str) -> float:
    """φ over the true one: 1 where both are 0. Names what is low, as the benchmark goes on."""
    true = 100 * (best - start) / (1 + start)
    share = entry["value"] / true if true > 0 else 1.0
    if share < _LEAST or share > 1 + _ABOVE:
        print(f"  {name}, ε={entry['epsilon']:g}: {share:.6f} {entry}", file=sys.stderr)
    return share


def _ours(
    case: _Case, epsilons: Sequence[float], subspaces: tuple[int | None, ...] = (None,)
) -> list[dict[str, Any]]:
    built, theta = objective(case.problem, loss=case.loss)
    settings = MeasureSettings(epsilons=tuple(epsilons), subspaces=subspaces, draws=3)
    found = epsilon_sharpness(Context(built, {"train": built}, theta, settings))
    return list(found["epsilon_sharpness"])


def _subspaces(case: _Case, dimensions: int) -> Iterator[tuple[float, list[float]]]:
    """Each draw of a random subspace over the largest loss in its box."""
    losses, theta = case.losses()
    start = float(losses(theta[None])[0])
    for entry in _ours(case, _DEFAULT, (dimensions,)):
        found = []
        for draw, value in enumerate(entry["draws"]):
            # The columns are normal numbers in the run's dtype; all else is computed here.
            dtype = case.problem.parameters[0].dtype
            space = RandomSubspace(theta.to(dtype), dimensions, 0, draw)
            matrix = torch.stack([space.lift(row) for row in torch.eye(dimensions, dtype=dtype)])
            matrix = matrix.double()
            inside = torch.linalg.lstsq(matrix.T, theta[:, None]).solution[:, 0]
            bound = entry["epsilon"] * (inside.abs() + 1)
            best = _true_maximum(
                lambda z, matrix=matrix: losses(theta + z @ matrix), torch.zeros_like(bound), bound
            )
            name = f"p = {dimensions}, draw {draw}: {case.name}"
            found.append(_share({**entry, "value": value}, start, best, name))
        yield entry["epsilon"], found


def _true_maximum(losses: Losses, theta: Tensor, bound: Tensor) -> float:
    """All corners; then ascents inside the box from the best eight and from 24 random points."""
    count = len(theta)
    tops = torch.empty(0, count, dtype=torch.float64)
    best = torch.empty(0, dtype=torch.float64)
    for number in range(0, 2**count, _CHUNK):
        numbers = torch.arange(number, min(number + _CHUNK, 2**count))[:, None]
        corners = 2.0 * (numbers // 2 ** torch.arange(count) % 2).double() - 1
        best = torch.cat([best, losses(theta + bound * corners).nan_to_num(-math.inf)])
        best, order = best.topk(min(8, len(best)))
        tops = torch.cat([tops, corners])[order]
    generator = torch.Generator().manual_seed(0)
    inside = 2 * torch.rand(24, count, generator=generator, dtype=torch.float64) - 1
    return max(float(best[0]), _climbed(losses, theta, bound, torch.cat([tops, inside])))


def _best_of_many(losses: Losses, theta: Tensor, bound: Tensor) -> float:
    """200 random corners at once, each 15 steps by the gradient's signs, and 32 ascents inside."""
    generator = torch.Generator().manual_seed(0)
    corners = 2.0 * torch.randint(0, 2, (200, len(theta)), generator=generator).double() - 1
    best = float(losses(theta[None])[0])
    for _ in range(15):
        values, gradient = _with_gradient(losses, theta, bound, corners)
        best = max(best, float(values.max()))
        corners = torch.where(gradient == 0, corners, gradient.sign())
    inside = 2 * torch.rand(32, len(theta), generator=generator, dtype=torch.float64) - 1
    return max(best, _climbed(losses, theta, bound, inside))


def _climbed(losses: Losses, theta: Tensor, bound: Tensor, u: Tensor, steps: int = 50) -> float:
    """The largest loss of projected gradient ascents from all rows of u, then L-BFGS-B by SciPy.

    A step is as long in each ascent's largest slope as it says, and shrinks; L-BFGS-B takes the
    best point to the last digit, which an ascent inside the box does not reach.
    """
    best, top = -math.inf, u[0]
    for step in range(steps):
        values, gradient = _with_gradient(losses, theta, bound, u)
        if float(values.max()) > best:
            best, top = float(values.max()), u[int(values.argmax())]
        scale = gradient.abs().amax(1, keepdim=True).clamp_min(1e-300)
        u = (u + 2 * 0.85**step * gradient / scale).clamp(-1, 1)
    return max(best, _scipy(losses, theta, bound, top))


def _with_gradient(
    losses: Losses, theta: Tensor, bound: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    u = u.detach().requires_grad_()
    values = losses(theta + bound * u)
    (gradient,) = torch.autograd.grad(values.sum(), u)
    return values.detach().nan_to_num(-math.inf, -math.inf), gradient.nan_to_num(0.0)


def _scipy(losses: Losses, theta: Tensor, bound: Tensor, start: Tensor) -> float:
    """The largest loss that L-BFGS-B meets in u ∈ [−1, 1]ⁿ from `start`."""
    from scipy.optimize import Bounds, minimize

    best = -math.inf
    scale = float(_with_gradient(losses, theta, bound, start[None])[1].abs().max()) or 1.0

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        u = torch.from_numpy(x.clip(-1, 1))[None]
        values, gradient = _with_gradient(losses, theta, bound, u)
        best = max(best, float(values[0]))
        return -float(values[0]) / scale, -(gradient[0] / scale).numpy()

    minimize(function, start.numpy(), jac=True, method="L-BFGS-B", bounds=Bounds(-1, 1))
    return best


def _cases(shapes: Sequence[tuple[int, ...]], count: int) -> Iterator[_Case]:
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        torch.manual_seed(number)
        widths = shapes[number % len(shapes)]
        activation = _ACTIVATIONS[number % len(_ACTIVATIONS)]
        loss = _squares if number % 4 == 3 else _cross_entropy
        steps = _STEPS[number // 2 % len(_STEPS)]
        rows = (16, 40, 120, 200)[number // 3 % 4]
        inputs = torch.randn(rows, widths[0], generator=generator)
        noise = torch.rand(rows, generator=generator) < 0.1 * (number % 3)
        targets = (inputs.sum(1) > 0.1).long() + 2 * (inputs[:, 0] * inputs[:, -1] > 0.3).long()
        targets = torch.where(noise, torch.randint(0, 4, (rows,), generator=generator), targets)
        layers: list[nn.Module] = []
        for left, right in itertools.pairwise(widths):
            layers += [nn.Linear(left, right), activation()]
        model = nn.Sequential(*layers[:-1])
        _train(model, inputs, targets, loss, steps, stationary=number % 2 == 1)
        if number % 3 == 2:
            model, inputs = model.double(), inputs.double()
        else:
            model = model.float()
        name = f"{number}: {widths} {activation.__name__} {loss.__name__} {rows} rows {steps} steps"
        problem = Problem(name, model.eval(), inputs, targets, math.nan)
        yield _Case(name, problem, loss)


def _train(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss: LossFunction,
    steps: int,
    *,
    stationary: bool,
) -> None:
    """Adam, then L-BFGS in float64 until the gradient is rounding."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(inputs), (inputs, targets)).mean().backward()
        optimizer.step()
    if not (stationary and steps):
        return
    model.double()
    wide = inputs.double()
    newton = torch.optim.LBFGS(
        model.parameters(), max_iter=300, tolerance_grad=1e-13, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        newton.zero_grad()
        value = loss(model(wide), (wide, targets)).mean()
        value.backward()
        return value

    newton.step(closure)
