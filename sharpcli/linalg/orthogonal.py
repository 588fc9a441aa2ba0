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

# Entries of a vector processed at a time, and of rows converted to float64 (True: on a GPU). On a
# CPU they stay in cache; on a GPU they fill it, in at most half a gigabyte.
_CHUNK = 2**14
_CHUNK_ENTRIES = {False: 2**17, True: 2**26}
# A row that keeps less than this share of its norm after projection (in machine epsilons) is in the
# basis's span. It is dropped with all it says of further eigenvalues, so the limit is no more than
# certain rounding: keeping a row of rounding does no harm.
_BREAKDOWN = 8
# Inner products with the basis allowed for a unit row, in machine epsilons: far below the square
# root of epsilon that keeps a Lanczos projection exact to rounding (Simon 1984).
_OVERLAP = 100
# Rows are orthonormalised together if each keeps this share of its norm after those before it: two
# rounds of Cholesky are then as exact as one row after the other.
_INDEPENDENT = 1e-3


def applied(operator: SymmetricOperator, rows: Tensor) -> Tensor:
    """The operator times each row (b, n), as new rows on the device of the given ones."""
    images = (operator @ rows.to(operator.device).T).T
    return images.to(rows.device).contiguous()


def dots(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T` for left (m, n) and right (b, n), accumulated in float64: (m, b)."""
    return _dots(left, right).to("cpu", torch.float64)


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """`dots`, with left on the device that has float64."""
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
    """Ranges of columns that are processed together."""
    on_gpu = rows.device.type == "cuda"
    chunk = max(_CHUNK, _CHUNK_ENTRIES[True] // max(len(rows), 1)) if on_gpu else _CHUNK
    n = rows.shape[1]
    return [(start, min(start + chunk, n)) for start in range(0, n, chunk)]


def project_out(rows: Tensor, basis: Tensor, done: int = 0) -> Tensor:
    """Make `rows` (b, n) orthogonal to the orthonormal `basis` (m, n), in place.

    Classical Gram–Schmidt, twice. The first pass runs in the rows' own precision, the second
    corrects it in float64. The rows are already orthogonal, up to rounding, to the first `done`
    rows of the basis: these need no first pass.

    Returns:
        The coefficients removed, (m, b) float64 on the CPU: the only wait for the device.

    Cost: 4·(2m − done)·b·n operations, no copy.
    Source: Giraud et al. 2005 (twice is enough).
    """
    rough = basis[done:] @ rows.T
    rows.addmm_(rough.T, basis[done:], alpha=-1)
    exact = _dots(basis, rows)
    rows.addmm_(exact.T.to(rows), basis, alpha=-1)
    exact[done:] += rough
    return exact.cpu()


def combine(matrix: Tensor, rows: Tensor) -> None:
    """Write `matrix` (r, m) times `rows` (m, n) into the first r rows, a few columns at a time."""
    count, matrix = len(matrix), matrix.to(rows)
    for start, stop in _chunks(rows):
        rows[:count, start:stop] = matrix @ rows[:, start:stop]


def random_rows(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal rows (count, n), the same on every device for the same generator."""
    draws = torch.randn(count, like.shape[-1], generator=generator, dtype=torch.float32)
    return draws.to(like)


def negligible_norm(dtype: torch.dtype, scale: float) -> float:
    """The norm below which `extend` treats a row as rounding, relative to the operator's norm."""
    return _BREAKDOWN * torch.finfo(dtype).eps * scale


def extend(
    rows: Tensor, basis: Tensor, scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Orthonormalise `rows` (b, n), already orthogonal to `basis` (m, n), among themselves.

    The given rows are overwritten. A row that vanishes against `scale` (the operator's norm) is
    replaced by a random one orthogonal to everything, with a zero row in B, so that the search goes
    on after a Krylov space is exhausted.

    Returns:
        The new rows Q (b, n) and B (b, b) float64 with rows = Bᵀ Q. There are fewer if basis and
        rows together would exceed n.
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
            # Cancellation magnifies what two passes left of the basis: check, and project again if
            # so.
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
    """Orthonormalise rows in place by Cholesky, twice; return None, unchanged, if that is unsafe.

    Waits for the device three times for any number of rows.
    """
    epsilon = torch.finfo(rows.dtype).eps
    first = _factor(dots(rows, rows), negligible)
    if first is None:
        return None
    combine(torch.linalg.inv(first), rows)
    # Cancellation magnifies what two passes left of the basis: check, and project again if so.
    if len(basis) and float((basis @ rows.T).abs().max()) > _OVERLAP * epsilon:
        project_out(rows, basis)
    second = torch.linalg.cholesky(dots(rows, rows))
    combine(torch.linalg.inv(second), rows)
    coupling: Tensor = (first @ second).T.contiguous()
    return coupling


def _factor(gram: Tensor, negligible: float) -> Tensor | None:
    """The Cholesky factor of rows that are far from dependent and not negligible, else None."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    left, norms = factor.diagonal(), gram.diagonal().clamp_min(0).sqrt()
    sound = not bool(failed) and bool((left > negligible).all())
    return factor if sound and bool((left > _INDEPENDENT * norms).all()) else None
