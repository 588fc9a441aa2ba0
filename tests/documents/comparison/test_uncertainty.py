"""Errors of differences and ratios, against intervals drawn at random and closed forms."""

from __future__ import annotations

import math
import random

import pytest
from sharpcli.documents.uncertainty import (
    WITHIN,
    Uncertainty,
    ratio_error,
    ratio_interval,
    worst_status,
)


def test_the_interval_of_a_ratio_is_fiellers() -> None:
    a, b, s, t = 6.0, 3.0, 0.5, 0.4
    found = ratio_interval(a, b, Uncertainty(sampling=s), Uncertainty(sampling=t))
    # The roots of (a − r b)² = z² (s² + r² t²)
    z = WITHIN**2
    A, B, C = b**2 - z * t**2, a * b, a**2 - z * s**2
    root = math.sqrt(B**2 - A * C)
    assert found == pytest.approx(((B - root) / A, (B + root) / A))


def test_limits_alone_give_the_farthest_quotients() -> None:
    found = ratio_interval(6.0, -3.0, Uncertainty(limit=1.0), Uncertainty(limit=0.5))
    assert found == pytest.approx((-7 / 2.5, -5 / 3.5))


def test_a_denominator_that_may_be_zero_has_no_interval() -> None:
    exact = Uncertainty()
    assert ratio_interval(6.0, 3.0, exact, Uncertainty(sampling=3 / WITHIN)) is None
    assert ratio_interval(6.0, 3.0, exact, Uncertainty(limit=3.0)) is None
    assert ratio_interval(6.0, 3.0, exact, Uncertainty(bias=3.0)) is None
    assert ratio_interval(6.0, 0.0, exact, exact) is None


def test_an_exact_ratio() -> None:
    assert ratio_interval(6.0, 3.0, Uncertainty(), Uncertainty()) == pytest.approx((2.0, 2.0))
    assert ratio_error(6.0, 3.0, Uncertainty(), Uncertainty()) == 0.0


@pytest.mark.parametrize(("a", "b"), [(6.0, 3.0), (-1.0, 5.0), (0.0, 2.0), (3.0, -4.0)])
def test_the_interval_of_a_ratio_covers_it(a: float, b: float) -> None:
    """Two normal numbers with a residual each that is used up: nominally 95 %, never much less."""
    draw = random.Random(0)
    of_a, of_b = Uncertainty(limit=0.1, random=0.3), Uncertainty(limit=0.05, sampling=0.2)
    covered, ratios = 0, []
    for _ in range(2000):
        x = draw.gauss(a, of_a.standard) + draw.choice((-1, 1)) * of_a.limit
        y = draw.gauss(b, of_b.standard) + draw.choice((-1, 1)) * of_b.limit
        found = ratio_interval(x, y, of_a, of_b)
        assert found is not None
        covered += found[0] <= a / b <= found[1]
        ratios.append(x / y)
    assert covered >= 0.94 * 2000
    spread = math.sqrt(sum((r - a / b) ** 2 for r in ratios) / len(ratios))
    assert ratio_error(a, b, of_a, of_b) >= 0.95 * spread


def test_a_mean_errs_as_if_all_erred_together() -> None:
    parts = [Uncertainty(limit=0.1, sampling=1.0), Uncertainty(limit=0.3, random=2.0, bias=1.0)]
    mean = Uncertainty.of_mean(parts, over_seeds=0.5)
    assert mean == Uncertainty(0.2, 1.0, 0.5, 0.5, 0.5)


def test_what_is_worst() -> None:
    assert worst_status([]) == "converged"
    assert worst_status(["converged", "upper_bound"]) == "upper_bound"
    assert worst_status(["lower_bound", "upper_bound"]) == "unresolved"
    assert worst_status(["suspect", "lower_bound"]) == "suspect"
    assert worst_status(["suspect", "not_finite"]) == "not_finite"
