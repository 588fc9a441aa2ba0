"""The Fisher-Rao norm of the parameters."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from sharpcli.curvature import Rounding, make_operator
from sharpcli.documents.scalars import Scalar
from sharpcli.errors import SharpError
from sharpcli.linalg.orthogonal import dots
from sharpcli.measures.context import Context
from sharpcli.measures.rounding import with_rounding
from sharpcli.measures.sampling import error_of_mean
from sharpcli.objective.shards import shards

__all__ = ["applies", "fisher_rao"]


def applies(context: Context) -> None:
    """Raise `SharpError` unless the loss is known to be a log-likelihood."""
    task = context.objective.network.task
    if not getattr(task.loss, "exponential_family", False):
        raise SharpError(
            f"the distribution behind the loss of task '{task.name}' is not known, so there is no "
            "Fisher matrix",
            "where the outputs are a distribution's natural parameters, as for cross-entropy and "
            "squares, say so in the task by `loss.exponential_family = True`",
        )


def fisher_rao(context: Context) -> dict[str, Any]:
    """θᵀFθ, and its root, the norm; F is the model's Fisher matrix, as for softmax.

    F is the mean over the data's inputs of the outer products of ∇ℓ with targets drawn from the
    model, which equals the Gauss-Newton matrix. It is neither the Hessian nor the empirical Fisher
    matrix. It does not change if layers are rescaled so that the function stays, since θᵀFθ needs
    only the derivative of the outputs along θ.

    Cost: one product of the Gauss-Newton matrix; on a sample one more, over all shards together.
    Source: Liang, Poggio, Rakhlin & Stokes 2019, definition 2.
    """
    theta = context.theta
    settings = replace(context.settings.curvature, operator="fisher")
    value = _quadratic(context.objective, theta, settings)
    rounding = Rounding(context.objective, theta, settings, seed=context.seed)
    off = math.sqrt(float(dots(theta[None], theta[None]))) * float(
        rounding.products(theta[None]).norm()
    )
    sampled = error_of_mean(
        context,
        "the Fisher-Rao norm",
        lambda: torch.tensor(
            [
                _quadratic(shard, theta, settings)
                for shard in shards(context.objective, context.seed)
            ],
            dtype=torch.float64,
        ),
    )
    wide = context.objective.network.compute == torch.float64
    squared = with_rounding(value, off, sampled.error, sampled.status, wide=wide)
    squared = replace(squared, shards=sampled.shards)
    return {"fisher_rao": {"squared": squared, "norm": _root(squared), "products": 1}}


def _quadratic(objective: Any, theta: torch.Tensor, settings: Any) -> float:
    operator = make_operator(objective, theta, settings)
    try:
        return float(dots(theta[None], (operator @ theta)[None]))
    finally:
        operator.release()


def _root(square: Scalar) -> Scalar:
    """The root of a number, its errors to first order."""
    value = math.sqrt(max(square.value or 0.0, 0.0))

    def halved(error: float | None) -> float | None:
        return None if error is None or not value else error / (2 * value)

    by_shard = [(value + each / value) / 2 for each in square.shards or ()] if value else []
    return replace(
        square,
        value=value,
        error=halved(square.error),
        sampling_error=halved(square.sampling_error),
        shards=by_shard or None,
    )
