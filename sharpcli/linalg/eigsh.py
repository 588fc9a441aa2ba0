"""Extreme eigenvalues of a symmetric operator by block Lanczos with thick restarts.

Full reorthogonalisation in float64 inner products keeps ghosts out (Paige 1972 shows what happens
without). A block of random vectors finds as many copies of a multiple eigenvalue as it is wide;
where as many turn up, a wider random block searches the complement for more, so multiplicities are
right with probability one. Restarts keep the Ritz vectors of both ends (Wu & Simon 2000). That a
value is the i-th, and no other was missed, is read off the random start (`missed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpcli.linalg.ends import End, both_ends, is_settled, without_missed
from sharpcli.linalg.krylov import (
    BLOCK,
    CHEAP,
    Krylov,
    expand,
    krylov_space,
    restart,
    start_space,
    turn,
    widen,
)
from sharpcli.runtime.progress import Progress, silent
from sharpcli.runtime.randomness import own_generator

if TYPE_CHECKING:
    from sharpcli.linalg.operator import SymmetricOperator

__all__ = [
    "SMALL",
    "EigshResult",
    "Krylov",
    "block_width",
    "eigsh",
    "expected_products",
    "is_settled",
    "krylov_space",
    "least_rows",
]

# Ritz values are looked at after every block while that is cheap; later at most when the basis has
# grown by the first share, at least by the second.
_LOOKS = (16, 2)
# Pairs for each vector of a block, and the most vectors.
_PAIRS_A_VECTOR, _WIDEST = 25, 16
# Products a pair that progress expects (seen were 2 to 4 on trained networks), and with a smallest
# value at least (seen were 32 to 60 on six minima).
_EXPECTED, _EXPECTEDSMALLEST = 4, 45
# Where no smallest value is settled in _PATIENCE times the products that all else took, or
# _PATIENCE_LEAST, there may be nothing below zero to be found.
_PATIENCE, _PATIENCE_LEAST = 3, 60
# Operators of this size are solved whole where nothing less tells their eigenvalues: a basis of
# 512 rows takes 2 MB at most, and spectra that span ten decades, as those of small networks on raw
# features, are not certain before.
SMALL = 512
# Ritz vectors kept at each end beside the wanted ones: restarts lose less (Wu & Simon keep some
# beyond those wanted; three was enough on the networks of the benchmarks).
_EXTRA = 3


@dataclass(frozen=True)
class EigshResult:
    """The k largest and `smallest` smallest eigenvalues of a symmetric operator.

    `errors` bound how far the i-th value is from the i-th eigenvalue: the residual norm ‖Av − λv‖
    together with the rounding that the products showed, or as far as a missed eigenvalue is not
    excluded, where that is further. `vectors` (k, n) belong to `largest`. In `passes` calls the
    operator was applied to `products` vectors. A smallest value that is not `settled` bounds the
    end from above only: where the true one lies is not known to within the tolerance. `rounded`
    says that rounding alone keeps values that are not converged from being so.
    """

    largest: Tensor
    largest_errors: Tensor
    largest_converged: list[bool]
    smallest: Tensor
    smallest_errors: Tensor
    smallest_converged: list[bool]
    smallest_settled: list[bool]
    rounded: bool
    vectors: Tensor
    products: int
    passes: int
    krylov: Krylov

    @property
    def converged(self) -> bool:
        """Whether every wanted value met the tolerance, and none was missed."""
        return all(self.largest_converged) and all(self.smallest_converged)


def eigsh(
    operator: SymmetricOperator,
    k: int,
    *,
    smallest: int = 0,
    tolerance: float = 1e-3,
    max_products: int | None = None,
    max_basis: int | None = None,
    basis_device: torch.device | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> EigshResult:
    """The k algebraically largest eigenvalues, λ1 ≥ λ2 ≥ …, and the `smallest` most negative ones.

    A pair is converged when its residual norm is at most `tolerance`·|λ1| and a tenth of |λᵢ| (or
    rounding, where that is more), and when no eigenvalue was missed that would make another one the
    i-th: the random start excludes it but for a probability of 0.001 each. The smallest ones are
    sought on until their errors are 0.3 of themselves or patience ends. Stops unconverged after
    `max_products` (default: 100 + 20 for each wanted pair, or all of an operator of 512 rows or
    fewer); the basis is restarted at `max_basis` rows (default: 80 + 4 for each wanted pair; of
    such an operator never), never fewer than `least_rows`; it lies on
    `basis_device` (default: the operator's) with one block more.
    Cost: one product a basis row; typically 2 to 4 for each of the largest at 1e-3, and 30 to 60
    in all with a smallest one. Raises `ValueError` where more pairs are wanted than the operator
    has.
    """
    n, wanted = operator.size, k + smallest
    if not 1 <= k <= n or wanted > n:
        raise ValueError(f"{wanted} eigenvalues of an operator of size {n}")
    generator = own_generator("eigenvalues", seed)
    small = n <= SMALL
    most = max_products or max(100 + 20 * wanted, n if small else 0)
    block = min(block_width(k), n)
    limit = min(n, max(max_basis or 80 + 4 * wanted, least_rows(k, smallest)))
    limit = n if small and max_basis is None else limit
    room = limit if max_basis else min(limit, expected_products(k, smallest) + block)
    space = start_space(operator, block, room + block, generator, device=basis_device)
    started = operator.products
    blocks, search_until, searched, patience, proven, sure = 0, 0, block, most, False, 0
    look_at, seen = 0, (0, 0)
    while True:
        if space.size + space.width > limit:
            restart(space, k + _EXTRA, smallest + _EXTRA if smallest else 0)
        expand(space, operator, generator)
        blocks += 1
        used, likely = operator.products - started, expected_products(k, smallest)
        last = space.complete or used + space.width > most
        if not last and (space.size < wanted or used < look_at):
            progress(used, min(most, max(likely, used + space.width)))
            continue
        top, bottom = both_ends(space, k, smallest, tolerance)
        now = used, sum(top.met + bottom.met)
        look_at, seen = used + _until_next_look(space.size, now, seen, wanted), now
        met = space.size >= wanted and all(top.met + bottom.met)
        enough = met and blocks >= search_until
        known = last or (enough and not proven)
        if known:
            plain, top = top, without_missed(top, space)
            # Where only rounding keeps missed ones from being excluded, more products soon stop
            # helping, unless they are enough to solve all of it in float64.
            sure, before = sum(top.converged), sure
            helped = sure > before or (small and operator.dtype == torch.float64)
            proven = enough and all(top.converged)
            if enough and not proven and not helped:
                proven = all(without_missed(plain, space, exact=True).converged)
        cluster = max(0 if proven else top.cluster(), bottom.cluster())
        more = enough and cluster >= searched and not last
        enough = enough and proven and not more
        if last or (enough and all(bottom.settled)):
            bottom = without_missed(bottom, space)
        if enough:
            patience = min(patience, max(_PATIENCE * used, _PATIENCE_LEAST))
            enough = used >= patience or all(bottom.settled)
            likely = likely if enough else patience
        progress(used, min(most, max(likely, used + space.width)))
        if enough or last:
            if not known:  # what was proven of a smaller space is said of this one
                top = without_missed(top, space)
            if not (last or all(bottom.settled)):
                bottom = without_missed(bottom, space)
            return _result(space, operator, (top, bottom), proven, (used, blocks))
        if more:
            # As many equal values as random vectors, or more that are near: there may be more
            # copies. Let as many new vectors search along, half as deep as the space is.
            if space.size + space.width + searched > limit:
                restart(space, k + _EXTRA, smallest + _EXTRA if smallest else 0)
            widen(space, searched, generator)
            searched *= 2
            search_until = blocks + max(3, (blocks + 1) // 2)


def block_width(k: int) -> int:
    """How many vectors the operator is applied to at once in a search for k pairs.

    Two find every double eigenvalue without a second search, and rebuilt graphs serve both; wider
    blocks take more products for a few pairs, but for hundreds no more, and less time.
    """
    return max(BLOCK, min(_WIDEST, k // _PAIRS_A_VECTOR))


def least_rows(k: int, smallest: int) -> int:
    """The fewest rows of a basis that restarts can do with: both ends and three blocks."""
    return k + smallest + 2 * _EXTRA + 3 * block_width(k)


def expected_products(k: int, smallest: int) -> int:
    """Products that a solve is likely to need, for progress and estimates."""
    likely = _EXPECTED * (k + smallest + _EXTRA)
    return max(likely, _EXPECTEDSMALLEST) if smallest else likely


def _until_next_look(size: int, now: tuple[int, int], before: tuple[int, int], wanted: int) -> int:
    """Products until Ritz values are worth a look again, by how many met their limit when.

    `now` and `before` are (products, values that met it). Every block in a small basis; in a large
    one a sixteenth to a half of it: where all will have met it, if it goes on as it did.
    """
    least, most = ((size - CHEAP) // share for share in _LOOKS)
    (used, met), (used_before, met_before) = now, before
    rate = (met - met_before) / max(used - used_before, 1)
    step = most if rate <= 0 else int((wanted - met) / rate)
    return max(1, least, min(step, most))


def _result(
    space: Krylov,
    operator: SymmetricOperator,
    ends: tuple[End, End],
    rounded: bool,
    spent: tuple[int, int],
) -> EigshResult:
    top, bottom = ends
    values, vectors, _ = space.ritz()
    turn(space, values, vectors)
    return EigshResult(
        top.values[: top.count],
        top.errors,
        top.converged,
        -bottom.values[: bottom.count],
        bottom.errors,
        bottom.met,
        bottom.converged,
        rounded,
        space.basis[: top.count].to(operator.device),
        *spent,
        space,
    )
