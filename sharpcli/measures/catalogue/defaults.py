"""The measures of a run that names none."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from sharpcli.errors import setting
from sharpcli.measures.measure import Column, Measure, loaded_later, marked
from sharpcli.settings import MeasureSettings

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
        reads=(*CURVATURE, "top", "tol"),
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
        default=True,
        needs_curvature=True,
        reads=(*CURVATURE, "relative_error"),
        place=40,
        columns=(Column("trace", "trace", leading="trace", larger_is_sharper=True),),
        legend={"trace": "trace: of the Hessian, the sum of its eigenvalues"},
        vanished=marked,
    ),
)
