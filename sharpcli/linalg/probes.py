"""Lanczos from random starts, and what their Ritz values agree upon at both ends of a spectrum."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .orthogonal import applied, dots

if TYPE_CHECKING:
    from ..operators import SymmetricOperator

__all__ = ["RESOLVED", "End", "Nodes", "lanczos", "outermost"]

# A Ritz value is taken for an eigenvalue where its residual is below this share of the distance to
# its neighbours, and rounding below `_ROUGH` of it. Its vector is then off by as much, its value by
# the square; more where an eigenvalue is near that no Ritz value shows yet, so there is room below
# `_COPY`.
RESOLVED, _ROUGH = 1e-3, 1e-2
# A Ritz vector is another copy where this share of its square lies outside those known.
_COPY = 1e-3
# A node owes a weight below this (in shares of 1/n, or the square of ten machine epsilons) to
# rounding: it is another copy of an eigenvalue that is there, or on its way to become one.
_UNSEEN, _UNSEEN_EPSILONS = 1e-12, 10
# Copies of one eigenvalue lie nearer than this, in machine epsilons of ‖A‖.
_ROUNDING = 16
# A step that leaves less than this has exhausted its Krylov space, in the same unit.
_BREAKDOWN = 100
# A second pass of orthogonalisation where the first one left less than this share of the norm
# (Daniel, Gragg, Kaufman & Stewart 1976).
_AGAIN = 0.7


@dataclass(frozen=True)
class Nodes:
    """Ritz values of one probe in descending order, their weights and residual norms (m,)."""

    values: Tensor
    weights: Tensor
    residuals: Tensor

    def mean(self, power: int) -> float:
        """The mean of λᵏ under the weights."""
        return float((self.weights * self.values**power).sum() / self.weights.sum())

    def resolved(self, rounding: float) -> Tensor:
        """Which nodes are each an eigenvalue, boolean (m,)."""
        far = torch.full((1,), torch.inf, dtype=self.values.dtype)
        gaps = self.values[:-1] - self.values[1:]
        nearest = torch.minimum(torch.cat([far, gaps]), torch.cat([gaps, far]))
        return (self.residuals <= RESOLVED * nearest) & (rounding <= _ROUGH * nearest)


def lanczos(
    operator: SymmetricOperator, starts: Tensor, steps: int, say: Callable[[int], None]
) -> Iterator[tuple[Nodes, Tensor, Tensor]]:
    """Lanczos from each of `starts` (g, n), a product of all at a time; bases lie where they do.

    A basis is the caller's to overwrite.

    Gives for each its nodes, the Ritz vectors' coordinates (m, m) in columns and the basis (m, n).
    """
    count, n = starts.shape
    epsilon = torch.finfo(starts.dtype).eps
    bases = torch.empty(count, steps, n, dtype=starts.dtype, device=starts.device)
    diagonal = torch.zeros(count, steps, dtype=torch.float64)
    beside = torch.zeros(count, steps, dtype=torch.float64)
    lengths = [0] * count
    going = list(range(count))
    for index, start in enumerate(starts):
        bases[index, 0] = start / float(dots(start[None], start[None])) ** 0.5
    for step in range(steps):
        if not going:
            break
        images = applied(operator, bases[going, step])
        for index, image in zip(list(going), images, strict=True):
            basis, image = bases[index, : step + 1], image[None]
            alpha, beta = _orthogonalise(image, basis, float(beside[index, step - 1]))
            diagonal[index, step], lengths[index] = alpha, step + 1
            scale = float(diagonal[index].abs().max() + 2 * beside[index].max())
            if beta <= _BREAKDOWN * epsilon * max(scale, beta):
                going.remove(index)
                continue
            beside[index, step] = beta
            if step + 1 < steps:
                torch.div(image[0], beta, out=bases[index, step + 1])
        say(step + 1)
    for index, length in enumerate(lengths):
        between = beside[index, : length - 1]
        matrix = torch.diag(diagonal[index, :length])
        matrix += torch.diag(between, 1) + torch.diag(between, -1)
        nodes, vectors = _distinct(matrix, float(beside[index, length - 1]), epsilon)
        seen = nodes.weights >= max(_UNSEEN / n, (_UNSEEN_EPSILONS * epsilon) ** 2)
        nodes = Nodes(nodes.values[seen], nodes.weights[seen], nodes.residuals[seen])
        yield nodes, vectors[:, seen], bases[index, :length]


def _distinct(matrix: Tensor, beyond: float, epsilon: float) -> tuple[Nodes, Tensor]:
    """The nodes of a tridiagonal matrix with their vectors in columns, copies as one.

    In exact arithmetic a start sees one vector of a multiple eigenvalue; rounding brings others in
    late, and mixes their vectors as it likes. What the start sees of all of them is that one.
    """
    values, vectors = (x.flip(-1) for x in torch.linalg.eigh(matrix))
    residuals = beyond * vectors[-1].abs()
    width = float(values[0] - values[-1])
    slack = _ROUNDING * epsilon * float(values.abs().max())
    sharp = (residuals <= RESOLVED * width / len(values)).tolist()
    near = (values[:-1] - values[1:] <= residuals[:-1] + residuals[1:] + slack).tolist()
    groups: list[list[int]] = [[0]]
    for index in range(1, len(values)):
        if near[index - 1] and sharp[index - 1] and sharp[index]:
            groups[-1].append(index)
        else:
            groups.append([index])
    columns, middles = [], []
    for group in groups:
        share = vectors[0, group]
        column = vectors[:, group] @ share
        norm = float(share.norm())
        columns.append(column / norm if norm else vectors[:, group[0]])
        middles.append(
            float(values[group] @ share**2) / norm**2 if norm else float(values[group[0]])
        )
    together = torch.stack(columns, dim=1)
    found = Nodes(
        torch.tensor(middles, dtype=torch.float64), together[0] ** 2, beyond * together[-1].abs()
    )
    return found, together


def _orthogonalise(image: Tensor, basis: Tensor, before: float) -> tuple[float, float]:
    """Make `image` (1, n) orthogonal to `basis`, in place; ⟨last row, image⟩ and what is left.

    The recurrence takes almost all; a pass over the whole basis takes what rounding brought back,
    and a second one follows where it took much.
    """
    alpha = float(dots(basis[-1:], image))
    image.sub_(basis[-1], alpha=alpha)
    if len(basis) > 1:
        image.sub_(basis[-2], alpha=before)
    norm = float(dots(image, image)) ** 0.5
    while True:
        image -= (basis @ image[0]) @ basis
        left = float(dots(image, image)) ** 0.5
        if left >= _AGAIN * norm or left == 0:
            return alpha, left
        norm = left


def outermost(nodes: Nodes, rounding: float, most: int) -> tuple[list[int], list[int]]:
    """Which nodes are eigenvalues at the top and at the bottom, each from the outside in.

    They are `most` at most in all, a quarter of them for the bottom where both have more.
    """
    resolved = nodes.resolved(rounding).tolist()
    order = range(len(resolved))
    upper = list(itertools.takewhile(resolved.__getitem__, order))
    lower = list(itertools.takewhile(resolved.__getitem__, reversed(order)))
    below = min(len(lower), max(most - len(upper), most // 4))
    return upper[: most - below], lower[:below]


@dataclass
class _Entry:
    """An eigenvalue of an end, its residual, and its eigenvectors as far as probes differ."""

    value: float
    residual: float
    vectors: Tensor

    def meet(self, value: float, residual: float, vector: Tensor) -> None:
        """Take the better value; take in the vector (1, n), overwritten, where it is new."""
        if residual < self.residual:
            self.value, self.residual = value, residual
        vector -= (vector @ self.vectors.T) @ self.vectors
        outside = float(dots(vector, vector))
        if outside > _COPY:
            self.vectors = torch.cat([self.vectors, vector / outside**0.5])


@dataclass
class End:
    """The eigenvalues that the probes agree upon at one end, from the outside in.

    `outward` is 1 at the top, −1 at the bottom.
    """

    outward: float
    entries: list[_Entry] | None = None

    def meet(
        self, nodes: Nodes, found: Sequence[int], vectors: Mapping[int, Tensor], slack: float
    ) -> None:
        """Compare with another probe's nodes that are `found` here; look for further copies.

        `vectors` are their Ritz vectors (n,), which are kept. An eigenvalue that this probe
        happens not to see stays; one that the others did not see ends the list.
        """
        entries, self.entries, place = self.entries, [], 0
        for index in found:
            value, residual = float(nodes.values[index]), float(nodes.residuals[index])
            if entries is not None:
                while place < len(entries) and (
                    self.outward * (entries[place].value - value)
                    > entries[place].residual + residual + slack
                ):
                    self.entries.append(entries[place])
                    place += 1
                if place == len(entries):
                    return
                known = entries[place]
                if abs(known.value - value) > known.residual + residual + slack:
                    return
            vector = vectors[index].clone()[None]
            if entries is None:
                self.entries.append(_Entry(value, residual, vector))
                continue
            known.meet(value, residual, vector)
            self.entries.append(known)
            place += 1

    def settle(self, probes: int, above: End | None = None) -> None:
        """Keep those before the first that had a new copy in every probe, or that is in `above`.

        How many copies there are of that one nobody knows.
        """
        taken = {entry.value for entry in (above.entries if above else None) or []}
        self.entries = list(
            itertools.takewhile(
                lambda entry: len(entry.vectors) < probes and entry.value not in taken,
                self.entries or [],
            )
        )

    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues with their copies, and their errors."""
        copies = [(e.value, e.residual) for e in self.entries or [] for _ in e.vectors]
        values, residuals = torch.tensor(copies, dtype=torch.float64).reshape(-1, 2).T
        return values, residuals
