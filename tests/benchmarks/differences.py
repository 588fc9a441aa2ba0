"""How often `compare`'s intervals of differences and ratios hold what all of the data give."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from coverage import minimum
from problem import Setting
from report import Bar, Section
from sharpcli.settings.measuring import MeasureSettings
from torch import Tensor

from sharpcli.documents.comparison import compare
from sharpcli.documents.results import CheckpointResult, Report, to_document
from sharpcli.measures import compute, known_measures
from sharpcli.measures.context import Context
from sharpcli.objective.objective import Objective

NAME = "differences"
_IMAGES, _SAMPLES, _PAIRS = 1500, 256, 200
_DEPTHS = (3e-1, 1e-1)
_LEAST = 90.0
_MEASURES = ("loss", "hessian", "trace")
_SHOWN = {
    "loss": "loss.train",
    "λ1": "hessian.eigenvalues[0]",
    "λ1/λ5": "hessian.ratio_1_5",
    "trace": "trace",
}


def run(setting: Setting) -> Section:
    images, samples, pairs = (600, 150, 4) if setting.quick else (_IMAGES, _SAMPLES, _PAIRS)
    section = Section(
        NAME,
        "Differences of samples",
        f"784-32-10 on {images} MNIST images at two minima that Adam passes through. Each of "
        f"{pairs} times both are measured on a random subset of {samples} images of its own, and "
        "`sharp compare` gives the difference and the ratio with intervals of nominally 95 %. "
        "Mean error is that of the differences, in standard deviations of what they are off.",
    )
    minima = [minimum(depth, images, setting.device) for depth in _DEPTHS]
    whole = [_result(name, *each[:2], tol=1e-5) for name, each in zip("ab", minima, strict=True)]
    true = _differences(whole)
    found = []
    started = time.perf_counter()
    for number in range(pairs):
        parts = []
        for which, (built, theta, _) in enumerate(minima):
            generator = torch.Generator().manual_seed(2 * number + which)
            chosen = torch.randperm(images, generator=generator)[:samples].sort().values
            part = functools.partial(Objective, built.network, fixed=built.fixed)
            parts.append(_result("ab"[which], part(rows=built.rows.take(chosen)), theta))
        found.append(_differences(parts))
        if number % 20 == 0:
            print(f"  {number} of {pairs}", file=sys.stderr)
    seconds = (time.perf_counter() - started) / pairs
    rows = []
    for name, key in _SHOWN.items():
        own, right = [each[key] for each in found], true[key]
        off = torch.tensor([each["value"] - right["value"] for each in own], dtype=torch.float64)
        error = sum(each["error"] for each in own) / pairs
        held = [each["interval"] and _within(each["interval"], right["value"]) for each in own]
        # A ratio's interval without an end holds everything, and is shown as a mark.
        ratio_held = [
            each["ratio_interval"] is None or _within(each["ratio_interval"], right["ratio"])
            for each in own
        ]
        shares = {
            what: 100 * sum(map(bool, hits)) / pairs
            for what, hits in (("difference", held), ("ratio", ratio_held))
        }
        rows.append(
            (
                name,
                f"{right['value']:.4g}",
                f"{right['ratio']:.4g}",
                f"{error / (float(off.square().mean().sqrt()) or 1.0):.2f}",
                *(f"{share:.1f} %" for share in shares.values()),
            )
        )
        for what, share in shares.items():
            met = share >= _LEAST
            section.bars.append(
                Bar(f"{what} of {name} covered", f"{share:.1f} %", f"≥ {_LEAST:g} %", met)
            )
    header = ("number", "difference", "ratio", "mean error", "difference held", "ratio held")
    losses = " and ".join(f"{loss:.2g}" for *_, loss in minima)
    title = f"Training losses {losses}, {seconds:.2f} s a pair"
    section.tables.append((title, header, rows))
    return section


def _result(
    name: str, built: Objective, theta: Tensor, *, tol: float = MeasureSettings.tol
) -> CheckpointResult:
    """A checkpoint of a document, as `sharp measure` makes it."""
    context = Context(built, {"train": built}, theta, MeasureSettings(tol=tol))
    try:
        measures = compute([known_measures()[each] for each in _MEASURES], context)
    finally:
        context.release()
    rows = built.rows
    sampled = {"examples_in_all": rows.total} if rows.sampled else {}
    about = {"path": f"{name}.pt", "metadata": {}, "examples": rows.count, **sampled}
    return CheckpointResult(about, measures=measures)


def _differences(results: list[CheckpointResult]) -> Mapping[str, Any]:
    document = to_document(Report("measure", {}, {}, {}, results))
    compared = to_document(compare([("a.json", document)], baseline="a"))
    measures = compared["results"][1]["measures"]
    return {key: measures[key]["difference"] for key in _SHOWN.values()}


def _within(interval: list[float], true: float) -> bool:
    return interval[0] <= true <= interval[1]
