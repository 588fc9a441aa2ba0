"""The granulated Kendall coefficient of a 48-run sweep against the paper's definition."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
from problem import Setting
from report import Bar, Section

from sharpcli.documents.comparison.granulated import Design, granulated

sys.path.append(str(Path(__file__).parents[1] / "support"))

from plain_granulated import plain_granulated

NAME = "granulated"
_NAMES = ("lr", "batch_size", "width")
_GRID = tuple(itertools.product(range(4), range(4), range(3)))
_DRAWS, _EXACT = 100, 1e-12


def run(setting: Setting) -> Section:
    section = Section(
        NAME,
        "Granulated Kendall",
        f"{len(_GRID)} runs of a 4 × 4 × 3 sweep with random measures and gaps, with and without "
        "ties, against the definition of Jiang et al. 2020 by loops over all pairs.",
    )
    rows = [dict(zip(_NAMES, each, strict=True)) for each in _GRID]
    design = Design.of(rows, _NAMES)
    generator = np.random.default_rng(0)
    worst = {"no ties": 0.0, "ties": 0.0}
    for _ in range(5 if setting.quick else _DRAWS):
        values = generator.normal(size=(2, len(rows)))
        for name, (mu, g) in {"no ties": values, "ties": values.round()}.items():
            expected, factors = plain_granulated(rows, list(mu), list(g))
            found = granulated(list(mu), list(g), design)
            assert found is not None
            off = [abs(found.value - expected)]
            off += [abs(found.factors[key] - factors[key]) for key in _NAMES]
            worst[name] = max(worst[name], *off)
    table = [(name, f"{off:.1e}") for name, off in worst.items()]
    section.tables.append(("Coefficients", ("values", "largest difference"), table))
    most = max(worst.values())
    bar = Bar(
        "granulated Kendall by its definition", f"{most:.1e}", f"≤ {_EXACT:g}", most <= _EXACT
    )
    section.bars.append(bar)
    return section
