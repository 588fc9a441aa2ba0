"""The spectrum of a symmetric operator by stochastic Lanczos quadrature.

On average a random vector sees every eigenvalue with weight 1/n. Lanczos with m steps from it gives
the m-point Gauss quadrature of what it sees (Golub & Welsch 1969; Ubaru, Chen & Saad 2017; for
networks Ghorbani, Krishnan & Xiao 2019). Eigenvalues at the ends that every probe resolves are
counted exactly, 1/n a copy, and the probes only estimate the rest (the deflation of Hutch++, Meyer
et al. 2021). Without it, four moments of a spectrum with outliers would be noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpcli.linalg.exclusion import Runs
from sharpcli.linalg.orthogonal import combine, random_rows
from sharpcli.linalg.probes import RESOLVED, ROUNDING, End, Nodes, lanczos, outermost
from sharpcli.runtime.progress import Progress, silent
from sharpcli.runtime.randomness import own_generator

if TYPE_CHECKING:
    from sharpcli.linalg.operator import SymmetricOperator

__all__ = ["Moment", "Quadrature", "choose_probes", "quadrature"]

# Default number of probes: p probes sample n·p eigenvalues, and the mass in twenty even bins is
# then off by 2.5/√(n·p) in total variation, less than 0.01. With 80 steps that is more products
# than an operator of 3,000 parameters has columns. Those are solved completely, since no number of
# probes helps where a spike meets a bin's edge. At least two: copies of an eigenvalue show in how
# probes differ.
_SAMPLES = 120_000
_FEWEST, _MOST = 2, 40
# Only the asymmetric part of a product's error is visible; the symmetric part may be as large. It
# is seen in a few directions only, so twice that is allowed.
_UNSEEN_HALF = 2.0
# The share of a product's rounding that a unit vector sees along itself.
_ALONG = 0.25
# Power steps for the norm of the asymmetric part.
_POWER_STEPS = 8
# A few eigenvalues that the probes do not resolve scatter as a χ² with few degrees of freedom, and
# probes that see too little of them also underestimate the error. With this correction the interval
# of two errors holds the truth in 95 % of cases from two degrees of freedom on.
_FEW = 0.5
# Columns of the identity to which the operator is applied at once.
_COLUMNS = 16


@dataclass(frozen=True)
class Moment:
    """(1/n) Σ λᵏ and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Quadrature:
    """A spectrum as known eigenvalues, and nodes with weights for all others.

    `top` and `bottom` are the known eigenvalues at either end, in descending order with copies
    repeated; their `errors` bound the distance of each from an eigenvalue. `rest` is each probe's
    view of the others, with weights that sum to (n − known)/n; it is empty if all are known. All
    tensors are float64 on the CPU. `rounding` bounds the arithmetic's error of any value. The
    number of copies is certain for the first `sure` values at the top. `crowded` says that the next
    one has as many copies as there are probes. `runs` show where else there is no eigenvalue.
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
    runs: Runs
    sure: int
    crowded: bool

    @property
    def known(self) -> Tensor:
        """The known eigenvalues in descending order."""
        return torch.cat([self.top, self.bottom])

    def nodes(self) -> tuple[Tensor, Tensor]:
        """All nodes in ascending order with their weights, which sum to 1."""
        share = torch.full_like(self.known, 1 / self.size)
        values = torch.cat([self.known, *(probe.values for probe in self.rest)])
        weights = torch.cat([share, *(probe.weights / len(self.rest) for probe in self.rest)])
        order = values.argsort()
        return values[order], weights[order]

    def ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The largest and smallest Ritz values, and the possible errors of the spectrum's ends.

        An end may be as far out as all starts may have missed an eigenvector.
        """
        values = torch.cat([self.known, *(probe.values for probe in self.rest)])
        errors = torch.cat(
            [self.top_errors, self.bottom_errors, *(probe.residuals for probe in self.rest)]
        )

        def end(index: int, outward: float) -> tuple[float, float]:
            value, error = float(values[index]), max(float(errors[index]), self.rounding)
            if self.rest:
                error = max(error, self.runs.beyond(value, outward))
            return value, error

        return end(int(values.argmax()), 1.0), end(int(values.argmin()), -1.0)

    def moments(self, count: int = 4) -> list[Moment]:
        """The means (1/n) Σ λᵏ for k from 1 to `count`, each with its standard error.

        The known eigenvalues enter exactly. For a random direction v in the d dimensions of the
        rest, vᵀf(A)v has the variance 2·Var(f)/(d + 2), with Var over the rest's eigenvalues. The
        quadrature itself gives Var(λᵏ), so the error does not depend on the scatter of a few
        probes.
        """
        found = []
        dimensions = self.size - len(self.known)
        errors = RESOLVED * torch.cat([self.top_errors, self.bottom_errors]) + self.rounding
        scale = float(self.nodes()[0].abs().max())
        for power in range(1, count + 1):
            value = float((self.known**power).sum()) / self.size
            slopes = power * self.known.abs() ** (power - 1)
            error = float((slopes * errors).sum()) / self.size
            absolute = float((self.known.abs() ** power).sum()) / self.size
            if self.rest:
                share, number = dimensions / self.size, len(self.rest)
                mean = sum(probe.mean(power) for probe in self.rest) / number
                likely = [self._at_least_one(probe) for probe in self.rest]
                spread = sum(probe.mean(2 * power) for probe in likely) / number - mean**2
                variance = 2 * max(spread, 0.0) / (dimensions + 2) / number
                total = sum(probe.absolute(power) for probe in likely) / number
                few = 1 + _FEW * (variance**0.5 / total / 2**0.5 if total else 0.0)
                value += share * mean
                absolute += share * total
                error += share * variance**0.5 * few
            # Products err by rounding·‖A‖ in every direction, wherever the eigenvalues are, and by
            # a part of that along the vectors themselves.
            everywhere = self.rounding * scale ** (power - 1) / self.size**0.5
            along = _ALONG * self.rounding / scale * absolute if scale else 0.0
            error = max(error, power * max(everywhere, along))
            found.append(Moment(value, error))
        return found

    def _at_least_one(self, probe: Nodes) -> Nodes:
        """The probe's nodes, with the weight of each resolved eigenvalue raised to at least 1/n.

        Weight that a probe missed would otherwise be missing from its error as well.
        """
        whole = probe.resolved(self.rounding) * (1 / self.size)
        return replace(probe, weights=torch.maximum(probe.weights, whole.to(probe.weights)))


