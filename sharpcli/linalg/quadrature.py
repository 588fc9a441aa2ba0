"""The spectrum of a symmetric operator by stochastic Lanczos quadrature.

A random vector sees every eigenvalue with weight 1/n on average; m Lanczos steps from it give the
m-point Gauss quadrature of what it sees (Golub & Welsch 1969; Ubaru, Chen & Saad 2017; for networks
Ghorbani, Krishnan & Xiao 2019). Eigenvalues at the ends that every probe resolves are counted
exactly, 1/n a copy, and the probes answer for the rest only (the deflation of Hutch++, Meyer et
al. 2021): without it four moments of a spectrum with outliers would be noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..progress import Progress, silent
from .orthogonal import combine, random_rows
from .probes import RESOLVED, End, Nodes, lanczos, outermost

if TYPE_CHECKING:
    from ..operators import SymmetricOperator

__all__ = ["Moment", "Quadrature", "choose_probes", "quadrature"]

# Probes by default: p of them tell n·p eigenvalues, and the mass in twenty even bins is then off
# by 2.5/√(n·p) in total variation, less than 0.01. So many of 80 steps take more products than
# 3,000 parameters have columns: those are computed whole, since where a spike meets a bin's edge no
# number of probes helps. Two at least: copies of an eigenvalue show in what differs between probes.
_SAMPLES = 120_000
_FEWEST, _MOST = 2, 40
# Rounding of products and of the tridiagonal matrix, in machine epsilons of ‖A‖ (as in `eigsh`).
_ROUNDING = 16
# Columns of the identity that go through the operator at once.
_COLUMNS = 16


@dataclass(frozen=True)
class Moment:
    """(1/n) Σ λᵏ and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Quadrature:
    """A spectrum as eigenvalues that are known, and nodes with weights for all others.

    `top` and `bottom` are the eigenvalues known at either end, in descending order and with copies
    repeated; their `errors` bound how far each is from one. `rest` is what each probe sees of the
    others, its weights summing to (n − known)/n; empty where all are known. All float64 on the
    CPU. `rounding` is how far any value may be off for the arithmetic's sake.
    """

    size: int
    top: Tensor
    top_errors: Tensor
    bottom: Tensor
    bottom_errors: Tensor
    rest: Sequence[Nodes]
    rounding: float
    probes: int
    steps: int
    products: int

    @property
    def known(self) -> Tensor:
        """The eigenvalues that are known, in descending order."""
        return torch.cat([self.top, self.bottom])

    def nodes(self) -> tuple[Tensor, Tensor]:
        """All nodes in ascending order with their weights, which sum to 1."""
        share = torch.full_like(self.known, 1 / self.size)
        values = torch.cat([self.known, *(probe.values for probe in self.rest)])
        weights = torch.cat([share, *(probe.weights / len(self.rest) for probe in self.rest)])
        order = values.argsort()
        return values[order], weights[order]

    def ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The largest and the smallest Ritz value, each with its residual."""
        values = torch.cat([self.known, *(probe.values for probe in self.rest)])
        errors = torch.cat(
            [self.top_errors, self.bottom_errors, *(probe.residuals for probe in self.rest)]
        )
        high, low = int(values.argmax()), int(values.argmin())
        return (float(values[high]), float(errors[high])), (float(values[low]), float(errors[low]))

    def moments(self, count: int = 4) -> list[Moment]:
        """(1/n) Σ λᵏ for k from 1 to `count`, exact in what is known, each with its error.

        A random direction v in the rest's d dimensions gives vᵀf(A)v the variance
        2·Var(f)/(d + 2), Var over the rest's eigenvalues. The quadrature itself tells Var(λᵏ), so
        the error does not hang on the scatter of a few probes.
        """
        found = []
        dimensions = self.size - len(self.known)
        errors = RESOLVED * torch.cat([self.top_errors, self.bottom_errors]) + self.rounding
        scale = float(self.nodes()[0].abs().max())
        for power in range(1, count + 1):
            value = float((self.known**power).sum()) / self.size
            slopes = power * self.known.abs() ** (power - 1)
            error = float((slopes * errors).sum()) / self.size
            if self.rest:
                share = dimensions / self.size
                mean = sum(probe.mean(power) for probe in self.rest) / len(self.rest)
                squares = [self._at_least_one(probe).mean(2 * power) for probe in self.rest]
                spread = max(sum(squares) / len(squares) - mean**2, 0.0)
                variance = 2 * spread / (dimensions + 2) / len(self.rest)
                value += share * mean
                error += share * variance**0.5
            # Products err by rounding·‖A‖ in every direction, wherever the eigenvalues are.
            error = max(error, self.rounding * scale ** (power - 1) / self.size**0.5)
            found.append(Moment(value, error))
        return found

    def _at_least_one(self, probe: Nodes) -> Nodes:
        """The probe's nodes, where it saw little of an eigenvalue that it resolves with all of it.

        What a probe missed would be missing from its error as well.
        """
        whole = probe.resolved(self.rounding) * (1 / self.size)
        return replace(probe, weights=torch.maximum(probe.weights, whole.to(probe.weights)))


def choose_probes(size: int) -> int:
    """As many probes as the mass in twenty bins needs: 40 of a small operator, 2 of a big one."""
    return min(max(-(-_SAMPLES // size), _FEWEST), _MOST)


def quadrature(
    operator: SymmetricOperator,
    *,
    probes: int,
    steps: int,
    seed: int = 0,
    together: int = 1,
    most_known: int | None = None,
    basis_device: torch.device | None = None,
    progress: Progress = silent,
) -> Quadrature:
    """The spectrum of an operator from `probes` random directions, `steps` Lanczos steps from each.

    `together` probes advance in step, so that what an operator rebuilds for a product serves all
    of them; each keeps a basis of steps·n numbers meanwhile on `basis_device` (default: the
    operator's), and the vectors of the eigenvalues that they agree upon lie beside it, `most_known`
    (default: `steps`) of them. Where probes·steps products would give the whole matrix, they do,
    and all eigenvalues are known. With a single probe none are: copies of an eigenvalue show in
    what differs between probes. Cost: probes·steps products, or n where that is less;
    orthogonalisation takes 2·steps²·n operations a probe.
    """
    n = operator.size
    if n <= probes * steps:
        return _complete(operator, probes, steps, progress)
    generator = torch.Generator().manual_seed(seed)
    like = torch.empty(0, n, dtype=operator.dtype, device=basis_device or operator.device)
    started, runs, tops, bottoms = operator.products, [], End(1.0), End(-1.0)
    rounding = 0.0
    for start in range(0, probes, together):
        starts = random_rows(min(together, probes - start), like, generator)

        def say(step: int, done: int = start, count: int = len(starts)) -> None:
            progress(done * steps + step * count, probes * steps)

        for nodes, coordinates, basis in lanczos(operator, starts, steps, say):
            epsilon = torch.finfo(operator.dtype).eps
            rounding = max(rounding, _ROUNDING * epsilon * float(nodes.values.abs().max()))
            runs.append(nodes)
            if probes > 1:
                upper, lower = outermost(nodes, rounding, most_known or steps)
                wanted = sorted({*upper, *lower})
                combine(coordinates[:, wanted].T, basis)
                vectors = dict(zip(wanted, basis, strict=False))
                tops.meet(nodes, upper, vectors, rounding)
                bottoms.meet(nodes, lower, vectors, rounding)
                del vectors
        del basis  # a block's bases go before those of the next one come
    tops.settle(probes)
    bottoms.settle(probes, above=tops)
    top, top_errors = tops.eigenvalues()
    bottom, bottom_errors = (x.flip(0) for x in bottoms.eigenvalues())
    share = (n - len(top) - len(bottom)) / n
    rest = [_without_ends(nodes, top[-1:], bottom[:1], share, rounding) for nodes in runs]
    products = operator.products - started
    return Quadrature(
        n, top, top_errors, bottom, bottom_errors, rest, rounding, probes, steps, products
    )


def _complete(
    operator: SymmetricOperator, probes: int, steps: int, progress: Progress
) -> Quadrature:
    """All eigenvalues, from the operator's columns."""
    n, started = operator.size, operator.products
    matrix = torch.empty(n, n, dtype=torch.float64)
    for start in range(0, n, _COLUMNS):
        stop = min(start + _COLUMNS, n)
        columns = torch.zeros(n, stop - start, dtype=operator.dtype, device=operator.device)
        columns[torch.arange(start, stop), torch.arange(stop - start)] = 1.0
        matrix[:, start:stop] = (operator @ columns).to("cpu", torch.float64)
        progress(stop, n)
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).flip(0)
    rounding = _ROUNDING * torch.finfo(operator.dtype).eps * float(values.abs().max())
    values = torch.where(values.abs() <= rounding, 0.0, values)
    none, products = values[:0], operator.products - started
    errors = torch.full_like(values, rounding)
    return Quadrature(n, values, errors, none, none, [], rounding, probes, steps, products)


def _without_ends(
    nodes: Nodes, top: Tensor, bottom: Tensor, share: float, rounding: float
) -> Nodes:
    """The nodes between what is known, weights made to sum to `share`; those at zero are zero."""
    slack = nodes.residuals + rounding
    inner = torch.ones_like(slack, dtype=torch.bool)
    if len(top):
        inner &= nodes.values < top - slack
    if len(bottom):
        inner &= nodes.values > bottom + slack
    values, weights = nodes.values[inner], nodes.weights[inner]
    values = torch.where(values.abs() <= rounding, 0.0, values)
    return Nodes(values, weights * (share / float(weights.sum())), nodes.residuals[inner])
