"""The spectral density of the large network's Hessian, the same probes and steps for everyone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import peers
import torch
from paired import in_turns, ratio
from problem import Problem, Setting, objective
from report import Bar, Section

from sharpcli.curvature import make_operator
from sharpcli.linalg.bulk import bulk
from sharpcli.linalg.density import density
from sharpcli.linalg.quadrature import quadrature

NAME = "density"
OURS = "sharp"
_ASKED = 2.0
_BINS = 20


def ours(problem: Problem, probes: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Our nodes and weights; density, moments and the bulk's edge are computed too."""
    built, theta = objective(problem)
    operator = make_operator(built, theta)
    found = quadrature(operator, probes=probes, steps=steps)
    operator.release()
    density(found)
    bulk(found)
    found.moments()
    nodes, weights = found.nodes()
    return nodes.numpy(), weights.numpy()


@contextlib.contextmanager
def _torch_eig() -> Iterator[None]:
    """What PyHessian calls and PyTorch has removed, by what replaced it."""

    def eig(matrix: torch.Tensor, eigenvectors: bool = False) -> Any:
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    removed = torch.eig
    torch.eig = eig
    try:
        yield
    finally:
        torch.eig = removed


def _pyhessian(problem: Problem, batch: int, probes: int, steps: int) -> Any:
    made = peers.pyhessian_made(problem, batch)
    with _torch_eig():
        nodes, weights = made.density(iter=steps, n_v=probes)
    problem.model.zero_grad(set_to_none=True)
    return np.concatenate(nodes), np.concatenate(weights) / probes


def _eigenthings(problem: Problem, batch: int, probes: int, steps: int) -> Any:
    from hessian_eigenthings import spectral_density

    operator = peers.eigenthings_operator(problem, batch)
    found = spectral_density(operator, num_runs=probes, lanczos_steps=steps, seed=0)
    weights = found.raw_weights.cpu().numpy().ravel() / probes
    return found.raw_eigenvalues.cpu().numpy().ravel(), weights


def _curvlinops(problem: Problem, batch: int, probes: int, steps: int) -> Any:
    from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum

    operator = peers.curvlinops_operator(problem, batch)
    grid, curve = lanczos_approximate_spectrum(operator, steps, num_repeats=probes)
    mass = curve * (grid[1] - grid[0])
    return grid.cpu().numpy(), mass.cpu().numpy()


def run(setting: Setting) -> Section:
    problem = setting.main_problem()
    torch.manual_seed(0)  # PyHessian and curvlinops draw from the global generator
    probes, steps = (2, 10) if setting.quick else (2, 100)
    count = len(problem.inputs)
    layouts = [size for size in (4000, 2000, 1000, 500) if count % size == 0]
    best = _fastest_layouts(problem, layouts)
    rivals: dict[str, Callable[[], Any]] = {
        OURS: lambda: ours(problem, probes, steps),
        "PyHessian": lambda: _pyhessian(problem, best["PyHessian"], probes, steps),
        "hessian-eigenthings": lambda: _eigenthings(
            problem, best["hessian-eigenthings"], probes, steps
        ),
        "curvlinops": lambda: _curvlinops(problem, best["curvlinops"], probes, steps),
    }
    timed = in_turns(rivals, setting.repeats)
    low, high = (float(f(timed[OURS].result[0])) for f in (np.min, np.max))
    edges = np.linspace(low - 0.025 * (high - low), high + 0.025 * (high - low), _BINS + 1)
    masses = {name: np.histogram(x, edges, weights=w)[0] for name, (x, w) in _results(timed)}
    section = Section(
        NAME,
        "The spectral density",
        f"Stochastic Lanczos quadrature of the Hessian of {problem.name} "
        f"({sum(p.numel() for p in problem.parameters):,} parameters, training loss "
        f"{problem.loss:.2g}), float32, {probes} random starts of {steps} Lanczos steps for "
        "everyone. Timed from model and data in memory to the density. Ours reorthogonalises fully "
        "and also finds the outliers, the bulk's edge and the moments with their errors. "
        f"{setting.repeats} rounds.",
    )
    rows = [
        (
            name,
            it.spread(),
            "1" if name == OURS else str(ratio(it, timed[OURS])),
            f"{masses[name].sum():.4f}",
            f"{np.abs(masses[name] - masses[OURS]).sum() / 2:.4f}",
        )
        for name, it in timed.items()
    ]
    header = ("", "seconds", "by ours", "mass in range", "total variation to ours, 20 bins")
    section.tables.append(("Time", header, rows))
    for name in list(rivals)[1:]:
        found = ratio(timed[name], timed[OURS])
        section.bars.append(
            Bar(f"{name} by ours", str(found), f"≥ {_ASKED:g}", found.median >= _ASKED)
        )
    section.notes = [
        f"PyHessian ran in batches of {best['PyHessian']}: in one batch it keeps the gradient's "
        "graph, as ours does, in several it makes them anew. Its `density` calls `torch.eig`, "
        "which PyTorch has removed: it raises unless that is put back, as it is here. It "
        "reorthogonalises fully, a vector at a time.",
        f"hessian-eigenthings ran in batches of {best['hessian-eigenthings']}; it "
        "reorthogonalises fully, a vector at a time.",
        f"curvlinops ran in batches of {best['curvlinops']}: `lanczos_approximate_spectrum` does "
        "not reorthogonalise, and finds the spectrum's ends beforehand by SciPy's eigsh.",
    ]
    return section


def _results(timed: dict[str, Any]) -> list[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    return [(name, it.result) for name, it in timed.items()]


def _fastest_layouts(problem: Problem, layouts: list[int]) -> dict[str, int]:
    """Each peer's fastest batch layout for one product."""
    size = sum(p.numel() for p in problem.parameters)
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(problem.device)
    best = {}
    for name, make in peers.PRODUCTS.items():
        products = {str(layout): make(problem, layout) for layout in layouts}
        calls = {key: lambda product=product: product(vector) for key, product in products.items()}
        timed = in_turns(calls, 4)
        best[name] = min(layouts, key=lambda layout: min(timed[str(layout)].seconds[1:]))
        del products, calls
        problem.model.zero_grad(set_to_none=True)
    return best
