"""Extreme eigenvalues of a symmetric operator by block Lanczos with thick restarts.

Full reorthogonalisation in float64 inner products keeps ghosts out (Paige 1972 shows what happens
without). A block of random vectors finds as many copies of a multiple eigenvalue as it is wide;
where as many turn up, a wider random block searches the complement for more, so multiplicities are
right with probability one. Restarts keep the Ritz vectors of both ends (Wu & Simon 2000). Nothing
of the basis's size is ever copied: it grows, is restarted and turned in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..progress import Progress, silent
from .orthogonal import applied, combine, extend, project_out, random_rows

if TYPE_CHECKING:
    from ..operators import SymmetricOperator

__all__ = [
    "EigshResult",
    "Krylov",
    "eigsh",
    "expected_products",
    "is_settled",
    "krylov_space",
    "least_rows",
]

# Two finds every double eigenvalue without a second search, and rebuilt graphs serve two vectors;
# wider blocks need more products for the same Krylov degree.
_BLOCK = 2
# Products a pair that progress expects (seen were 2 to 4 on trained networks), and with a smallest
# value at least (seen were 32 to 60 on six minima).
_EXPECTED, _EXPECTED_SMALLEST = 4, 45
# A smallest value is settled when its residual is at most this share of its distance from zero.
# Curvatures pile up at zero, and until then a Ritz vector may be a mixture of that pile, with a
# residual as small as you like and the true end unseen: on three networks values of 0.0001(23),
# -0.000(10) and 0.0001(22) stood for -0.0105, -0.0427 and -0.0054. With this share they come to
# within their residuals. Where it is not reached in _PATIENCE times the products that all else
# took, or _PATIENCE_LEAST, there may be nothing below zero to be found.
_SETTLED = 0.3
_PATIENCE, _PATIENCE_LEAST = 3, 60
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
    columns of the last rows of the basis, which are the ones kept. Both lie in `rows`, the basis
    first, with room behind them.
    """

    rows: Tensor
    size: int
    width: int
    projected: Tensor
    coupling: Tensor
    rounding: float = 0.0
    previous: int = 0
    restarts: int = 0

    @property
    def basis(self) -> Tensor:
        """Q (m, n)."""
        return self.rows[: self.size]

    @property
    def pending(self) -> Tensor:
        """F: the rows that the operator is applied to next."""
        return self.rows[self.size : self.size + self.width]

    def wait(self, block: Tensor) -> None:
        """Let `block` be the pending rows."""
        self.width = len(block)
        needed = self.size + self.width
        if needed > len(self.rows):
            more = self.rows.new_empty(min(2 * needed, self.rows.shape[1]), self.rows.shape[1])
            more[: self.size] = self.basis
            self.rows = more
        self.pending.copy_(block)

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
    with the rounding that the products showed. `vectors` (k, n) belong to `largest`. In `passes`
    calls the operator was applied to `products` vectors. A smallest value that is not `settled`
    bounds the end from above: the true one may be lower by more than its error.
    """

    largest: Tensor
    largest_errors: Tensor
    largest_converged: list[bool]
    smallest: Tensor
    smallest_errors: Tensor
    smallest_converged: list[bool]
    smallest_settled: list[bool]
    vectors: Tensor
    products: int
    passes: int
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
    start: Tensor | None = None,
    basis_device: torch.device | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> EigshResult:
    """The k algebraically largest eigenvalues, λ1 ≥ λ2 ≥ …, and the `smallest` most negative ones.

    A pair is converged when its residual norm is at most `tolerance`·|λ1|, and the smallest ones
    are sought on until they are settled or patience ends. Stops unconverged after
    `max_products` (default: 100 + 20 for each wanted pair); the basis is restarted at `max_basis`
    rows (default: 80 + 4 for each wanted pair), never fewer than `least_rows`; it lies on
    `basis_device` (default: the operator's) with one block more.
    `start` (b, n) are rows near the wanted eigenvectors: they begin the search together with as
    many random ones as without, in blocks that wide: fewer calls of the operator with more vectors
    each. A wanted eigenvector orthogonal to all of them may then be missed.
    Cost: one product a basis row; typically 2 to 4 for each of the largest at 1e-3, and 30 to 60
    in all with a smallest one. Raises `ValueError` where more pairs are wanted than the operator
    has.
    """
    n, wanted = operator.size, k + smallest
    if not 1 <= k <= n or wanted > n:
        raise ValueError(f"{wanted} eigenvalues of an operator of size {n}")
    generator = torch.Generator().manual_seed(seed)
    most = max_products or 100 + 20 * wanted
    random = min(_BLOCK, n)
    block = random if start is None else min(len(start) + random, n)
    limit = min(n, max(max_basis or 80 + 4 * wanted, least_rows(k, smallest, block)))
    room = limit if max_basis else min(limit, expected_products(k, smallest) + block)
    space = _empty(operator, random, room + block, generator, start, basis_device)
    started = operator.products
    blocks, search_until, searched, patience = 0, 0, random, most
    while True:
        if space.size + space.width > limit:
            _restart(space, k, smallest)
        _expand(space, operator, generator)
        blocks += 1
        used = operator.products - started
        values, _, residuals = space.ritz()
        complete = space.size == n
        ends = [*range(min(k, space.size)), *range(max(space.size - smallest, 0), space.size)]
        threshold = max(tolerance * float(values[0].abs()), _machine(space, values))
        met = [bool(residuals[i] <= threshold) or complete for i in ends]
        lowest = ends[k:]
        settled = [is_settled(float(values[i]), float(residuals[i])) or complete for i in lowest]
        enough = space.size >= wanted and all(met) and blocks >= search_until
        likely = expected_products(k, smallest)
        if enough:
            patience = min(patience, max(_PATIENCE * used, _PATIENCE_LEAST))
            enough = all(settled) or used >= patience
            likely = likely if enough else patience
        progress(used, min(most, max(likely, used + space.width)))
        if enough and not complete:
            cluster = _largest_cluster(values, residuals, k, smallest)
            if cluster >= searched:
                # As many equal values as random vectors: there may be more copies. Let as many
                # new ones search along, half as deep as the space is.
                searched += cluster
                if space.size + space.width + cluster > limit:
                    _restart(space, k, smallest)
                _widen(space, cluster, generator)
                search_until = blocks + max(3, (blocks + 1) // 2)
                continue
        if enough or complete or used + space.width > most:
            return _result(space, operator, k, smallest, met, settled, (used, blocks))


def is_settled(value: float, residual: float) -> bool:
    """Whether a smallest Ritz value is an end of the spectrum, and no mixture of what is at 0."""
    return residual <= _SETTLED * abs(value)


def least_rows(k: int, smallest: int, block: int = _BLOCK) -> int:
    """The fewest rows of a basis that restarts can do with: both ends and three blocks."""
    return k + smallest + 2 * _EXTRA + 3 * block


def expected_products(k: int, smallest: int) -> int:
    """Products that a solve is likely to need, for progress and estimates."""
    likely = _EXPECTED * (k + smallest + _EXTRA)
    return max(likely, _EXPECTED_SMALLEST) if smallest else likely


def krylov_space(
    operator: SymmetricOperator,
    products: int,
    *,
    seed: int = 0,
    basis_device: torch.device | None = None,
) -> Krylov:
    """A block Krylov space of a random start, `products` deep: a sketch of the operator."""
    generator = torch.Generator().manual_seed(seed)
    width, products = min(_BLOCK, operator.size), min(products, operator.size)
    space = _empty(operator, width, products + 2 * width, generator, None, basis_device)
    while space.size < products:
        _expand(space, operator, generator)
    return space


def _empty(
    operator: SymmetricOperator,
    random: int,
    room: int,
    generator: torch.Generator,
    start: Tensor | None,
    device: torch.device | None,
) -> Krylov:
    rows = torch.empty(
        min(room, operator.size),
        operator.size,
        dtype=operator.dtype,
        device=device or operator.device,
    )
    first = random_rows(random, rows, generator)
    if start is not None:
        first = torch.cat([start.to(rows), first])[: operator.size]
    pending, _ = extend(first, rows[:0], 0.0, generator)
    none = torch.zeros(0, 0, dtype=torch.float64)
    space = Krylov(rows, 0, 0, none, none)
    space.wait(pending)
    return space


def _expand(space: Krylov, operator: SymmetricOperator, generator: torch.Generator) -> None:
    """Apply the operator to the pending block and absorb it into the basis."""
    start, width = space.size, space.width
    images = applied(operator, space.pending)
    space.size, space.width = start + width, 0
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
    pending, space.coupling = extend(images, space.basis, scale, generator)
    space.wait(pending)
    space.previous = start


def _restart(space: Krylov, k: int, smallest: int) -> None:
    """Keep the Ritz vectors of both ends, in place."""
    _, vectors, _ = space.ritz()
    top = min(k + _EXTRA, space.size)
    bottom = min(smallest + _EXTRA if smallest else 0, space.size - top)
    keep = torch.cat([vectors[:, :top], vectors[:, space.size - bottom :]], dim=1)
    pending = space.pending
    _turn(space, keep)
    space.wait(pending)
    space.restarts += 1


def _turn(space: Krylov, vectors: Tensor) -> None:
    """Let Ritz vectors, by their coordinates (m, r), be the basis, in place."""
    combine(vectors.T, space.basis)
    space.coupling = space.coupling @ vectors[-space.coupling.shape[1] :]
    space.projected = torch.diag((vectors.T @ space.projected @ vectors).diagonal())
    space.size, space.previous = vectors.shape[1], 0


def _widen(space: Krylov, width: int, generator: torch.Generator) -> None:
    """Add `width` random vectors to the pending block, or as many as there is room for."""
    taken = space.rows[: space.size + space.width]
    rows = random_rows(min(width, taken.shape[1] - len(taken)), taken, generator)
    project_out(rows, taken)
    fresh, _ = extend(rows, taken, 0.0, generator)
    none = torch.zeros(len(fresh), space.coupling.shape[1], dtype=torch.float64)
    space.coupling = torch.cat([space.coupling, none])
    space.wait(torch.cat([space.pending, fresh]))


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
    return multiple * torch.finfo(space.rows.dtype).eps * float(values.abs().max())


def _result(
    space: Krylov,
    operator: SymmetricOperator,
    k: int,
    smallest: int,
    met: list[bool],
    settled: list[bool],
    spent: tuple[int, int],
) -> EigshResult:
    values, vectors, residuals = space.ritz()
    # The asymmetry is one entry's; a Ritz value sums as many as the basis has rows.
    rounding = space.rounding * space.size**0.5
    rounding = max(rounding, _machine(space, values, space.restarts))
    errors = torch.hypot(residuals, torch.tensor(rounding, dtype=torch.float64))
    tail = space.size - smallest
    _turn(space, vectors)
    return EigshResult(
        values[:k],
        errors[:k],
        met[:k],
        values[tail:].flip(0),
        errors[tail:].flip(0),
        met[k:][::-1],
        settled[::-1],
        space.basis[:k].to(operator.device),
        *spent,
        space,
    )
