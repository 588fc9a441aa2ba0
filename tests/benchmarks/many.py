"""Hundreds of eigenvalues of a network beside SciPy's eigsh, and how well time is foretold."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import peers
import torch
from paired import Timed, ratio
from problem import Problem, Setting, objective
from report import Bar, Section
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import eigsh as arpack
from torch import nn
from torch.nn.functional import cross_entropy

from sharpcli.curvature import make_operator
from sharpcli.linalg.eigsh import EigshResult, eigsh
from sharpcli.runtime.progress import Notes, Progress, foretelling, silent

NAME = "many"
_TOLERANCE = 1e-3
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_OURS, _SCIPY = "sharp", "SciPy's eigsh"


@dataclass(frozen=True)
class _Found:
    values: np.ndarray
    products: int
    converged: bool


def run(setting: Setting) -> Section:
    problem = _problem(20 if setting.quick else 64)
    size = sum(parameter.numel() for parameter in problem.parameters)
    counts = (20, 40) if setting.quick else (400, 600)
    rows, bars, truth = [], [], _scipy(problem.double(), max(counts), 1e-9).values
    for count in counts:
        rivals: dict[str, Callable[[], _Found]] = {
            _OURS: lambda count=count: _ours(problem, count),
            _SCIPY: lambda count=count: _scipy(problem, count, _TOLERANCE),
        }
        timed = _in_turns(rivals, setting.repeats)
        for name, each in timed.items():
            found: _Found = each.result
            error = float(np.abs(found.values - truth[:count]).max() / truth[0])
            by = str(ratio(each, timed[_OURS]))
            cells = (str(found.products), f"{error:.1e}", "yes" if found.converged else "no")
            rows.append((str(count), name, each.spread(), by, *cells))
        found_ratio = ratio(timed[_OURS], timed[_SCIPY])
        met = found_ratio.median <= 1.0
        bars.append(Bar(f"our time by SciPy's, k = {count}", str(found_ratio), "≤ 1", met))
        foretold = _foretold(problem, count)
        met = 0.5 <= foretold <= 2.0
        seen = f"{foretold:.3g}"
        bars.append(Bar(f"time by what was foretold, k = {count}", seen, "0.5 to 2", met))
    return Section(
        NAME,
        "Hundreds of eigenvalues",
        f"The k largest eigenvalues of the Hessian of {problem.name} ({size:,} parameters), "
        "float32, tolerance 1e-3, and with ours λmin and the proof that none was missed. Seconds "
        "are of the processor, since one thread works and other programs may. SciPy's eigsh has "
        "its default basis and a double backward whose graph is kept. The truth is SciPy's in "
        "float64 at 1e-9.",
        tables=[("", ("k", "", "seconds", "by ours", "products", "error/λ1", "converged"), rows)],
        bars=bars,
        notes=["What is foretold is what `sharp measure` says on the way, its last word on it."],
    )


def _problem(width: int) -> Problem:
    """A network after 30 steps of Adam: its large eigenvalues fall off slowly."""
    torch.manual_seed(0)
    layers = [nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    inputs = torch.randn(400, width, generator=torch.Generator().manual_seed(0))
    targets = inputs[:, :10].argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
    return Problem(
        f"a tanh network {width}-{width}-{width}-10", model, inputs, targets, float(loss)
    )


def _solved(problem: Problem, count: int, progress: Progress = silent) -> EigshResult:
    built, theta = objective(problem)
    hessian = make_operator(built, theta)
    return eigsh(hessian, count, smallest=1, tolerance=_TOLERANCE, progress=progress)


def _ours(problem: Problem, count: int) -> _Found:
    found = _solved(problem, count)
    return _Found(found.largest.numpy(), found.products, found.converged)


def _scipy(problem: Problem, count: int, tolerance: float) -> _Found:
    product, products = peers.plain_product(problem, len(problem.inputs)), 0
    kind = next(iter(problem.parameters)).dtype
    size = sum(parameter.numel() for parameter in problem.parameters)

    def matvec(vector: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return product(torch.from_numpy(vector.reshape(-1).copy())).numpy()

    operator = LinearOperator((size, size), matvec=matvec, dtype=str(kind).split(".")[1])
    start = np.random.RandomState(1).standard_normal(size)
    values = arpack(operator, k=count, which="LA", tol=tolerance, v0=start)[0]
    return _Found(np.sort(values)[::-1], products, True)


def _in_turns(rivals: dict[str, Callable[[], _Found]], repeats: int) -> dict[str, Timed]:
    """As `paired.in_turns`, in seconds of the processor."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    results: dict[str, Any] = {}
    for repeat in range(repeats):
        for name in list(rivals)[:: -1 if repeat % 2 else 1]:
            started = time.process_time()
            results[name] = rivals[name]()
            seconds[name].append(time.process_time() - started)
    return {name: Timed(seconds[name], results[name]) for name in rivals}


def _foretold(problem: Problem, count: int) -> float:
    """Seconds that a solve took after the last word on how many there would be, by that word."""
    said: list[tuple[float, float]] = []

    def note(text: str) -> None:
        _, number, unit, *_ = text.split()
        said.append((time.perf_counter(), float(number) * _UNITS[unit]))

    _solved(problem, count, foretelling(silent, Notes(note, note), ""))
    then, seconds = said[-1]
    return (time.perf_counter() - then) / max(seconds, 1e-3)
