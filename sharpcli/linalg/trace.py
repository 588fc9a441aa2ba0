"""The trace of a symmetric operator, with an error: exact on a subspace, random probes on the rest.

Hutch++ (Meyer, Musco, Musco & Woodruff 2021) with a Krylov basis as its sketch. The subspace holds
the large eigenvalues and is treated exactly, so the probes only see the small rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpcli.linalg.eigsh import Krylov
from sharpcli.linalg.orthogonal import applied, dots, project_out
from sharpcli.runtime.progress import Progress, silent
from sharpcli.runtime.randomness import own_generator

if TYPE_CHECKING:
    from sharpcli.linalg.operator import SymmetricOperator

__all__ = ["TraceResult", "random_signs", "trace"]

# Probes before the error is trusted. It comes from ‖PAPg‖², which varies little from probe to
# probe, so a few are enough.
_LEAST_PROBES = 6
# Probes applied at once: rebuilt graphs serve all of them.
_BLOCK = 2


@dataclass(frozen=True)
class TraceResult:
    """The trace with the standard error of its random part."""

    value: float
    standard_error: float
    converged: bool
    products: int


def trace(
    operator: SymmetricOperator,
    krylov: Krylov,
    *,
    relative_error: float = 0.02,
    max_probes: int = 100,
    seed: int = 0,
    progress: Progress = silent,
) -> TraceResult:
    """Estimate the trace as tr(Q A Qᵀ) + E gᵀPAPg with P = I − QᵀQ and g random signs.

    The variance of a probe is 2(‖PAP‖²_F − Σ diag²) ≤ 2‖PAP‖²_F, and ‖PAPg‖² is an unbiased,
    low-variance estimate of ‖PAP‖²_F from the same product. The standard error is computed from
    that bound.

    Args:
        operator: a symmetric operator of size n.
        krylov: a Krylov space of the operator, whose basis is Q (m, n).
        relative_error: stop at a standard error of this share of |tr A|.
        max_probes: the most probes; a rest of no more dimensions is summed exactly.
        seed: of the random signs.
        progress: called with the probes done and the probes expected.

    Cost: one product a probe; the subspace is free if an eigenvalue computation has built it.

    >>> import torch
    >>> from sharpcli.linalg.krylov import krylov_space
    >>> from sharpcli.linalg.operator import Dense
    >>> operator = Dense(torch.diag(torch.arange(1.0, 11.0, dtype=torch.float64)))
    >>> result = trace(operator, krylov_space(operator, 4))
    >>> round(result.value, 6), result.converged  # six dimensions are left, and summed exactly
    (55.0, True)
    """
    n, known = operator.size, float(krylov.projected.trace())
    rounding = torch.finfo(krylov.basis.dtype).eps * float(krylov.projected.abs().sum())
    if krylov.size == n:
        return TraceResult(known, rounding, True, 0)
    if n - krylov.size <= max_probes:
        rest = _complement(krylov.basis)
        value = known + float(dots(rest, applied(operator, rest)).trace())
        return TraceResult(value, rounding, True, len(rest))
    generator = own_generator("trace", seed)
    started = operator.products
    samples: list[float] = []
    squares: list[float] = []
    while True:
        probes = random_signs(_BLOCK, krylov.basis, generator)
        project_out(probes, krylov.basis)
        images = applied(operator, probes)
        samples += dots(probes, images).diagonal().tolist()
        project_out(images, krylov.basis)
        squares += dots(images, images).diagonal().tolist()
        count = len(samples)
        value = known + sum(samples) / count
        error = (2 * sum(squares) / count / count) ** 0.5 + rounding
        converged = count >= _LEAST_PROBES and error <= relative_error * abs(value)
        progress(count, max_probes)
        if converged or count >= max_probes:
            return TraceResult(value, error, converged, operator.products - started)


def _complement(basis: Tensor) -> Tensor:
    """Orthonormal rows (n − m, n) for the complement of `basis` (m, n); for small n."""
    full: Tensor = torch.linalg.qr(basis.double().T, mode="complete").Q
    return full[:, len(basis) :].T.contiguous().to(basis)


def random_signs(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of 1 and −1 (count, n), the same on every device for the same generator."""
    draws = torch.randint(0, 2, (count, like.shape[1]), generator=generator, dtype=torch.int8)
    return draws.to(like) * 2 - 1
