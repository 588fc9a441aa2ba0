"""Inner products in float64 and orthonormalisation against a basis stored by rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sharpcli.linalg.operator import SymmetricOperator

__all__ = [
    "applied",
    "combine",
    "dots",
    "extend",
    "negligible_norm",
    "project_out",
    "random_rows",
]

# Entries of a vector that are worked on at a time, and of rows that are converted to float64
# (on a GPU: True): on a CPU they stay in cache. A GPU takes as many as fill it, in at most half a
# gigabyte.
_CHUNK = 2**14
_CHUNK_ENTRIES = {False: 2**17, True: 2**26}
# A row that keeps less than this share of its norm after projection is spanned by the basis
# already (multiples of machine epsilon). It is dropped, with all that it says of eigenvalues not
# yet found, so this is no more than rounding surely leaves: a row of rounding does no harm.
_BREAKDOWN = 8
# Inner products with the basis that a unit row may keep, in machine epsilons: far below the square
# root of epsilon that keeps a Lanczos projection exact to rounding (Simon 1984).
_OVERLAP = 100
# Rows are orthonormalised together where each keeps this share of its norm after those before it:
# two rounds of Cholesky are then as exact as one row after the other.
_INDEPENDENT = 1e-3


def applied(operator: SymmetricOperator, rows: Tensor) -> Tensor:
    """The operator times each row (b, n), as new rows where the given ones are kept."""
    images = (operator @ rows.to(operator.device).T).T
    return images.to(rows.device).contiguous()


def dots(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T` for left (m, n) and right (b, n), accumulated in float64: (m, b)."""
    return _dots(left, right).to("cpu", torch.float64)


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """As `dots`, left on the device where it has float64."""
    if left.dtype == torch.float64:
        return left @ right.T
    if left.device.type == "mps":
        return (left @ right.T).to("cpu", torch.float64)
    out = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for start, stop in _chunks(left):
        wide = right[:, start:stop].double().T
        rows = max(1, _CHUNK_ENTRIES[left.device.type == "cuda"] // (stop - start))
        for first in range(0, len(left), rows):
            out[first : first + rows] += left[first : first + rows, start:stop].double() @ wide
    return out


def _chunks(rows: Tensor) -> list[tuple[int, int]]:
    """Columns that are worked on together."""
    on_gpu = rows.device.type == "cuda"
    chunk = max(_CHUNK, _CHUNK_ENTRIES[True] // max(len(rows), 1)) if on_gpu else _CHUNK
    n = rows.shape[1]
    return [(start, min(start + chunk, n)) for start in range(0, n, chunk)]


def project_out(rows: Tensor, basis: Tensor, done: int = 0) -> Tensor:
    """Make `rows` (b, n) orthogonal to the orthonormal `basis` (m, n), in place.

    Classical Gram–Schmidt, twice (Giraud et al. 2005: twice is enough). The first pass runs in the
    rows' own precision, the second corrects it in float64. To the first `done` rows of the basis
    the given ones are orthogonal already but for rounding: those need no first pass. Returns the
    coefficients removed, (m, b) float64 on the CPU: the only wait for the device.
    Cost: 4·(2m − done)·b·n operations, no copy.
    """
    rough = basis[done:] @ rows.T
    rows.addmm_(rough.T, basis[done:], alpha=-1)
    exact = _dots(basis, rows)
    rows.addmm_(exact.T.to(rows), basis, alpha=-1)
    exact[done:] += rough
    return exact.cpu()


def combine(matrix: Tensor, rows: Tensor) -> None:
    """Put `matrix` (r, m) times `rows` (m, n) into the first r of them, a few columns at a time."""
    count, matrix = len(matrix), matrix.to(rows)
    for start, stop in _chunks(rows):
        rows[:count, start:stop] = matrix @ rows[:, start:stop]


def random_rows(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal rows (count, n), the same on every device for the same generator."""
    draws = torch.randn(count, like.shape[-1], generator=generator, dtype=torch.float32)
    return draws.to(like)


def negligible_norm(dtype: torch.dtype, scale: float) -> float:
    """The norm below which `extend` takes a row for rounding, against the operator's norm."""
    return _BREAKDOWN * torch.finfo(dtype).eps * scale


def extend(
    rows: Tensor, basis: Tensor, scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Orthonormalise `rows` (b, n), already orthogonal to `basis` (m, n), among themselves.

    Returns the new rows Q (b, n) and B (b, b) float64 with rows = Bᵀ Q. A row that vanishes
    against `scale` (the operator's norm) is replaced by a random one orthogonal to everything,
    with a zero row in B: the search goes on where a Krylov space is exhausted. Fewer rows come
    back where basis and rows together would exceed n. The given rows are overwritten.
    """
    n = rows.shape[1]
    count = min(len(rows), n - len(basis))
    negligible = negligible_norm(rows.dtype, scale)
    if count == len(rows):
        coupling = _together(rows, basis, negligible)
        if coupling is not None:
            return rows, coupling
    coupling = torch.zeros(count, len(rows), dtype=torch.float64)
    epsilon = torch.finfo(rows.dtype).eps
    done = torch.empty(0, n, dtype=rows.dtype, device=rows.device)
    for i in range(len(rows)):
        row = rows[i : i + 1]
        coupling[: len(done), i] += project_out(row, done)[:, 0] if len(done) else 0.0
        norm = float(dots(row, row)) ** 0.5
        if len(done) == count:
            continue
        if norm > negligible:
            coupling[len(done), i] = norm
            row = row / norm
            # Cancellation magnifies what two passes left of the basis: look, and mend if it shows.
            if len(basis) and float((basis @ row[0]).abs().max()) > _OVERLAP * epsilon:
                project_out(row, basis)
                row = row / float(dots(row, row)) ** 0.5
        else:
            row = random_rows(1, rows, generator)
            for _ in range(2):
                project_out(row, basis)
                if len(done):
                    project_out(row, done)
                row = row / float(dots(row, row)) ** 0.5
        done = torch.cat([done, row])
    return done, coupling


def _together(rows: Tensor, basis: Tensor, negligible: float) -> Tensor | None:
    """Orthonormalise rows in place by Cholesky, twice; None, and nothing done, where that is rash.

    Waits for the device three times, however many rows there are.
    """
    epsilon = torch.finfo(rows.dtype).eps
    first = _factor(dots(rows, rows), negligible)
    if first is None:
        return None
    combine(torch.linalg.inv(first), rows)
    # Cancellation magnifies what two passes left of the basis: look, and mend if it shows.
    if len(basis) and float((basis @ rows.T).abs().max()) > _OVERLAP * epsilon:
        project_out(rows, basis)
    second = torch.linalg.cholesky(dots(rows, rows))
    combine(torch.linalg.inv(second), rows)
    coupling: Tensor = (first @ second).T.contiguous()
    return coupling


def _factor(gram: Tensor, negligible: float) -> Tensor | None:
    """The Cholesky factor of rows far from dependent and none negligible, else None."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    left, norms = factor.diagonal(), gram.diagonal().clamp_min(0).sqrt()
    sound = not bool(failed) and bool((left > negligible).all())
    return factor if sound and bool((left > _INDEPENDENT * norms).all()) else None