def choose_probes(size: int) -> int:
    """The number of probes that resolves the mass in twenty bins: 40 (small n) to 2 (large n)."""
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
    rounding: float = 0.0,
    progress: Progress = silent,
) -> Quadrature:
    """Estimate an operator's spectrum by Lanczos runs from random directions.

    If probes·steps products would give the full matrix, the matrix is computed and all eigenvalues
    are known. With a single probe none are known: copies of an eigenvalue show in how probes
    differ.

    Args:
        operator: a symmetric operator of size n.
        probes: how many random directions.
        steps: Lanczos steps from each.
        seed: of the random directions.
        together: how many probes advance in step, sharing what the operator rebuilds for a product;
            each holds a basis of steps·n numbers meanwhile.
        most_known: the most eigenvectors kept for the eigenvalues on which the probes agree
            (default: `steps`).
        basis_device: where the bases are stored (default: the operator's device).
        rounding: a product's error in units of ‖A‖, if larger than the machine epsilon suggests.
        progress: called with the products done and the number of products.

    Cost: probes·steps products, or n if that is less; orthogonalisation takes 2·steps²·n operations
    a probe.

    >>> import torch
    >>> from sharpcli.linalg.operator import Dense
    >>> matrix = torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    >>> found = quadrature(Dense(matrix), probes=1, steps=4)
    >>> [round(moment.value, 6) for moment in found.moments(2)]
    [1.0, 2.5]
    """
    n = operator.size
    if n <= probes * steps:
        return _complete(operator, probes, steps, rounding, progress)
    generator = own_generator("starts of a quadrature", seed)
    like = torch.empty(0, n, dtype=operator.dtype, device=basis_device or operator.device)
    started, runs, tops, bottoms = operator.products, [], End(1.0), End(-1.0)
    relative, floor = max(ROUNDING * torch.finfo(operator.dtype).eps, rounding), 0.0
    nodes: list[Nodes] = []
    for start in range(0, probes, together):
        starts = random_rows(min(together, probes - start), like, generator)

        def say(step: int, done: int = start, count: int = len(starts)) -> None:
            progress(done * steps + step * count, probes * steps)

        for found in lanczos(operator, starts, steps, say):
            off = _UNSEEN_HALF * found.asymmetry
            floor = max(floor, off, relative * float(found.nodes.values.abs().max()))
            nodes.append(found.nodes)
            runs.append(found.run)
            if probes > 1:
                upper, lower = outermost(found.nodes, floor, most_known or steps)
                wanted = sorted({*upper, *lower})
                combine(found.coordinates[:, wanted].T, found.basis)
                vectors = dict(zip(wanted, found.basis, strict=False))
                tops.meet(found.nodes, upper, vectors, floor)
                bottoms.meet(found.nodes, lower, vectors, floor)
                del vectors
        del found  # free a block's bases before the next block's are allocated
    crowded = tops.settle(probes)
    bottoms.settle(probes, above=tops)
    top, top_errors = tops.eigenvalues()
    bottom, bottom_errors = (x.flip(0) for x in bottoms.eigenvalues())
    share = (n - len(top) - len(bottom)) / n
    return Quadrature(
        size=n,
        top=top,
        top_errors=top_errors,
        bottom=bottom,
        bottom_errors=bottom_errors,
        rest=[_without_ends(each, top[-1:], bottom[:1], share, floor) for each in nodes],
        rounding=floor,
        probes=probes,
        steps=steps,
        products=operator.products - started,
        runs=Runs(runs, n, floor),
        sure=tops.sure(probes),
        crowded=crowded,
    )


