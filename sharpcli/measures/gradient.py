"""Norms of the gradient, which are 0 at a stationary point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.linalg.orthogonal import dots
from sharpcli.measures.context import Context
from sharpcli.measures.rounding import with_rounding
from sharpcli.measures.sampling import gradient_errors

__all__ = ["gradient"]

# The ε inside Adam's denominator, as in PyTorch and in the paper.
ADAM_EPSILON = 1e-8
# A minimum's gradient is small relative to how far the loss can still fall: with λ1 the curvature,
# a Newton step along ∇L gains about ‖∇L‖²/(2λ1). Above this norm there is a warning.
_LARGE = 1.0


def gradient(context: Context) -> dict[str, Any]:
    """‖∇L‖₂, the perturbed 1-norm Σ√(g² + ε²) with ε = 1e-8, and the largest entry of |∇L|.

    Adam's memory (anti-)penalises the perturbed 1-norm. A checkpoint with a large norm is not a
    minimum. A gradient that is not finite is an error that names the first such parameter.

    Cost: one gradient, two on a subset, where the sampling error comes from shards.
    Source: Cattaneo, Klusowski & Shigida 2024.
    """
    _, found = context.value_and_gradient
    norm = float(dots(found[None], found[None])) ** 0.5
    if norm > _LARGE and not context.part:
        context.warnings.append(
            f"the gradient's norm is {norm:.3g}: this is not a minimum, so its curvature is that "
            "of a slope (train longer, or read the numbers with care)"
        )
    errors = gradient_errors(context)
    wide = context.objective.network.compute == torch.float64
    _, off = context.rounding.gradient
    rounding = {"norm": float(off.norm()), "l1": float(off.sum()), "max": float(off.max())}
    values = {"norm": norm, "l1": _perturbed_l1(found), "max": float(found.abs().max())}
    numbers = {
        name: replace(
            with_rounding(
                value, rounding[name], errors[name].error, errors[name].status, wide=wide
            ),
            shards=errors[name].shards,
            sampling_shift=errors[name].shift,
        )
        for name, value in values.items()
    }
    return {"gradient": {**numbers, "evaluations": 1}}


def _perturbed_l1(vector: Tensor) -> float:
    return float((vector.double().square() + ADAM_EPSILON**2).sqrt().sum())
