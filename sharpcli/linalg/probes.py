"""Lanczos from random starts, and the eigenvalues on which the probes agree at both ends."""

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

# A Ritz value counts as an eigenvalue if its residual is below this share of the distance to its
# neighbours and rounding is below `_ROUGH` of it. Its vector is then off by the same share and its
# value by the square; more if an eigenvalue is near that no Ritz value shows yet, hence the margin
# below `_COPY`.
RESOLVED, _ROUGH = 1e-3, 1e-2
# A Ritz vector is another copy if this share of its square lies outside the known ones.
_COPY = 1e-3
# The number of copies is known if all probes look alike by chance this rarely.
_ALIKE = 1e-3
# A node with less weight than this (in shares of 1/n, or the square of ten machine epsilons) comes
# from rounding: it is another copy of a known eigenvalue, or is becoming one.
_UNSEEN, _UNSEEN_EPSILONS = 1e-12, 10
# Rounding of products and of the tridiagonal matrix, in machine epsilons of ‖A‖ (as in `eigsh`).
# Copies of one eigenvalue are closer than this. A step that leaves less has exhausted its Krylov
# space; the part dropped is within the error of every value.
ROUNDING = 16
# Rounding mixes the vectors of copies whose values are this close, in the same unit (51 at most was
# seen).
_MIXED = 100
# A second orthogonalisation pass follows if the first left less than this share of the norm
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
        """The distance of each node to its nearest neighbour (m,)."""
        far = torch.full((1,), torch.inf, dtype=self.values.dtype)
        gaps = self.values[:-1] - self.values[1:]
        return torch.minimum(torch.cat([far, gaps]), torch.cat([gaps, far]))

    def resolved(self, rounding: float) -> Tensor:
        """Which nodes are each an eigenvalue, boolean (m,)."""
        nearest = self.nearest()
        return (self.residuals <= RESOLVED * nearest) & (rounding <= _ROUGH * nearest)


@dataclass(frozen=True)
class Found:
    """The result of one probe: its nodes, and the Lanczos run behind them.

    `coordinates` (m, k) are the nodes' Ritz vectors in columns, in terms of the rows of `basis` (m,
    n). `asymmetry` is the largest component of a product along rows to which a symmetric operator's
    product would be orthogonal.
    """

    nodes: Nodes
    coordinates: Tensor
    basis: Tensor
    run: Run
    asymmetry: float


def lanczos(
    operator: SymmetricOperator, starts: Tensor, steps: int, say: Callable[[int], None]
) -> Iterator[Found]:
    """Run Lanczos from each of `starts` (g, n), with one call of the operator a step.

    Bases lie on the device of the starts. The caller may overwrite them.
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
    """The nodes of Ritz values (m,) with their vectors (m, m) in columns, copies merged into one.

    In exact arithmetic a start sees one vector of a multiple eigenvalue. Rounding adds others late
    and mixes their vectors arbitrarily; the start's combination of them is that one vector. Values
    less certain than their spread would merge too, so only sharp values are merged, and the merged
    residual includes the spread.
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

    The recurrence removes almost everything. One pass over all of the basis removes what rounding
    brought back, and a second follows if the first removed much. Returns ⟨last row, image⟩, the
    norm left, and the norm of the image's part in the rows before the last two, which is zero for a
    symmetric operator.
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

    At most `most` in all; a quarter of them for the bottom if both ends have more.
    """
    resolved = nodes.resolved(rounding).tolist()
    order = range(len(resolved))
    upper = list(itertools.takewhile(resolved.__getitem__, order))
    lower = list(itertools.takewhile(resolved.__getitem__, reversed(order)))
    below = min(len(lower), max(most - len(upper), most // 4))
    return upper[: most - below], lower[:below]


@dataclass
class _Entry:
    """An eigenvalue of an end, its residual, and its independent eigenvectors in the probes.

    `tilt` (a sine) bounds the error, from residuals and rounding, of its Ritz vectors and of what
    one had beyond the others. `torn` if two vectors differ by more than that and by less than
    another copy would.
    """

    value: float
    residual: float
    vectors: Tensor
    tilt: float
    torn: bool = False

    def meet(self, value: float, residual: float, vector: Tensor, tilt: float) -> None:
        """Keep the better value, and add the vector (1, n), which is overwritten, if it is new."""
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
    """The eigenvalues on which the probes agree at one end, from the outside in.

    `outward` is 1 at the top, −1 at the bottom.
    """

    outward: float
    entries: list[_Entry] | None = None

    def meet(
        self, nodes: Nodes, found: Sequence[int], vectors: Mapping[int, Tensor], slack: float
    ) -> None:
        """Compare with another probe's nodes `found` at this end, and look for further copies.

        `vectors` are their Ritz vectors (n,), which are kept. An eigenvalue that this probe happens
        to miss stays; one that the earlier probes missed ends the list.
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
        """Keep the eigenvalues before the first with unknown copies or that is in `above`.

        Copies are unknown if every probe had a new one, or one that may be new. Returns whether
        this ended the list.
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
        """How many eigenvalues come before the first whose number of copies is not certain."""
        known = itertools.takewhile(lambda entry: entry.sure(probes), self.entries or [])
        return sum(len(entry.vectors) for entry in known)
