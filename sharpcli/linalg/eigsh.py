"""Extreme eigenvalues of a symmetric operator by block Lanczos with thick restarts.

Full reorthogonalisation in float64 inner products prevents ghost copies (Paige 1972 shows what
happens without). A block of b random vectors finds up to b copies of a multiple eigenvalue. If b
copies appear, a wider random block searches the complement for more, so multiplicities are right
with probability one. Restarts keep the Ritz vectors of both ends (Wu & Simon 2000). The random
start itself bounds the probability that an eigenvalue was missed (`missed`).
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

# Ritz values are computed after every block while the basis is small; later when it has grown by
# between a sixteenth and a half.
_LOOKS = (16, 2)
# Wanted pairs for each vector of a block, and the most vectors.
_PAIRS_A_VECTOR, _WIDEST = 25, 16
# Expected products for each pair (2 to 4 on trained networks), and at least with a smallest value
# (32 to 60 on six minima).
_EXPECTED, _EXPECTEDSMALLEST = 4, 45
# Give up on unsettled smallest values after _PATIENCE times the products of everything else, at
# least _PATIENCE_LEAST: there may be no eigenvalue below zero.
_PATIENCE, _PATIENCE_LEAST = 3, 60
# Operators up to this size are solved completely if nothing less determines their eigenvalues. A
# basis of 512 rows takes at most 2 MB, and spectra over ten decades (small networks on raw
# features) are not certain earlier.
SMALL = 512
# Extra Ritz vectors kept at each end, so that restarts lose less (as Wu & Simon do; three was
# enough on the networks of the benchmarks).
_EXTRA = 3


@dataclass(frozen=True)
class EigshResult:
    """The k largest and `smallest` smallest eigenvalues of a symmetric operator.

    `errors` bound the distance of the i-th value from the i-th eigenvalue: the larger of the
    residual norm ‖Av − λv‖ together with the observed rounding, and the distance within which a
    missed eigenvalue is not excluded. `vectors` (k, n) belong to `largest`. The operator was
    applied to `products` vectors in `passes` calls. A smallest value that is not `settled` is only
    an upper bound of the end: the true end is not known to within the tolerance. `rounded` says
    that only rounding keeps the unconverged values from converging.
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
        """Whether every wanted value met the tolerance and none was missed."""
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
    block: int | None = None,
) -> EigshResult:
    """Compute the k algebraically largest eigenvalues λ1 ≥ λ2 ≥ … and the most negative ones.

    A pair has converged when its residual norm is at most `tolerance`·|λ1| and at most a tenth of
    |λᵢ| (or at the level of rounding, if that is more), and when the random start excludes, except
    with probability 0.001, a missed eigenvalue that would change its index. The search for the
    smallest ones goes on until their errors are 0.3 of their values or patience ends.

    Args:
        operator: a symmetric operator of size n.
        k: how many of the largest.
        smallest: how many of the smallest.
        tolerance: the residual norm allowed, as a share of |λ1|.
        max_products: stop unconverged after this many (default: 100 + 20 for each wanted pair, and
            at least n if n ≤ 512).
        max_basis: rows at which the basis is restarted (default: 80 + 4 for each wanted pair, or
            never if n ≤ 512); at least `least_rows`. The basis takes one block more.
        basis_device: where the basis is stored (default: the operator's device).
        seed: of the random start.
        progress: called with the products done and the products expected.
        block: vectors to which the operator is applied at once (default: `block_width`). A single
            one needs the fewest products for one simple eigenvalue.

    Raises:
        ValueError: if k < 1 or more than n pairs are wanted.

    Cost: one product a basis row; typically 2 to 4 for each of the largest at 1e-3, and 30 to 60 in
    all with a smallest one.

    >>> import torch
    >>> from sharpcli.linalg.operator import Dense
    >>> diagonal = torch.arange(-3.0, 7.0, dtype=torch.float64)
    >>> result = eigsh(Dense(torch.diag(diagonal)), k=2, smallest=1)
    >>> result.largest.round(decimals=4).tolist(), result.converged
    ([6.0, 5.0], True)
    >>> result.smallest.round(decimals=4).tolist()
    [-3.0]
    """
    n, wanted = operator.size, k + smallest
    if not 1 <= k <= n or wanted > n:
        raise ValueError(f"{wanted} eigenvalues of an operator of size {n}")
    generator = own_generator("eigenvalues", seed)
    small = n <= SMALL
    most = max_products or max(100 + 20 * wanted, n if small else 0)
    block = min(block or block_width(k), n)
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
            # If only rounding prevents excluding missed eigenvalues, more products soon stop
            # helping, except when a complete float64 solve is within reach.
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
            if not known:  # what was proven on a smaller space holds on this one
                top = without_missed(top, space)
            if not (last or all(bottom.settled)):
                bottom = without_missed(bottom, space)
            return _result(space, operator, (top, bottom), proven, (used, blocks))
        if more:
            # As many equal values as random vectors, or more values close together: there may be
            # more copies. Search with as many new vectors, half as deep as the space is.
            if space.size + space.width + searched > limit:
                restart(space, k + _EXTRA, smallest + _EXTRA if smallest else 0)
            widen(space, searched, generator)
            searched *= 2
            search_until = blocks + max(3, (blocks + 1) // 2)


def block_width(k: int) -> int:
    """How many vectors the operator is applied to at once in a search for k pairs.

    Two vectors find every double eigenvalue without a second search, and rebuilt graphs serve both.
    For a few pairs wider blocks need more products; for hundreds they need no more, and less time.
    """
    return max(BLOCK, min(_WIDEST, k // _PAIRS_A_VECTOR))


def least_rows(k: int, smallest: int) -> int:
    """The fewest basis rows with which restarts work: both ends and three blocks."""
    return k + smallest + 2 * _EXTRA + 3 * block_width(k)


def expected_products(k: int, smallest: int) -> int:
    """The products that a solve will probably need, for progress and estimates."""
    likely = _EXPECTED * (k + smallest + _EXTRA)
    return max(likely, _EXPECTEDSMALLEST) if smallest else likely


def _until_next_look(size: int, now: tuple[int, int], before: tuple[int, int], wanted: int) -> int:
    """How many products to wait before computing Ritz values again.

    `now` and `before` are (products, converged values). In a small basis every block; in a large
    one until all values should have converged at the present rate, a sixteenth to a half of the
    basis.
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
