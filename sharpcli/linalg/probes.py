"""Lanczos from random starts, and what their Ritz values agree upon at both ends of a spectrum."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpcli.linalg.exclusion import Run
from sharpcli.linalg.orthogonal import applied, dots

if TYPE_CHECKING:
    from sharpcli.linalg.operator import SymmetricOperator

__all__ = ["RESOLVED", "ROUNDING", "End", "Found", "Nodes", "lanczos", "outermost"]

# A Ritz value is taken for an eigenvalue where its residual is below this share of the distance to
# its neighbours, and rounding below `_ROUGH` of it. Its vector is then off by as much, its value by
# the square; more where an eigenvalue is near that no Ritz value shows yet, so there is room below
# `_COPY`.
RESOLVED, _ROUGH = 1e-3, 1e-2
# A Ritz vector is another copy where this share of its square lies outside those known.
_COPY = 1e-3
# The copies of an eigenvalue are known where all probes look alike by chance this rarely.
_ALIKE = 1e-3
# A node owes a weight below this (in shares of 1/n, or the square of ten machine epsilons) to
# rounding: it is another copy of an eigenvalue that is there, or on its way to become one.
_UNSEEN, _UNSEEN_EPSILONS = 1e-12, 10
# Rounding of products and of the tridiagonal matrix, in machine epsilons of ‖A‖ (as in `eigsh`).
# Copies of one eigenvalue lie nearer than this, and a step that leaves less has exhausted its
# Krylov space: what is dropped there is no more than the error that every value carries.
ROUNDING = 16
# Rounding mixes the vectors of copies that come out this near to each other, in the same unit
# (seen: up to 51).
_MIXED = 100
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

    def absolute(self, power: int) -> float:
        """The mean of |λ|ᵏ under the weights."""
        return float((self.weights * self.values.abs() ** power).sum() / self.weights.sum())

    def nearest(self) -> Tensor:
        """The distance of each node to the next one (m,)."""
        far = torch.full((1,), torch.inf, dtype=self.values.dtype)
        gaps = self.values[:-1] - self.values[1:]
        return torch.minimum(torch.cat([far, gaps]), torch.cat([gaps, far]))

    def resolved(self, rounding: float) -> Tensor:
        """Which nodes are each an eigenvalue, boolean (m,)."""
        nearest = self.nearest()
        return (self.residuals <= RESOLVED * nearest) & (rounding <= _ROUGH * nearest)


@dataclass(frozen=True)
class Found:
    """What one probe saw: its nodes, and the Lanczos run that they come from.

    `coordinates` (m, k) are their Ritz vectors in columns, by the rows of `basis` (m, n).
    `asymmetry` is the most that a product had along rows to which that of a symmetric operator is
    orthogonal.
    """

    nodes: Nodes
    coordinates: Tensor
    basis: Tensor
    run: Run
    asymmetry: float


def lanczos(
    operator: SymmetricOperator, starts: Tensor, steps: int, say: Callable[[int], None]
) -> Iterator[Found]:
    """Lanczos from each of `starts` (g, n), a product of all at a time; bases lie where they do.

    A basis is the caller's to overwrite.
    """
    count, n = starts.shape
    epsilon = torch.finfo(starts.dtype).eps
    bases = torch.empty(count, steps, n, dtype=starts.dtype, device=starts.device)
    diagonal = torch.zeros(count, steps, dtype=torch.float64)
    beside = torch.zeros(count, steps, dtype=torch.float64)
    lengths, asymmetries = [0] * count, [0.0] * count
    going = list(range(count))
    for index, start in enumerate(starts):
        bases[index, 0] = start / float(dots(start[None], start[None])) ** 0.5
    for step in range(steps):
        if not going:
            break
        images = applied(operator, bases[going, step])
        for index, image in zip(list(going), images, strict=True):
            basis, image = bases[index, : step + 1], image[None]
            alpha, beta, asymmetry = _orthogonalise(image, basis, float(beside[index, step - 1]))
            diagonal[index, step], lengths[index] = alpha, step + 1
            beside[index, step] = beta
            asymmetries[index] = max(asymmetries[index], asymmetry)
            scale = float(diagonal[index].abs().max() + 2 * beside[index].max())
            if beta <= ROUNDING * epsilon * scale:
                going.remove(index)
            elif step + 1 < steps:
                torch.div(image[0], beta, out=bases[index, step + 1])
        say(step + 1)
    for index, length in enumerate(lengths):
        between = beside[index, : length - 1]
        matrix = torch.diag(diagonal[index, :length])
        matrix += torch.diag(between, 1) + torch.diag(between, -1)
        values, vectors = (x.flip(-1) for x in torch.linalg.eigh(matrix))
        run = Run(diagonal[index, :length], beside[index, :length], values, vectors[0] ** 2)
        nodes, vectors = _distinct(values, vectors, float(beside[index, length - 1]), epsilon)
        seen = nodes.weights >= max(_UNSEEN / n, (_UNSEEN_EPSILONS * epsilon) ** 2)
        nodes = Nodes(nodes.values[seen], nodes.weights[seen], nodes.residuals[seen])
        yield Found(nodes, vectors[:, seen], bases[index, :length], run, asymmetries[index])


def _distinct(
    values: Tensor, vectors: Tensor, beyond: float, epsilon: float
) -> tuple[Nodes, Tensor]:
    """The nodes of Ritz values (m,) with their vectors (m, m) in columns, copies as one.

    In exact arithmetic a start sees one vector of a multiple eigenvalue; rounding brings others in
    late, and mixes their vectors as it likes. What the start sees of all of them is that one.
    Values that mean less than their spread would be one as well, so they have to be sharp, and the
    residual of what is made one holds its spread.
    """
    rounding = epsilon * float(values.abs().max())
    sharp = (beyond * vectors[-1].abs() <= rounding).tolist()
    groups: list[list[int]] = [[0]]
    for index in range(1, len(values)):
        near = float(values[groups[-1][0]] - values[index]) <= _MIXED * rounding
        if near and sharp[groups[-1][0]] and sharp[index]:
            groups[-1].append(index)
        else:
            groups.append([index])
    columns, middles, spreads = [], [], []
    for group in groups:
        share = vectors[0, group]
        column = vectors[:, group] @ share
        norm = float(share.norm())
        columns.append(column / norm if norm else vectors[:, group[0]])
        middles.append(
            float(values[group] @ share**2) / norm**2 if norm else float(values[group[0]])
        )
        spreads.append(float(values[group[0]] - values[group[-1]]))
    together = torch.stack(columns, dim=1)
    middle, spread = torch.tensor([middles, spreads], dtype=torch.float64)
    residuals = torch.maximum(beyond * together[-1].abs(), spread)
    return Nodes(middle, together[0] ** 2, residuals), together


def _orthogonalise(image: Tensor, basis: Tensor, before: float) -> tuple[float, float, float]:
    """Make `image` (1, n) orthogonal to `basis`, in place.

    Returns ⟨last row, image⟩, what is left, and how much of the image lay in the rows before the
    last two, where that of a symmetric operator has nothing. The recurrence takes almost all; a
    pass over the whole basis takes what rounding brought back, and a second one follows where it
    took much.
    """
    alpha = float(dots(basis[-1:], image))
    image.sub_(basis[-1], alpha=alpha)
    if len(basis) > 1:
        image.sub_(basis[-2], alpha=before)
    norm = float(dots(image, image)) ** 0.5
    asymmetry: float | None = None
    while True:
        inside = basis @ image[0]
        image -= inside @ basis
        if asymmetry is None:
            asymmetry = float(inside[:-2].norm())
        left = float(dots(image, image)) ** 0.5
        if left >= _AGAIN * norm or left == 0:
            return alpha, left, asymmetry
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
    """An eigenvalue of an end, its residual, and its eigenvectors as far as probes differ.

    `tilt` bounds how far Ritz vectors of it, and what one had beyond others, are off for their
    residuals and rounding (a sine); `torn` where two differ by more than that and less than another
    copy would.
    """

    value: float
    residual: float
    vectors: Tensor
    tilt: float
    torn: bool = False

    def meet(self, value: float, residual: float, vector: Tensor, tilt: float) -> None:
        """Take the better value; take in the vector (1, n), overwritten, where it is new."""
        if residual < self.residual:
            self.value, self.residual = value, residual
        self.tilt = max(self.tilt, tilt)
        vector -= (vector @ self.vectors.T) @ self.vectors
        outside = float(dots(vector, vector))
        if outside > _COPY:
            self.vectors = torch.cat([self.vectors, vector / outside**0.5])
            self.tilt = max(self.tilt, 2 * self.tilt / outside**0.5)
        elif outside > (2 * self.tilt) ** 2:
            self.torn = True

    def sure(self, probes: int) -> bool:
        """Whether another copy would have shown: `probes` that miss it look alike by chance."""
        others = probes - len(self.vectors)
        return (2 / math.pi * 2 * self.tilt) ** others <= _ALIKE


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
        tilts = (nodes.residuals + slack) / nodes.nearest()
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
            vector, tilt = vectors[index].clone()[None], float(tilts[index])
            if entries is None:
                self.entries.append(_Entry(value, residual, vector, tilt))
                continue
            known.meet(value, residual, vector, tilt)
            self.entries.append(known)
            place += 1

    def settle(self, probes: int, above: End | None = None) -> bool:
        """Keep those before the first whose copies nobody knows, or that is in `above`.

        They are not known where every probe had a new one, or one that may be new or not; returns
        whether that ended the list.
        """
        taken = {entry.value for entry in (above.entries if above else None) or []}
        entries = self.entries or []
        open_ = [len(entry.vectors) >= probes or entry.torn for entry in entries]
        ended = [many or entry.value in taken for many, entry in zip(open_, entries, strict=True)]
        place = ended.index(True) if True in ended else len(entries)
        self.entries = entries[:place]
        return place < len(entries) and open_[place]

    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues with their copies, and their errors."""
        copies = [(e.value, e.residual) for e in self.entries or [] for _ in e.vectors]
        values, residuals = torch.tensor(copies, dtype=torch.float64).reshape(-1, 2).T
        return values, residuals

    def sure(self, probes: int) -> int:
        """How many of them come before the first whose copies are not beyond doubt."""
        known = itertools.takewhile(lambda entry: entry.sure(probes), self.entries or [])
        return sum(len(entry.vectors) for entry in known)
