"""The measures: one file each, and the registry that names them.

A package adds its own through the entry point group `sharpcli.measures`: the entry's name is the
measure's, its object a `Measure`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Any

from sharpcli.documents.results import Scalar, is_scalar
from sharpcli.documents.statuses import Status
from sharpcli.errors import SharpError, UsageError, did_you_mean, setting
from sharpcli.measures.context import Context
from sharpcli.measures.epsilon_sharpness import epsilon_sharpness
from sharpcli.measures.gradient import gradient
from sharpcli.measures.hessian import hessian, trace
from sharpcli.measures.loss import loss
from sharpcli.objective.checks import SMALLEST_SOUND, end_of_float64

__all__ = ["Context", "Measure", "choose", "compute", "known_measures", "readers"]


@dataclass(frozen=True)
class Measure:
    """A measure's name, what it means, and the function that computes it.

    `compute(context)` returns its numbers by JSON key. `needs_curvature` says that second
    derivatives are taken, which are then checked once for the model. `of_parameters` is false where
    the numbers do not depend on which parameters are measured. `reads` are the parameters of the
    command that not all measures read and this one does (None: any of them).
    """

    name: str
    meaning: str
    formula: str
    cost: str
    invariances: str
    source: str
    warns: str
    compute: Callable[[Context], Mapping[str, Any]]
    default: bool = False
    needs_curvature: bool = False
    of_parameters: bool = True
    reads: tuple[str, ...] | None = None


_CURVATURE = ("operator", "hvp", "max_products")
_BUILT_IN = (
    Measure(
        name="loss",
        meaning="loss and metrics on train and test, and their gap",
        formula="L = Σ sum / Σ weight over the examples; gap = test − train",
        cost="one forward pass a split",
        invariances="all that leave the function alone",
        source="—",
        warns="compared training losses that differ by more than 2×",
        compute=loss,
        default=True,
        of_parameters=False,
        reads=(),
    ),
    Measure(
        name="epsilon-sharpness",
        meaning="how much the loss can rise within a small box",
        formula="φ = 100·(max over |zᵢ| ≤ ε(|(A⁺θ)ᵢ| + 1) of L(θ + Az) − L(θ))/(1 + L(θ))",
        cost="for each ε (and random subspace) 10 to 20 gradients (lbfgsb), about 40 (corner)",
        invariances="none: rescaling layers changes it",
        source="Keskar et al. 2017, metric 2.1",
        warns="maximisers that differ by more than 10 %; a box that the dtype does not resolve",
        compute=epsilon_sharpness,
        default=True,
        reads=("epsilons", "subspaces", "draws", "maximizer"),
    ),
    Measure(
        name="gradient",
        meaning="how far from stationary: norms of the gradient",
        formula="‖∇L‖₂, Σ√(g² + 1e-16), max |g|",
        cost="one gradient",
        invariances="none",
        source="Cattaneo, Klusowski & Shigida 2024 (the perturbed 1-norm)",
        warns="a norm that says this is not a minimum",
        compute=gradient,
        default=True,
        reads=(),
    ),
    Measure(
        name="hessian",
        meaning="the largest eigenvalues of the Hessian, and the most negative one",
        formula="λ1 ≥ … ≥ λk and λmin of ∇²L(θ), residual ‖Hv − λv‖",
        cost="30 to 60 products; a product is 1.5 to 2.8 gradients",
        invariances="rotations of θ; not rescaling",
        source="block Lanczos with thick restarts (Wu & Simon 2000)",
        warns="eigenvalues that did not converge; a failed self-check of second derivatives",
        compute=hessian,
        default=True,
        needs_curvature=True,
        reads=(*_CURVATURE, "top", "tol", "coarse"),
    ),
    Measure(
        name="trace",
        meaning="the sum of all eigenvalues of the Hessian",
        formula="tr ∇²L(θ), with the standard error of its random part",
        cost="6 products or more, beside those that hessian has made",
        invariances="rotations of θ; not rescaling",
        source="Hutch++ (Meyer et al. 2021)",
        warns="a standard error above the share that is asked for",
        compute=trace,
        default=True,
        needs_curvature=True,
        reads=(*_CURVATURE, "relative_error"),
    ),
)


def known_measures() -> dict[str, Measure]:
    """Every measure by name: the built-in ones, then those of installed packages."""
    known = {measure.name: measure for measure in _BUILT_IN}
    for entry in entry_points(group="sharpcli.measures"):
        found = entry.load()
        if not isinstance(found, Measure):
            raise SharpError(
                f"the entry point '{entry.name}' of sharpcli.measures ({entry.value}) is not a "
                "sharpcli.measures.Measure",
                "mend or uninstall the package that brings it",
            )
        known.setdefault(entry.name, found)
    return known


def choose(names: Sequence[str]) -> list[Measure]:
    """The measures called `names` in the registry's order, the default set where there are none.

    "all" means every one. Raises `UsageError` for a name that there is not.
    """
    known = known_measures()
    for name in names:
        if name != "all" and name not in known:
            parts = [part.strip() for part in name.split(",")]
            hint = (
                f"give each its own option: {setting('measures', parts)}"
                if all(part in known for part in parts)
                else did_you_mean(name, [*known, "all"])
            )
            raise UsageError(f"{setting('measure', name)}: there is no such measure", hint)
    if "all" in names:
        return list(known.values())
    return [m for m in known.values() if (m.name in names if names else m.default)]


def readers(measures: Sequence[Measure]) -> dict[str, list[str]]:
    """Which measures would read a parameter of the command that none of `measures` reads."""
    if any(measure.reads is None for measure in measures):
        return {}
    read = {name for measure in measures for name in measure.reads or ()}
    unread: dict[str, list[str]] = {}
    for known in known_measures().values():
        for name in known.reads or ():
            if name not in read:
                unread.setdefault(name, []).append(known.name)
    return unread


def compute(measures: Sequence[Measure], context: Context) -> dict[str, Any]:
    """Every measure's numbers by JSON key, each with the seconds that it took."""
    found: dict[str, Any] = {}
    for measure in measures:
        context.progress = context.begin(measure.name)
        started = time.perf_counter()
        numbers = dict(measure.compute(context))
        context.synchronize()
        seconds = time.perf_counter() - started
        key = next(iter(numbers))
        if isinstance(numbers[key], Mapping):
            numbers[key] = {**numbers[key], "seconds": seconds}
        found |= numbers
    return _without_vanished(found, context)


