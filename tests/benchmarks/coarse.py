"""Passes over all of the data from a subset's Ritz vectors, against a random start."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from problem import Setting, objective
from report import Bar, Section

from sharpcli.curvature import make_operator
from sharpcli.linalg.eigsh import eigsh
from sharpcli.measures.coarse import coarse_start
from sharpcli.runtime.progress import silent
from sharpcli.settings import CurvatureSettings

NAME = "coarse"
_K = 5
_TOLERANCE = 1e-3
_SHARES = (0.25, 0.0625)
_BAR = 2.0


def run(setting: Setting) -> Section:
    problem = setting.main_problem()
    section = Section(
        NAME,
        "Coarse to fine",
        f"The {_K} largest eigenvalues and the smallest to {_TOLERANCE} on {problem.name}, from a "
        "random start in blocks of two, and from the Ritz vectors of a subset of the data "
        "(`--coarse`). A pass is one call of the operator on all of the data; the residual is that "
        "of the worst pair, by λ1. Seconds have the subset in them, the best of the rounds.",
    )
    for title, graphs in (("Graphs kept", None), ("No graph kept", 0.0)):
        rows, found = [], {}
        for share in (None, *_SHARES):
            runs = [_solve(problem, share, graphs) for _ in range(setting.repeats)]
            best = min(runs, key=lambda it: it["seconds"])
            found[share] = best
            rows.append(
                (
                    "random" if share is None else f"{share:g} of the data",
                    best["passes"],
                    best["products"],
                    best["coarse"],
                    f"{best['residual']:.1e}",
                    f"{best['error']:.1e}",
                    f"{best['seconds']:.2f}",
                )
            )
        header = ("start", "passes", "products", "on the subset", "residual", "error/λ1", "seconds")
        section.tables.append((title, header, rows))
        fewest = found[0.25]
        ratio = found[None]["passes"] / fewest["passes"]
        section.bars.append(
            Bar(f"passes, {title.lower()}, a quarter", f"{ratio:.2f}×", f"≥ {_BAR}", ratio >= _BAR)
        )
    return section


def _solve(problem: Any, share: float | None, graphs: float | None) -> dict[str, float]:
    built, theta = objective(problem)
    curvature = CurvatureSettings(hvp="double-backward")
    rows, spent, start = 200, 0, None
    started = time.perf_counter()
    if share is not None:
        part = curvature if graphs is None else replace(curvature, memory=0)
        coarse = coarse_start(
            built, theta, part, _K, 1, share=share, rows=rows, seed=0, progress=silent
        )
        start, spent = coarse.start, coarse.products
    operator = make_operator(built, theta, curvature, graphs=graphs)
    found = eigsh(operator, _K, smallest=1, tolerance=_TOLERANCE, start=start)
    seconds = time.perf_counter() - started
    operator.release()
    errors = torch.cat([found.largest_errors, found.smallest_errors])
    truth = _truth(problem)
    return {
        "passes": found.passes,
        "products": found.products,
        "coarse": spent,
        "residual": float(errors.max() / found.largest[0]),
        "error": float((found.largest - truth).abs().max() / truth[0]),
        "seconds": seconds,
    }


_known: dict[str, torch.Tensor] = {}


def _truth(problem: Any) -> torch.Tensor:
    """The eigenvalues to 1e-6, once."""
    if problem.name not in _known:
        built, theta = objective(problem)
        operator = make_operator(built, theta, CurvatureSettings(hvp="double-backward"))
        _known[problem.name] = eigsh(operator, _K, tolerance=1e-6, max_products=400).largest
        operator.release()
    return _known[problem.name]
