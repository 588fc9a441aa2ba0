"""The measures: one file each, and the registry that names and describes them.

A package adds its own through the entry point group `sharpcli.measures`: the entry's name is the
measure's name, its object is a `Measure`. Importing this module does not import torch: the
functions are loaded when called.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from sharpcli.errors import SharpError, UsageError, did_you_mean, setting
from sharpcli.measures.measure import Column, Measure, Option, loaded_later, marked
from sharpcli.settings import MeasureSettings

if TYPE_CHECKING:
    from sharpcli.measures.computing import compute
    from sharpcli.measures.context import Context

__all__ = [
    "Column",
    "Context",
    "Measure",
    "Option",
    "choose",
    "compute",
    "known_measures",
    "options_of",
    "readers",
]


def _split_marked(numbers: Mapping[str, Any], split: str | None, advice: str) -> Any:
    """Mark the loss's numbers of one split."""
    return {**numbers, split: marked(numbers[split], split, advice)} if split else numbers


def _where_all_eigenvalues_are(keys: Collection[str]) -> list[str]:
    """A remark on where to find eigenvalues beyond the five of a default run."""
    found = [re.fullmatch(r"hessian\.eigenvalues\[(\d+)\]", key) for key in keys]
    most = max((1 + int(match[1]) for match in found if match), default=0)
    if most <= MeasureSettings().top:
        return []
    as_json, as_csv = setting("format", "json"), setting("format", "csv")
    return [f"λ1 to λ{most}: {as_json} or {as_csv} prints them all"]


_CURVATURE = ("operator", "hvp", "max_products")
_MEASURES = (
    Measure(
        name="loss",
        meaning="loss and metrics on train and test, and their gap",
        formula="L = Σ sum / Σ weight over the examples; gap = test − train",
        cost="one forward pass a split",
        invariances="anything that leaves the function unchanged",
        source="—",
        warns="compared training losses that differ by more than 2×",
        compute=loaded_later("loss.loss"),
        default=True,
        of_parameters=False,
        reads=(),
        needs_gradients=False,
        place=0,
        columns=(
            Column(r"loss\.train", "loss train", leading="the loss"),
            Column(r"loss\.test", "loss test", leading="the loss"),
            Column(r"loss\.gap", "gap"),
        ),
        legend={"gap": "gap: test loss minus training loss"},
        vanished=_split_marked,
    ),
    Measure(
        name="epsilon-sharpness",
        meaning="how much the loss can rise within a small box",
        formula="φ = 100·(max over |zᵢ| ≤ ε(|(A⁺θ)ᵢ| + 1) of L(θ + Az) − L(θ))/(1 + L(θ))",
        cost="for each ε (and random subspace) 10 to 20 gradients (lbfgsb), about 40 (corner)",
        invariances="none: rescaling layers changes it",
        source="Keskar et al. 2017, metric 2.1",
        warns="maximisers that differ by more than 10 %; a box that the dtype does not resolve",
        compute=loaded_later("epsilon_sharpness.epsilon_sharpness"),
        default=True,
        reads=("epsilons", "subspaces", "draws", "maximizer"),
        place=20,
        columns=(
            Column(r"epsilon_sharpness\[(([^,\]]+)(?:,(p=\d+))?)\]", "φ {1} {2}", leading="φ({0})"),
        ),
        legend={
            "φ": "φ ε: sharpness, 100·(max L − L)/(1 + L) over the box of half-width ε(|θᵢ| + 1)",
            "p=": "p=…: φ in a random subspace of that many dimensions",
        },
        vanished=loaded_later("epsilon_sharpness.vanished"),
    ),
    Measure(
        name="gradient",
        meaning="norms of the gradient, which are 0 at a stationary point",
        formula="‖∇L‖₂, Σ√(g² + 1e-16), max |g|",
        cost="one gradient",
        invariances="none",
        source="Cattaneo, Klusowski & Shigida 2024 (the perturbed 1-norm)",
        warns="a norm too large for a minimum",
        compute=loaded_later("gradient.gradient"),
        default=True,
        reads=(),
        place=50,
        exact=True,
        columns=(
            Column(r"gradient\.norm", "‖∇L‖"),
            Column(r"gradient\.(l1|max)", None),
        ),
        legend={"‖∇L‖": "‖∇L‖: the gradient's 2-norm; if it is large, this is not a minimum"},
        vanished=marked,
    ),
    Measure(
        name="hessian",
        meaning="the largest eigenvalues of the Hessian, and the most negative one",
        formula="λ1 ≥ … ≥ λk and λmin of ∇²L(θ), residual ‖Hv − λv‖",
        cost="30 to 60 products; a product is 1.5 to 2.8 gradients",
        invariances="rotations of θ; not rescaling",
        source="block Lanczos with thick restarts (Wu & Simon 2000)",
        warns="eigenvalues that did not converge; a failed self-check of second derivatives",
        compute=loaded_later("hessian.hessian"),
        default=True,
        needs_curvature=True,
        reads=(*_CURVATURE, "top", "tol"),
        place=30,
        columns=(
            Column(r"hessian\.eigenvalues\[0\]", "λ1", leading="λ1"),
            Column(r"hessian\.eigenvalues\[\d+\]", None),
            Column(r"hessian\.ratio_1_5", "λ1/λ5"),
            Column(r"hessian\.smallest", "λmin"),
        ),
        legend={"λ1": "λ1, λ5, λmin: eigenvalues of the Hessian, largest, fifth and smallest"},
        remarks=_where_all_eigenvalues_are,
        check=loaded_later("hessian.check"),
        vanished=marked,
    ),
    Measure(
        name="trace",
        meaning="the sum of all eigenvalues of the Hessian",
        formula="tr ∇²L(θ), with the standard error of its random part",
        cost="6 products or more, in addition to those of hessian",
        invariances="rotations of θ; not rescaling",
        source="Hutch++ (Meyer et al. 2021)",
        warns="a standard error above the share that is asked for",
        compute=loaded_later("hessian.trace"),
        default=True,
        needs_curvature=True,
        reads=(*_CURVATURE, "relative_error"),
        place=40,
        columns=(Column("trace", "trace", leading="trace"),),
        legend={"trace": "trace: of the Hessian, the sum of its eigenvalues"},
        vanished=marked,
    ),
)


