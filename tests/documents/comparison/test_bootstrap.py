from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats

from sharpcli.documents.comparison.bootstrap import correlation_interval, resampled
from sharpcli.documents.comparison.ranks import kendall, pearson, tau_b

LATENT = 0.6  # correlation of two normals: their tau is 2/π·asin(0.6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [0, 8])
def test_pearson_and_kendall_agree_with_scipy(seed: int, decimals: int) -> None:
    x, y = np.random.default_rng(seed).normal(size=(2, 30)).round(decimals)
    assert pearson(list(x), list(y)) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert tau_b(list(x), list(y)) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_pearson_of_a_constant_or_enormous_side() -> None:
    assert pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert pearson([1e308, -1e308, 0.0], [1.0, -1.0, 0.0]) == pytest.approx(1.0)


def test_a_long_p_value_is_close_to_the_exact_one() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 150))
    exact = stats.kendalltau(x, y, method="exact").pvalue
    assert kendall(list(x), list(y)).p_value == pytest.approx(exact, abs=0.003)


@pytest.mark.parametrize("n", [30, 400])
def test_intervals_cover_the_true_correlation(n: int) -> None:
    generator = np.random.default_rng(7)
    resamples, covered = resampled(range(n), 40), {"tau": 0, "r": 0}
    for _ in range(25):
        x, noise = generator.normal(size=(2, n))
        y = LATENT * x + np.sqrt(1 - LATENT**2) * noise
        for name, statistic, true in (
            ("tau", tau_b, 2 / np.pi * np.arcsin(LATENT)),
            ("r", pearson, LATENT),
        ):
            interval = correlation_interval(statistic, list(x), list(y), resamples)
            assert interval is not None
            covered[name] += interval[0] <= true <= interval[1]
    assert min(covered.values()) >= 20


def test_settings_with_several_runs_are_drawn_together() -> None:
    found = resampled([index // 3 for index in range(30)], 1)
    assert found.of == "settings"
    assert all(draw.count(0) == draw.count(1) == draw.count(2) for draw in found.draws)
    assert resampled([0, 0, 1, 1], 1).of == "runs"


def test_thousands_of_runs_are_scaled_and_global_randomness_stays() -> None:
    state = random.getstate()
    found = resampled(range(5000), 30)
    assert len(found.draws[0]) == 200
    assert found.scale == pytest.approx(0.2)
    assert random.getstate() == state
