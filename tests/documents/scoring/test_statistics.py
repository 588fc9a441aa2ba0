"""Quantiles, intervals and their coverage."""

import math
import random

import numpy as np
import pytest

from sharpcli.documents.scoring.statistics import (
    deviation,
    interval_of_mean,
    interval_of_median,
    mean,
    median,
    quantile,
    student_quantile,
)


@pytest.mark.parametrize(
    ("degrees", "wanted"),
    [(1, 12.7062047), (2, 4.30265273), (3, 3.18244631), (4, 2.77644511), (29, 2.04522964)],
)
def test_students_quantiles(degrees, wanted):
    assert student_quantile(degrees) == pytest.approx(wanted, rel=1e-8)


def test_students_quantile_is_the_normal_one_for_many():
    assert student_quantile(100_000) == pytest.approx(1.959988, rel=1e-5)


def test_the_interval_of_a_mean():
    low, high = interval_of_mean([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2)
    assert (high - low) / 2 == pytest.approx(4.30265273 / math.sqrt(3))
    assert interval_of_mean([1.0]) is None
    assert (mean([]), deviation([1.0])) == (None, None)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_it_covers_the_mean_of_normal_values(n):
    draw = random.Random(n)
    inside = 0
    for _ in range(4000):
        low, high = interval_of_mean([draw.gauss(5, 2) for _ in range(n)])
        inside += low <= 5 <= high
    assert inside / 4000 == pytest.approx(0.95, abs=0.014)  # four standard errors


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_quantiles_are_numpys(n, share):
    draw = random.Random(n)
    values = [draw.random() for _ in range(n)]
    assert quantile(values, share) == pytest.approx(np.quantile(values, share), abs=1e-15)


def test_the_median_is_infinite_where_half_are():
    assert median([1.0, 2.0, math.inf]) == 2
    assert median([1.0, math.inf]) == math.inf
    assert median([math.inf] * 3) == math.inf


@pytest.mark.parametrize(
    ("n", "ranks", "confidence"),
    [
        (2, (1, 2), 0.5),
        (3, (1, 3), 0.75),
        (5, (1, 5), 0.9375),
        (6, (1, 6), 0.96875),
        (9, (2, 8), 1 - 2 * 10 / 512),
        (20, (6, 15), 1 - 2 * 21700 / 2**20),
    ],
)
def test_order_statistics_around_the_median(n, ranks, confidence):
    low, high, sure = interval_of_median([float(rank) for rank in range(1, n + 1)])
    assert (low, high) == ranks
    assert sure == pytest.approx(confidence, rel=1e-12)


@pytest.mark.parametrize("n", [3, 6, 9])
def test_they_cover_the_median_as_often_as_stated(n):
    draw = random.Random(n)
    inside = 0
    for _ in range(4000):
        low, high, sure = interval_of_median([draw.expovariate(1) for _ in range(n)])
        inside += low <= math.log(2) <= high
    assert inside / 4000 == pytest.approx(sure, abs=4 * math.sqrt(sure * (1 - sure) / 4000))


def test_what_does_not_arrive_opens_the_interval():
    assert interval_of_median([3.0, math.inf, 2.0]) == (2.0, math.inf, 0.75)
    assert interval_of_median([3.0]) is None
