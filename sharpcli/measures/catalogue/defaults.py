"""The measures of a run that names none."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from sharpcli.errors import setting
from sharpcli.measures.measure import Column, Measure, loaded_later, marked
from sharpcli.settings.measuring import MeasureSettings

__all__ = ["CURVATURE", "DEFAULTS"]


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


def _of_sharpness(settings: MeasureSettings, size: int) -> float:
    """The gradients of the searches in all boxes.

    On 784-512-512-10 lbfgsb took 10 gradients, corner 37, and both 4 forward passes in float64.
    """
    each = {"lbfgsb": 14.0, "corner": 40.0, "both": 49.0, "raw": 20.0}[settings.maximizer]
    wide = sum(max(0.0, math.log10(epsilon / 1e-3) - 0.5) for epsilon in settings.epsilons)
    boxes = sum(settings.draws if p and p < size else 1 for p in settings.subspaces)
    return boxes * (each * len(settings.epsilons) + 30.0 * wide)


def _of_eigenvalues(settings: MeasureSettings, size: int) -> float:
    """The gradients of the products: 44 for five eigenvalues and the smallest, of 1.7 each."""
    products = min(max(44, 5 * (settings.top + 4)), settings.max_products or size, size)
    return 1.7 * products


CURVATURE = ("operator", "hvp", "max_products")
DEFAULTS = (
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
        gradients=lambda _, __: 1 / 3,
        needs_gradients=False,
        scale_invariant=True,
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
        one_split=True,
        default=True,
        reads=("epsilons", "subspaces", "draws", "maximizer"),
        scale_invariant=False,
        gradients=_of_sharpness,
        place=20,
        columns=(
            Column(
                r"epsilon_sharpness\[(([^,\]]+)(?:,(p=\d+))?)\]",
                "φ {1} {2}",
                leading="φ({0})",
                larger_is_sharper=True,
            ),
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
        one_split=True,
        default=True,
        reads=(),
        scale_invariant=False,
        gradients=lambda _, __: 1.0,
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
        one_split=True,
        default=True,
        needs_curvature=True,
        reads=(*CURVATURE, "top", "tol"),
        scale_invariant=False,
        gradients=_of_eigenvalues,
        place=30,
        columns=(
            Column(r"hessian\.eigenvalues\[0\]", "λ1", leading="λ1", larger_is_sharper=True),
            Column(r"hessian\.eigenvalues\[\d+\]", None, larger_is_sharper=True),
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
        one_split=True,
        default=True,
        needs_curvature=True,
        reads=(*CURVATURE, "relative_error"),
        scale_invariant=False,
        gradients=lambda _, __: 17.0,  # 6 products and as much again for 44 projections
        place=40,
        columns=(Column("trace", "trace", leading="trace", larger_is_sharper=True),),
        legend={"trace": "trace: of the Hessian, the sum of its eigenvalues"},
        vanished=marked,
    ),
)