def _complete(
    operator: SymmetricOperator, probes: int, steps: int, rounding: float, progress: Progress
) -> Quadrature:
    """All eigenvalues, from the operator's columns.

    The asymmetric part of the columns is an error of the products, and bounds the symmetric part of
    that error.
    """
    n, started = operator.size, operator.products
    matrix = torch.empty(n, n, dtype=torch.float64)
    for start in range(0, n, _COLUMNS):
        stop = min(start + _COLUMNS, n)
        columns = torch.zeros(n, stop - start, dtype=operator.dtype, device=operator.device)
        columns[torch.arange(start, stop), torch.arange(stop - start)] = 1.0
        matrix[:, start:stop] = (operator @ columns).to("cpu", torch.float64)
        progress(stop, n)
    skew = (matrix - matrix.T) / 2
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).flip(0)
    relative = max(ROUNDING * torch.finfo(operator.dtype).eps, rounding)
    floor = max(relative * float(values.abs().max()), _UNSEEN_HALF * _norm(skew))
    values = torch.where(values.abs() <= floor, 0.0, values)
    none = values[:0]
    return Quadrature(
        size=n,
        top=values,
        top_errors=torch.full_like(values, floor),
        bottom=none,
        bottom_errors=none,
        rest=[],
        rounding=floor,
        probes=probes,
        steps=steps,
        products=operator.products - started,
        runs=Runs([], n, floor),
        sure=n,
        crowded=False,
    )


def _norm(matrix: Tensor) -> float:
    """Estimate the spectral norm of a matrix (n, n) by power steps on MᵀM."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(matrix.shape[1], generator=generator, dtype=matrix.dtype)
    norm = 0.0
    for _ in range(_POWER_STEPS):
        vector = vector / vector.norm()
        image = matrix @ vector
        norm = float(image.norm())
        if norm == 0:
            return 0.0
        vector = matrix.T @ image
    return norm


def _without_ends(
    nodes: Nodes, top: Tensor, bottom: Tensor, share: float, rounding: float
) -> Nodes:
    """The nodes between the known ends, weights scaled to sum to `share`, tiny values set to 0."""
    slack = nodes.residuals + rounding
    inner = torch.ones_like(slack, dtype=torch.bool)
    if len(top):
        inner &= nodes.values < top - slack
    if len(bottom):
        inner &= nodes.values > bottom + slack
    if not bool(inner.any()):
        # Rounding hides what is in between: all that is known is that it lies there.
        inner[len(inner) // 2] = True
    values, weights = nodes.values[inner], nodes.weights[inner]
    values = torch.where(values.abs() <= rounding, 0.0, values)
    return Nodes(values, weights * (share / float(weights.sum())), nodes.residuals[inner])
