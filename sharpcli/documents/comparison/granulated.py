"""The granulated Kendall coefficient: do a measure and the gap move together along each factor?

Plain Kendall's tau is high also if the measure only follows one factor that moves the gap a lot.
The granulated coefficient compares only runs that differ in one factor and agree in the others.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from sharpcli.documents.comparison.ranks import score

__all__ = ["Design", "Granulated", "granulated", "signs"]

_Cell = tuple[tuple[int, ...], ...]  # the runs at each level of the factor


@dataclass(frozen=True)
class Granulated:
    """`value` is Ψ, the mean of the ψ in `factors`; `settings` counts what each ψ is a mean of."""

    value: float
    factors: Mapping[str, float]
    settings: Mapping[str, int]


@dataclass(frozen=True)
class Design:
    """The cells of each factor: runs that agree in all other factors, by level of this one.

    Factors of which no two comparable runs have different levels have no cells and are left out.
    """

    cells: Mapping[str, Sequence[_Cell]]

    @staticmethod
    def of(
        rows: Sequence[Mapping[str, Hashable]], factors: Sequence[str], held: Sequence[str] = ()
    ) -> Design:
        """The design of runs with these settings; `held` are settings that agree but are no factor.

        >>> rows = [{"lr": 1, "seed": 0}, {"lr": 2, "seed": 0}, {"lr": 1, "seed": 1}]
        >>> Design.of(rows, ["lr"], ["seed"]).cells
        {'lr': (((0,), (1,)),)}
        """
        cells: dict[str, Sequence[_Cell]] = {}
        for factor in factors:
            others = [key for key in (*factors, *held) if key != factor]
            alike: dict[tuple[Hashable, ...], dict[Hashable, list[int]]] = {}
            for index, row in enumerate(rows):
                levels = alike.setdefault(tuple(row.get(key) for key in others), {})
                levels.setdefault(row.get(factor), []).append(index)
            found = tuple(
                tuple(tuple(runs) for runs in levels.values())
                for levels in alike.values()
                if len(levels) > 1
            )
            if found:
                cells[factor] = found
        return Design(cells)

    @property
    def pairs(self) -> int:
        """The number of compared pairs of runs."""
        return sum(_compared(cell) for cells in self.cells.values() for cell in cells)


def granulated(x: Sequence[float], y: Sequence[float], design: Design) -> Granulated | None:
    """The granulated Kendall coefficient of x and y; None for a design without cells.

    For each factor i, ψᵢ is the mean, over all settings of the other factors, of the mean of
    sign(xₐ − x_b)·sign(yₐ − y_b) over the pairs of runs that differ in factor i; Ψ is the mean of
    the ψᵢ. A tie counts 0. Runs that agree in factor i too, such as seeds, are not a pair.

    Cost: of the order of n·log n for each factor.
    Source: Jiang et al. 2020, "Fantastic generalization measures and where to find them", section 3
        (equations for ψ and Ψ). There each setting has one run.
    """
    factors: dict[str, float] = {}
    for factor, cells in design.cells.items():
        taus = []
        for cell in cells:
            runs = [run for level in cell for run in level]
            agreement = _score(x, y, runs) - sum(_score(x, y, level) for level in cell)
            taus.append(agreement / _compared(cell))
        factors[factor] = math.fsum(taus) / len(taus)
    if not factors:
        return None
    settings = {factor: len(cells) for factor, cells in design.cells.items()}
    return Granulated(math.fsum(factors.values()) / len(factors), factors, settings)


def signs(
    x: Sequence[float], y: Sequence[float], design: Design
) -> dict[str, list[tuple[int, int, float, float]]]:
    """For each factor its pairs (a, b), each with its share of a setting and its signed share.

    ψ is the sum of the signed shares over the sum of the shares.
    """
    found: dict[str, list[tuple[int, int, float, float]]] = {}
    for factor, cells in design.cells.items():
        pairs = found[factor] = []
        for cell in cells:
            share = 1 / _compared(cell)
            for one, other in combinations(cell, 2):
                for a in one:
                    for b in other:
                        sign = _sign(x[a], x[b]) * _sign(y[a], y[b])
                        pairs.append((a, b, share, sign * share))
    return found


def _compared(cell: _Cell) -> int:
    """The number of pairs of runs at different levels."""
    runs = sum(map(len, cell))
    return (runs * runs - sum(len(level) ** 2 for level in cell)) // 2


def _score(x: Sequence[float], y: Sequence[float], runs: Sequence[int]) -> int:
    return score([x[run] for run in runs], [y[run] for run in runs]) if len(runs) > 1 else 0


def _sign(a: float, b: float) -> int:
    return (a > b) - (a < b)
