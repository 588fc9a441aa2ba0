"""The granulated Kendall coefficient as the paper writes it, by loops over all pairs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["plain_granulated"]


def plain_granulated(
    settings: Sequence[Mapping[str, Any]], mu: Sequence[float], g: Sequence[float]
) -> tuple[float, dict[str, float]]:
    """Ψ and the ψ of a full grid with one run a setting (Jiang et al. 2020, section 3)."""
    names = list(settings[0])
    spaces = {name: sorted({row[name] for row in settings}) for name in names}
    at = {tuple(row[name] for name in names): i for i, row in enumerate(settings)}
    psi = {}
    for i, name in enumerate(names):
        others = [spaces[other] for other in names if other != name]
        taus = []
        for rest in itertools.product(*others):
            runs = [at[(*rest[:i], level, *rest[i:])] for level in spaces[name]]
            signs = [
                np.sign(mu[a] - mu[b]) * np.sign(g[a] - g[b]) for a in runs for b in runs if a != b
            ]
            taus.append(sum(signs) / (len(runs) * (len(runs) - 1)))
        psi[name] = sum(taus) / len(taus)
    return sum(psi.values()) / len(psi), psi
