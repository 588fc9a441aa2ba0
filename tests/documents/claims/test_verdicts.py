"""Verdicts from numbers of seeds, against intervals by hand."""

import math

import pytest

from sharpcli.documents.claims.verdicts import Prediction, judge

# Student's 95 % quantiles with 1, 2 and 4 degrees of freedom.
T1, T2, T4 = 12.7062, 4.30265, 2.77645


def test_the_interval_is_students():
    judged = judge([1.0, 2.0, 3.0], Prediction("above"))
    assert judged.value == pytest.approx(2.0)
    half = T2 / math.sqrt(3)
    assert judged.interval == pytest.approx((2 - half, 2 + half), rel=1e-5)


@pytest.mark.parametrize(
    ("direction", "values", "verdict"),
    [
        ("above", [2.0, 2.1, 1.9], "confirmed"),
        ("above", [-2.0, -2.1, -1.9], "reversed"),
        ("above", [0.01, -0.01, 0.0], "not confirmed"),
        ("above", [2.0, -2.0, 0.5], "undecided"),
        ("below", [-2.0, -2.1, -1.9], "confirmed"),
        ("below", [2.0, 2.1, 1.9], "reversed"),
    ],
)
def test_a_direction(direction, values, verdict):
    least = 0.5 if direction == "above" else -0.5
    assert judge(values, Prediction(direction, 0.0, least)).verdict == verdict


def test_an_effect_that_is_too_small_to_count_does_not_confirm():
    assert judge([0.1, 0.11, 0.09], Prediction("above", 0.0, 0.5)).verdict == "not confirmed"
    assert judge([-0.1, -0.11, -0.09], Prediction("below", 0.0, -0.5)).verdict == "not confirmed"
    # One that may be large enough does.
    assert judge([0.1, 0.5, 0.3], Prediction("above", -1.0, 0.5)).verdict == "confirmed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"direction": "above", "null": 1.0, "least": 0.5}, "least = 0.5 is not above null = 1"),
        ({"direction": "below", "least": 0.5}, "least = 0.5 is not below null = 0"),
        ({"direction": "above", "least": 0.0}, "is not above"),
        ({"direction": "within"}, "needs low or high"),
        ({"direction": "within", "low": 2.0, "high": 1.0}, "low = 2 is not below high = 1"),
        ({"direction": "within", "low": 0.0, "high": 1.0, "least": 1.0}, "not null and least"),
        ({"direction": "above", "high": 1.0}, 'are for direction = "within"'),
        ({"direction": "above", "null": math.inf}, "null is not finite"),
    ],
)
def test_what_any_number_would_fulfil_is_no_prediction(arguments, message):
    with pytest.raises(ValueError, match=message):
        Prediction(**arguments)


def test_without_a_least_effect_nothing_is_not_confirmed():
    assert judge([0.01, -0.01, 0.0], Prediction("above")).verdict == "undecided"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.0, 1.01, 0.99], "confirmed"),
        ([3.0, 3.01, 2.99], "not confirmed"),
        ([0.0, 3.0, 1.0], "undecided"),
    ],
)
def test_a_range(values, verdict):
    assert judge(values, Prediction("within", low=0.8, high=1.2)).verdict == verdict


def test_a_range_of_one_end():
    at_least = Prediction("within", low=-0.5)
    assert judge([0.1, 0.2, 0.3], at_least).verdict == "confirmed"
    assert judge([-2.1, -2.2, -2.3], at_least).verdict == "not confirmed"
    assert judge([-2.1, 0.2, 0.3], at_least).seeds_needed is not None


@pytest.mark.parametrize("values", [[], [1.0]])
def test_one_seed_decides_nothing(values):
    judged = judge(values, Prediction("above"))
    assert (judged.verdict, judged.interval, judged.seeds) == ("undecided", None, len(values))


def test_the_seeds_that_would_decide_are_the_fewest():
    # Mean 1, deviation 1: half the interval is t/√n, below 1 from n = 7 on: 2.447/√7 = 0.925.
    judged = judge([0.0, 1.0, 2.0], Prediction("above"))
    assert judged.verdict == "undecided"
    assert judged.seeds_needed == 7  # with 6: 2.571/√6 = 1.05


def test_the_seeds_that_would_exclude_an_effect_count_too():
    # The mean is at the null; an effect of 1 is excluded from t·1/√n < 1 on.
    judged = judge([-1.0, 0.0, 1.0], Prediction("above", 0.0, 1.0))
    assert judged.seeds_needed == 7


def test_no_number_of_seeds_is_named_where_none_would_do():
    assert judge([-1.0, 0.0, 1.0], Prediction("above")).seeds_needed is None


def test_two_seeds():
    judged = judge([1.0, 3.0], Prediction("above"))
    assert judged.interval == pytest.approx((2 - T1, 2 + T1), rel=1e-4)