BUILT_IN: Mapping[str, Measure] = {measure.name: measure for measure in _MEASURES}


def known_measures(
    among: Collection[str] | None = None, *, strict: bool = True
) -> dict[str, Measure]:
    """Every measure by name: the built-in ones, then those of installed packages.

    `among` restricts the latter to those whose name, with underscores, is one of these JSON keys.
    Unless `strict`, packages that cannot be used are left out.

    Raises:
        SharpError: if a package's entry point cannot be imported or is not a `Measure`.
    """
    known = dict(BUILT_IN)
    for entry in entry_points(group="sharpcli.measures") if among is None or among else ():
        if among is not None and entry.name.replace("-", "_") not in among:
            continue
        try:
            known.setdefault(entry.name, _loaded(entry))
        except SharpError:
            if strict:
                raise
    return known


def _loaded(entry: EntryPoint) -> Measure:
    """The measure of a package's entry point; raises `SharpError` if there is none."""
    where = f"the entry point '{entry.name}' of sharpcli.measures ({entry.value})"
    hint = "fix or uninstall the package that brings it"
    try:
        found = entry.load()
    except Exception as error:  # whatever the package's own code raises
        raise SharpError(
            f"{where} cannot be imported: {type(error).__name__}: {error}", hint
        ) from error
    if not isinstance(found, Measure):
        raise SharpError(f"{where} is not a sharpcli.measures.Measure", hint)
    return found


def choose(names: Sequence[str]) -> list[Measure]:
    """The measures called `names` in the registry's order, or the default set if there are none.

    "all" selects every measure.

    Raises:
        UsageError: if a name is unknown.
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
            raise UsageError(f"{setting('measures', [name])}: there is no such measure", hint)
    if "all" in names:
        return list(known.values())
    return [m for m in known.values() if (m.name in names if names else m.default)]


def readers(measures: Sequence[Measure]) -> dict[str, list[str]]:
    """The measures that would read command parameters which none of `measures` reads."""
    if any(measure.reads is None for measure in measures):
        return {}
    read = {name for measure in measures for name in _read_by(measure)}
    unread: dict[str, list[str]] = {}
    for known in known_measures(strict=False).values():
        for name in _read_by(known):
            if name not in read:
                unread.setdefault(name, []).append(known.name)
    return unread


def _read_by(measure: Measure) -> list[str]:
    return [*(measure.reads or ()), *(option.name for option in measure.options)]


def options_of(measures: Sequence[Measure], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the options that these measures bring: as `given`, else their defaults.

    Raises:
        UsageError: if no measure has an option of that name, and for a value out of its range.
    """
    every = known_measures(strict=False).values()
    known = {option.name: option for measure in every for option in measure.options}
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"{name}: no measure has this option", did_you_mean(name, known))
        known[name].check(value)
    options = [option for measure in measures for option in measure.options]
    return {option.name: given.get(option.name, option.default) for option in options}


def __getattr__(name: str) -> Any:
    """Import what loads torch only on request."""
    homes = {"Context": "context", "compute": "computing"}
    if name not in homes:
        raise AttributeError(f"module 'sharpcli.measures' has no attribute '{name}'")
    return getattr(import_module(f"sharpcli.measures.{homes[name]}"), name)
