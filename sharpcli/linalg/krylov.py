"""A block Krylov space with full reorthogonalisation and thick restarts.

Nothing as large as the basis is ever copied: the basis grows, restarts and rotates in place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpcli.linalg.missed import Stage
from sharpcli.linalg.orthogonal import (
    applied,
    combine,
    extend,
    negligible_norm,
    project_out,
    random_rows,
)
from sharpcli.runtime.randomness import own_generator

if TYPE_CHECKING:
    from sharpcli.linalg.operator import SymmetricOperator

__all__ = [
    "BLOCK",
    "CHEAP",
    "Krylov",
    "expand",
    "krylov_space",
    "restart",
    "start_space",
    "turn",
    "widen",
]

# Two vectors find every double eigenvalue without a second search, and rebuilt graphs serve both.
# Wider blocks need more products for the same Krylov degree.
BLOCK = 2
# Rounding of a product and of the projected problem, in machine epsilons of ‖A‖: four times the
# most seen on dense matrices of 3 to 1,000 rows. Each restart adds at most 1.6, seen on matrices
# with clusters and multiple eigenvalues after up to 60 restarts; the allowance is more than twice
# that.
_ROUNDING = 16
_ROUNDING_PER_RESTART = 4
# Rounding of a product has no reason to point along one vector, so 1/√n of its norm does. The
# allowance is this many machine epsilons of ‖A‖.
_ALONG = 10
# Up to this many rows the projected matrix is diagonalised after every block. That costs the cube
# of the rows, a block only the rows.
CHEAP = 128


@dataclass
class Krylov:
    """An orthonormal basis Q (m, n) by rows with T = Q A Qᵀ, and what A maps outside its span.

    A Qᵀ = Qᵀ T + Fᵀ B, where F is the `pending` block and B is the `coupling`. B is zero except in
    its columns for the last rows of the basis, and only these are stored. `rows` holds the basis,
    then the pending block, then free room. `asymmetry` is the largest that the products showed.
    `dropped` bounds the norm of what B leaves out. Of the rows of basis and pending block, those in
    `carried` were pending at the last restart and those in `fresh` were drawn at random since.
    `stages` are the spaces before each restart. `norm` is a lower bound of T's norm, exact right
    after `ritz`.
    """

    rows: Tensor
    size: int
    width: int
    projected: Tensor
    coupling: Tensor
    fresh: list[int]
    asymmetry: float = 0.0
    dropped: float = 0.0
    previous: int = 0
    restarts: int = 0
    carried: list[int] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    norm: float = 0.0
    _looked_at: tuple[int, Tensor, Tensor] | None = None

    @property
    def basis(self) -> Tensor:
        """Q (m, n)."""
        return self.rows[: self.size]

    @property
    def pending(self) -> Tensor:
        """F: the rows to which the operator is applied next."""
        return self.rows[self.size : self.size + self.width]

    @property
    def complete(self) -> bool:
        """Whether the basis spans the full space."""
        return self.size == self.rows.shape[1]

    @property
    def rounding(self) -> float:
        """How far rounding may have moved a Ritz value, in the operator's units."""
        multiple = _ROUNDING + _ROUNDING_PER_RESTART * self.restarts
        # The asymmetry is that of one entry; a Ritz value sums as many as the basis has rows.
        rounding: float = max(multiple * self._unit, self.asymmetry * self.size**0.5)
        return rounding

    @property
    def noise(self) -> float:
        """How far rounding may have moved all products together along one vector."""
        along = _ALONG * self._unit / self.rows.shape[1] ** 0.5
        noise: float = max(along, self.asymmetry) * self.size**0.5
        return noise

    @property
    def _unit(self) -> float:
        """The machine epsilon times the operator's norm."""
        unit: float = torch.finfo(self.rows.dtype).eps * self.norm
        return unit

    @property
    def norm_is_old(self) -> bool:
        """Whether the basis has doubled, or was restarted, since `norm` was exact."""
        return self._looked_at is None or self.size >= 2 * self._looked_at[0]

    def wait(self, block: Tensor) -> None:
        """Make `block` the pending rows."""
        self.width = len(block)
        needed = self.size + self.width
        if needed > len(self.rows):
            more = self.rows.new_empty(min(2 * needed, self.rows.shape[1]), self.rows.shape[1])
            more[: self.size] = self.basis
            self.rows = more
        self.pending.copy_(block)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values in descending order, their coordinates (m, m) in columns, residual norms."""
        if self._looked_at is None or self._looked_at[0] != self.size:
            values, vectors = torch.linalg.eigh(self.projected)
            self._looked_at = self.size, values.flip(0), vectors.flip(1)
            self.norm = float(values.abs().max()) if self.size else 0.0
        _, values, vectors = self._looked_at
        width = self.coupling.shape[1]
        return values, vectors, (self.coupling @ vectors[self.size - width :]).norm(dim=0)

    def history(self) -> list[Stage]:
        """The stages of the random rows: one for each restart, and the present one."""
        fresh = [row for row in self.fresh if row < self.size]
        values, vectors, _ = self.ritz()
        return [*self.stages, Stage(values, vectors, self.coupling, self.carried, fresh)]


def krylov_space(
    operator: SymmetricOperator,
    products: int,
    *,
    seed: int = 0,
    basis_device: torch.device | None = None,
) -> Krylov:
    """Build a block Krylov space from a random start with `products` products: a sketch of A."""
    generator = own_generator("eigenvalues", seed)
    width, products = min(BLOCK, operator.size), min(products, operator.size)
    space = start_space(operator, width, products + 2 * width, generator, device=basis_device)
    while space.size < products:
        expand(space, operator, generator)
    return space


def start_space(
    operator: SymmetricOperator,
    random: int,
    room: int,
    generator: torch.Generator,
    *,
    device: torch.device | None = None,
) -> Krylov:
    """An empty basis with `room` rows, with `random` random rows pending."""
    rows = torch.empty(
        min(room, operator.size),
        operator.size,
        dtype=operator.dtype,
        device=device or operator.device,
    )
    pending, _ = extend(random_rows(random, rows, generator), rows[:0], 0.0, generator)
    none = torch.zeros(0, 0, dtype=torch.float64)
    space = Krylov(rows, 0, 0, none, none, fresh=list(range(len(pending))))
    space.wait(pending)
    return space


def expand(space: Krylov, operator: SymmetricOperator, generator: torch.Generator) -> None:
    """Apply the operator to the pending block and add the block to the basis."""
    start, width = space.size, space.width
    images = applied(operator, space.pending)
    space.size, space.width = start + width, 0
    # In exact arithmetic the new columns are zero above the previous block. Anything there is an
    # asymmetry left by rounding, which measures the accuracy of the products.
    removed = project_out(images, space.basis, space.previous)
    size = start + width
    if space.previous:
        space.asymmetry = max(space.asymmetry, float(removed[: space.previous].abs().max()))
        removed[: space.previous] = 0.0
    projected = torch.zeros(size, size, dtype=torch.float64)
    projected[:start, :start] = space.projected
    projected[:, start:] = removed
    projected[start:, :] = removed.T
    projected[start:, start:] = (removed[start:] + removed[start:].T) / 2
    space.projected = projected
    if size <= CHEAP or space.norm_is_old:
        space.ritz()
    scale = space.norm
    pending, space.coupling = extend(images, space.basis, scale, generator)
    lost = int((space.coupling == 0).all(1).sum())
    space.dropped = math.hypot(space.dropped, lost**0.5 * negligible_norm(space.rows.dtype, scale))
    space.wait(pending)
    space.previous = start


def restart(space: Krylov, top: int, bottom: int) -> None:
    """Keep only the Ritz vectors of the `top` largest and `bottom` smallest values, in place."""
    values, vectors, _ = space.ritz()
    top = min(top, space.size)
    bottom = min(bottom, space.size - top)
    keep = torch.cat([vectors[:, :top], vectors[:, space.size - bottom :]], dim=1)
    kept = torch.cat([values[:top], values[space.size - bottom :]])
    pending, size = space.pending, space.size
    waiting = [row - size for row in space.fresh if row >= size]
    known = [row for row in range(len(pending)) if row not in waiting]
    *_, stage = space.history()
    space.stages.append(replace(stage, coupling=stage.coupling[known]))
    turn(space, kept, keep)
    space.wait(pending)
    space.carried = [space.size + row for row in known]
    space.fresh = [space.size + row for row in waiting]
    space.restarts += 1


def turn(space: Krylov, values: Tensor, vectors: Tensor) -> None:
    """Replace the basis by Ritz vectors, given by coordinates (m, r), in place."""
    combine(vectors.T, space.basis)
    space.coupling = space.coupling @ vectors[-space.coupling.shape[1] :]
    space.projected = torch.diag(values)
    space.size, space.previous, space._looked_at = vectors.shape[1], 0, None


def widen(space: Krylov, width: int, generator: torch.Generator) -> None:
    """Add `width` random vectors to the pending block, or as many as there is room for."""
    taken = space.rows[: space.size + space.width]
    room = taken.shape[1] - len(taken)
    if not room:
        return
    rows = random_rows(min(width, room), taken, generator)
    project_out(rows, taken)
    fresh, _ = extend(rows, taken, 0.0, generator)
    space.fresh += range(len(taken), len(taken) + len(fresh))
    none = torch.zeros(len(fresh), space.coupling.shape[1], dtype=torch.float64)
    space.coupling = torch.cat([space.coupling, none])
    space.wait(torch.cat([space.pending, fresh]))
