"""Extreme eigenvalues of a symmetric operator by block Lanczos with thick restarts.

Full reorthogonalisation in float64 inner products keeps ghosts out (Paige 1972 shows what happens
without). A block of random vectors finds as many copies of a multiple eigenvalue as it is wide;
where as many turn up, a wider random block searches the complement for more, so multiplicities are
right with probability one. Restarts keep the Ritz vectors of both ends (Wu & Simon 2000).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..progress import Progress, silent
from .orthogonal import extend, project_out, random_rows

if TYPE_CHECKING:
    from ..operators import SymmetricOperator

__all__ = ["EigshResult", "Krylov", "eigsh", "krylov_space"]

# Two finds every double eigenvalue without a second search, and rebuilt graphs serve two vectors;
# wider blocks need more products for the same Krylov degree.
_BLOCK = 2
# Products a pair that progress expects: seen were 2 to 4 on trained networks.
_EXPECTED = 4
# Ritz vectors kept at each end beside the wanted ones: restarts lose less (Wu & Simon keep some
# beyond those wanted; three was enough on the networks of the benchmarks).
_EXTRA = 3
# Rounding of a product and of the projected problem, in machine epsilons of ‖A‖: four times the
# most that dense matrices of 3 to 1,000 rows showed. Each restart adds to it, by at most 1.6 on
# matrices with clusters and multiple eigenvalues restarted up to 60 times: more than twice that.
_ROUNDING = 16
_ROUNDING_PER_RESTART = 4


@dataclass
class Krylov:
    """An orthonormal basis Q (m, n) by rows with T = Q A Qᵀ, and what A leaves outside its span.

    A Qᵀ = Qᵀ T + Fᵀ B, where F is the `pending` block and B, the `coupling`, is zero but for its
    columns of the last rows of the basis, which are the ones kept.
    """

    basis: Tensor
    projected: Tensor
    pending: Tensor
    coupling: Tensor
    rounding: float = 0.0
    previous: int = 0
    restarts: int = 0

    @property
    def size(self) -> int:
        """Rows in the basis."""
        return len(self.projected)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values in descending order, their coordinates (m, m) in columns, residual norms."""
        values, vectors = torch.linalg.eigh(self.projected)
        values, vectors = values.flip(0), vectors.flip(1)
        width = self.coupling.shape[1]
        return values, vectors, (self.coupling @ vectors[self.size - width :]).norm(dim=0)


@dataclass(frozen=True)
class EigshResult:
    """The k largest and `smallest` smallest eigenvalues of a symmetric operator.

    `errors` bound how far each value is from an eigenvalue: the residual norm ‖Av − λv‖ together
    with the rounding that the products showed. `vectors` (k, n) belong to `largest`.
    """

    largest: Tensor
    largest_errors: Tensor
    largest_converged: list[bool]
    smallest: Tensor
    smallest_errors: Tensor
    smallest_converged: list[bool]
    vectors: Tensor
    products: int
    krylov: Krylov

    @property
    def converged(self) -> bool:
        """Whether every wanted residual met the tolerance."""
        return all(self.largest_converged) and all(self.smallest_converged)


