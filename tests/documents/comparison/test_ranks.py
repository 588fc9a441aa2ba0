from __future__ import annotations

import math
import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpcli.documents.comparison.ranks import kendall, smallest_p_value


def test_a_perfect_order() -> None:
    found = kendall([1, 2, 3, 4], [10, 20, 30, 40])
    assert (found.tau, found.n, found.method) == (1.0, 4, "exact")
    assert found.p_value == pytest.approx(2 / 24) == smallest_p_value(4)


def test_the_reverse_order_is_as_unlikely() -> None:
    found = kendall([1, 2, 3, 4, 5], [5, 4, 3, 2, 1])
    assert found.tau == -1.0
    assert found.p_value == pytest.approx(2 / 120)


def test_a_constant_has_no_correlation() -> None:
    found = kendall([1, 1, 1, 1], [1, 2, 3, 4])
    assert found.tau is None
    assert found.p_value is None


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [4, 5])
def test_exact_p_values_count_all_orders(n: int, ties: bool) -> None:
    draw = random.Random(n)
    for _ in range(5):
        x = [draw.randrange(3) if ties else draw.random() for _ in range(n)]
        y = [draw.random() for _ in range(n)]
        found = kendall(x, y)
        if found.tau is None:
            continue
        taus = [kendall(x, order).tau for order in permutations(y)]
        extreme = sum(tau is not None and abs(tau) >= abs(found.tau) - 1e-12 for tau in taus)
        assert found.p_value == pytest.approx(extreme / len(taus))


@pytest.mark.parametrize("n", [8, 20, 60])
@pytest.mark.parametrize("levels", [None, 6])
def test_agrees_with_scipy(n: int, levels: int | None) -> None:
    from scipy.stats import kendalltau

    draw = random.Random(n)
    x = [draw.random() if levels is None else draw.randrange(levels) for _ in range(n)]
    y = [a + draw.random() for a in x]
    found = kendall(x, y)
    theirs = kendalltau(x, y, method="exact" if levels is None else "asymptotic")
    assert found.tau == pytest.approx(theirs.statistic)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert found.method == ("exact" if levels is None else "normal")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_swapping_the_sides_changes_nothing(pairs: list[tuple[int, int]]) -> None:
    x, y = zip(*pairs, strict=True)
    one, other = kendall(x, y), kendall(y, x)
    assert one.tau == other.tau
    assert (one.p_value is None) == (other.p_value is None)
    if one.p_value is not None and other.p_value is not None:
        assert one.p_value == pytest.approx(other.p_value)
        assert 0 <= one.p_value <= 1


def test_a_hundred_checkpoints_are_quick_and_finite() -> None:
    found = kendall(list(range(100)), list(range(100)))
    assert found.p_value is not None
    assert 0 < found.p_value < 1e-100
    assert math.isfinite(smallest_p_value(1000))