# By key, the numbers that are made of the loss and its derivatives at θ.
_OF_THE_LOSS = ("gradient", "hessian", "trace")


def _without_vanished(found: dict[str, Any], context: Context) -> dict[str, Any]:
    """The numbers, those marked that are rounding because the loss is at the end of float64."""
    own = (name for name, each in context.splits.items() if each is context.objective)
    split = next(own, None)
    if "loss" in found and split:
        loss = found["loss"][split].value
    elif "value_and_gradient" in context.__dict__:
        loss = context.value_and_gradient[0]
    else:
        return found
    advice = end_of_float64(context.objective, loss, context.theta)
    if advice is None:
        return found
    marked = {key: _marked(found[key], advice) for key in _OF_THE_LOSS if key in found}
    if "loss" in found and split:
        marked["loss"] = {**found["loss"], split: _marked(found["loss"][split], advice)}
    if "epsilon_sharpness" in found:
        # The box may reach where the loss is large enough.
        marked["epsilon_sharpness"] = [
            _marked(entry, f"{advice}, or take a larger {setting('epsilons')}")
            if entry["loss_at_maximum"] < SMALLEST_SOUND
            else entry
            for entry in found["epsilon_sharpness"]
        ]
    return found | marked


def _marked(node: Any, advice: str) -> Any:
    """Measures in which no number has converged, for the reason in `advice`."""
    if isinstance(node, Scalar):
        return replace(node, status=Status.PRECISION, advice=advice)
    if isinstance(node, Mapping):
        inner = {key: _marked(value, advice) for key, value in node.items()}
        return inner | ({"status": Status.PRECISION, "advice": advice} if is_scalar(node) else {})
    return [_marked(each, advice) for each in node] if isinstance(node, list) else node