def eigsh(
    operator: SymmetricOperator,
    k: int,
    *,
    smallest: int = 0,
    tolerance: float = 1e-3,
    max_products: int | None = None,
    max_basis: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> EigshResult:
    """The k algebraically largest eigenvalues, λ1 ≥ λ2 ≥ …, and the `smallest` most negative ones.

    A pair is converged when its residual norm is at most `tolerance`·|λ1|. Stops unconverged after
    `max_products` (default: 100 + 20 for each wanted pair); the basis is restarted at `max_basis`
    rows (default: 80 + 4 for each wanted pair), never fewer than both ends and two blocks need.
    Cost: one product a basis row; typically 2 to 4 for each pair at 1e-3. Raises `ValueError`
    where more pairs are wanted than the operator has.
    """
    n, wanted = operator.size, k + smallest
    if not 1 <= k <= n or wanted > n:
        raise ValueError(f"{wanted} eigenvalues of an operator of size {n}")
    generator = torch.Generator().manual_seed(seed)
    most = max_products or 100 + 20 * wanted
    least_basis = wanted + 2 * _EXTRA + 3 * _BLOCK
    limit = min(n, max(max_basis or 80 + 4 * wanted, least_basis))
    space = _empty(operator, min(_BLOCK, n), generator)
    started = operator.products
    blocks, search_until, searched = 0, 0, min(_BLOCK, n)
    while True:
        if space.size + len(space.pending) > limit:
            _restart(space, k, smallest)
        _expand(space, operator, generator)
        blocks += 1
        used = operator.products - started
        values, _, residuals = space.ritz()
        complete = space.size == n
        ends = [*range(min(k, space.size)), *range(max(space.size - smallest, 0), space.size)]
        threshold = max(tolerance * float(values[0].abs()), _machine(space, values))
        met = [bool(residuals[i] <= threshold) or complete for i in ends]
        progress(used, min(most, max(_EXPECTED * (wanted + _EXTRA), used + _BLOCK)))
        enough = space.size >= wanted and all(met) and blocks >= search_until
        if enough and not complete:
            cluster = _largest_cluster(values, residuals, k, smallest)
            if cluster >= searched:
                # As many equal values as random vectors: there may be more copies. Let as many
                # new ones search along, half as deep as the space is.
                searched += cluster
                if space.size + len(space.pending) + cluster > limit:
                    _restart(space, k, smallest)
                _widen(space, cluster, generator)
                search_until = blocks + max(3, (blocks + 1) // 2)
                continue
        if enough or complete or used + len(space.pending) > most:
            return _result(space, k, smallest, met, used)


def krylov_space(operator: SymmetricOperator, products: int, *, seed: int = 0) -> Krylov:
    """A block Krylov space of a random start, `products` deep: a sketch of the operator."""
    generator = torch.Generator().manual_seed(seed)
    space = _empty(operator, min(_BLOCK, operator.size), generator)
    while space.size < min(products, operator.size):
        _expand(space, operator, generator)
    return space


def _empty(operator: SymmetricOperator, width: int, generator: torch.Generator) -> Krylov:
    like = torch.empty(0, operator.size, dtype=operator.dtype, device=operator.device)
    pending, _ = extend(random_rows(width, like, generator), like, 0.0, generator)
    none = torch.zeros(0, 0, dtype=torch.float64)
    return Krylov(like, none, pending, none)


def _expand(space: Krylov, operator: SymmetricOperator, generator: torch.Generator) -> None:
    """Apply the operator to the pending block and absorb it into the basis."""
    block = space.pending
    start, width = space.size, len(block)
    space.basis = torch.cat([space.basis, block])
    images = (operator @ block.T).T.contiguous()
    removed = project_out(images, space.basis)
    size = start + width
    # In exact arithmetic the new columns are zero above the previous block: what stands there is
    # the asymmetry that rounding left in the products, so it tells how exact they are.
    if space.previous:
        space.rounding = max(space.rounding, float(removed[: space.previous].abs().max()))
        removed[: space.previous] = 0.0
    projected = torch.zeros(size, size, dtype=torch.float64)
    projected[:start, :start] = space.projected
    projected[:, start:] = removed
    projected[start:, :] = removed.T
    projected[start:, start:] = (removed[start:] + removed[start:].T) / 2
    space.projected = projected
    scale = float(torch.linalg.matrix_norm(projected, 2))
    space.pending, space.coupling = extend(images, space.basis, scale, generator)
    space.previous = start


def _restart(space: Krylov, k: int, smallest: int) -> None:
    """Keep the Ritz vectors of both ends, in place."""
    _, vectors, _ = space.ritz()
    top = min(k + _EXTRA, space.size)
    bottom = min(smallest + _EXTRA if smallest else 0, space.size - top)
    keep = torch.cat([vectors[:, :top], vectors[:, space.size - bottom :]], dim=1)
    width = space.coupling.shape[1]
    space.basis = keep.T.to(space.basis) @ space.basis
    space.coupling = space.coupling @ keep[-width:]
    projected = keep.T @ space.projected @ keep
    space.projected = torch.diag(projected.diagonal())
    space.previous = 0
    space.restarts += 1


def _widen(space: Krylov, width: int, generator: torch.Generator) -> None:
    """Add `width` random vectors to the pending block, or as many as there is room for."""
    taken = torch.cat([space.basis, space.pending])
    rows = random_rows(min(width, space.basis.shape[1] - len(taken)), space.basis, generator)
    project_out(rows, taken)
    fresh, _ = extend(rows, taken, 0.0, generator)
    space.pending = torch.cat([space.pending, fresh])
    none = torch.zeros(len(fresh), space.coupling.shape[1], dtype=torch.float64)
    space.coupling = torch.cat([space.coupling, none])


def _largest_cluster(values: Tensor, residuals: Tensor, k: int, smallest: int) -> int:
    """Most values at one end that agree within their residuals and have others behind them.

    A missing copy of the last wanted value would not change the answer, so clusters that run into
    the end of what is wanted do not count.
    """
    largest = 0
    for found, errors, wanted in (
        (values, residuals, k),
        (values.flip(0), residuals.flip(0), smallest),
    ):
        count = 1
        floor = torch.finfo(torch.float32).eps * float(values.abs().max())
        for i in range(1, wanted):
            gap = float((found[i - 1] - found[i]).abs())
            if gap <= float(errors[i - 1] + errors[i]) + floor:
                count += 1
            else:
                largest, count = max(largest, count), 1
    return largest


def _machine(space: Krylov, values: Tensor, restarts: int = 0) -> float:
    multiple = _ROUNDING + _ROUNDING_PER_RESTART * restarts
    return multiple * torch.finfo(space.basis.dtype).eps * float(values.abs().max())


def _result(space: Krylov, k: int, smallest: int, met: list[bool], used: int) -> EigshResult:
    values, vectors, residuals = space.ritz()
    # The asymmetry is one entry's; a Ritz value sums as many as the basis has rows.
    rounding = space.rounding * space.size**0.5
    rounding = max(rounding, _machine(space, values, space.restarts))
    errors = torch.hypot(residuals, torch.tensor(rounding, dtype=torch.float64))
    tail = space.size - smallest
    top = vectors[:, :k].T.to(space.basis) @ space.basis
    return EigshResult(
        values[:k],
        errors[:k],
        met[:k],
        values[tail:].flip(0),
        errors[tail:].flip(0),
        met[k:][::-1],
        top,
        used,
        space,
    )
