from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from sharpcli.documents.comparison.bootstrap import granulated_intervals, resampled
from sharpcli.documents.comparison.granulated import Design, granulated, signs

sys.path.append(str(Path(__file__).parents[2] / "support"))

from plain_granulated import plain_granulated

NAMES = ["lr", "batch_size", "width"]
GRID = [
    dict(zip(NAMES, row, strict=True)) for row in itertools.product((1, 2, 3, 4), "abc", range(4))
]


@pytest.mark.parametrize("tied", [False, True])
def test_a_full_grid_agrees_with_the_paper(tied: bool) -> None:
    generator = np.random.default_rng(3)
    mu, g = generator.normal(size=(2, len(GRID)))
    if tied:
        mu, g = mu.round(0), g.round(0)
    expected, factors = plain_granulated(GRID, mu, g)
    found = granulated(list(mu), list(g), Design.of(GRID, NAMES))
    assert found is not None
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.factors == pytest.approx(factors, abs=1e-12)
    assert found.settings == {"lr": 12, "batch_size": 16, "width": 12}


def test_with_seeds_it_is_the_mean_of_each_seeds_sweep() -> None:
    generator = np.random.default_rng(5)
    rows = [{**row, "seed": seed} for row in GRID for seed in (0, 1)]
    mu, g = generator.normal(size=(2, len(rows)))
    found = granulated(list(mu), list(g), Design.of(rows, NAMES, ["seed"]))
    each = [plain_granulated(GRID, mu[seed::2], g[seed::2])[0] for seed in (0, 1)]
    assert found is not None
    assert found.value == pytest.approx(np.mean(each), abs=1e-12)


def test_runs_of_one_setting_are_no_pair() -> None:
    rows = [{"lr": lr} for lr in (1, 1, 2, 2, 2)]
    x, y = [1.0, 2.0, 3.0, 0.0, 5.0], [5.0, 1.0, 2.0, 3.0, 9.0]
    pairs = [(a, b) for a in (0, 1) for b in (2, 3, 4)]
    expected = np.mean([np.sign(x[a] - x[b]) * np.sign(y[a] - y[b]) for a, b in pairs])
    design = Design.of(rows, ["lr"])
    found = granulated(x, y, design)
    assert found is not None
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert design.pairs == 6
    assert sum(signed for *_, signed in signs(x, y, design)["lr"]) == pytest.approx(expected)


def test_a_factor_without_comparable_runs_is_left_out() -> None:
    rows = [{"optimizer": "sgd", "lr": 0.1}, {"optimizer": "adam", "lr": 0.001}]
    assert granulated([1.0, 2.0], [1.0, 2.0], Design.of(rows, ["optimizer", "lr"])) is None
    found = granulated([1.0, 2.0], [1.0, 2.0], Design.of(rows, ["optimizer"]))
    assert found is not None
    assert found.value == 1.0


def test_the_interval_covers_what_it_estimates() -> None:
    """Independent measure and gap: Ψ is 0 on average, and intervals are conservative."""
    generator = np.random.default_rng(0)
    rows = [
        dict(zip("abc", row, strict=True)) for row in itertools.product(range(3), range(2), "xy")
    ]
    design, covered = Design.of(rows, ["a", "b", "c"]), 0
    resamples = resampled(range(len(rows)), 20)
    for _ in range(40):
        x, y = (list(map(float, generator.normal(size=len(rows)))) for _ in "xy")
        value = granulated(x, y, design)
        assert value is not None
        interval, _ = granulated_intervals(
            signs(x, y, design), value.factors, value.value, resamples
        )
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
    assert covered >= 36
