"""The largest eigenvalue alone, to a few per cent, in as few products as its proof needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpcli.linalg.krylov import Krylov, expand, restart, start_space, turn
from sharpcli.linalg.missed import hidden_shares, missed_probability

if TYPE_CHECKING:
    from sharpcli.linalg.operator import SymmetricOperator

__all__ = ["MISSED", "Largest", "largest"]

# The probability that an eigenvalue lies farther above the value than `above`. At 0.001, as in
# `eigsh`, the text GPT takes 8 products in place of 6.8.
MISSED = 0.01
_ROWS, _KEPT = 40, 4  # rows at which the basis is restarted, and Ritz vectors that stay
# Distances above the value that are tried, from the residual or this share of the limit on.
_PLACES, _NEAREST = 24, 1e-2


@dataclass(frozen=True)
class Largest:
    """A Ritz pair: `image` (n,) is Av of the unit `vector` v (n,), `residual` ‖Av − value·v‖.

    No eigenvalue is more than `above` larger, except with probability `MISSED`; infinite where that
    is not known. `met` says whether both are within the tolerance. `asymmetry` is how far rounding
    or rough products may have moved the value.
    """

    value: float
    vector: Tensor
    image: Tensor
    residual: float
    above: float
    met: bool
    asymmetry: float
    products: int


def largest(
    operator: SymmetricOperator,
    generator: torch.Generator,
    *,
    tolerance: float,
    max_products: int = 120,
    rough: bool = False,
) -> Largest:
    """λ1 by Lanczos from one random vector, until residual and proof are within a share of |λ1|.

    Args:
        operator: a symmetric operator of size n.
        generator: of the random start, which has to be independent of the operator.
        tolerance: the share.
        max_products: stop after so many.
        rough: products are good to some digits only. The start excludes then as if they were exact,
            so their error has to be added to `above`; and the search ends as soon as they are less
            symmetric than the tolerance.

    Cost: 5 to 14 products at 5 % on trained networks, up to 25 before the first step.
    """
    space = start_space(operator, 1, _ROWS + 1, generator)
    started = operator.products
    while True:
        if space.size + space.width > _ROWS and not space.complete:
            restart(space, _KEPT, 0)
        expand(space, operator, generator)
        values, _, residuals = space.ritz()
        value, residual = float(values[0]), float(residuals[0])
        limit, above = tolerance * abs(value), math.inf
        if space.complete:
            above = 0.0
        elif space.size > 1 and residual <= limit:
            noise = 0.0 if rough else math.hypot(space.noise, space.dropped)
            above = _above(space, value, residual, limit, noise)
        met = max(residual, above) <= limit
        used = operator.products - started
        hopeless = rough and space.size > 1 and space.rounding > limit
        if met or hopeless or space.complete or used >= max_products:
            break
    moved = math.hypot(space.rounding, space.dropped)
    values, vectors, _ = space.ritz()
    beyond = space.coupling @ vectors[-space.coupling.shape[1] :, 0]
    image = beyond.to(space.pending) @ space.pending
    turn(space, values[:1], vectors[:, :1])
    vector = space.basis[0].to(operator.device)
    image = image.to(vector) + value * vector
    return Largest(value, vector, image, residual, above, met and not hopeless, moved, used)


def _above(space: Krylov, value: float, residual: float, limit: float, noise: float) -> float:
    """The least distance from which on the start excludes an eigenvalue; infinite beyond `limit`.

    The chance falls steadily above the largest Ritz value.
    """
    if not limit:
        return math.inf
    first = min(max(residual / limit, _NEAREST), 1.0)
    steps = torch.logspace(math.log10(first), 0.0, _PLACES, dtype=torch.float64) * limit
    shares = hidden_shares(space.history(), value + steps, noise)
    open_ = (missed_probability(shares, 0, space.rows.shape[1]) > MISSED).nonzero().ravel()
    if not len(open_):
        return float(steps[0])
    last = int(open_[-1]) + 1
    return float(steps[last]) if last < len(steps) else math.inf
