"""Barriers in both conventions, against values worked out by hand."""

import math

import pytest

from sharpcli.landscape.barrier import barrier

PLACES = [-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0]
LOSSES = [9.0, 1.0, 2.0, 5.0, 4.0, 3.0, 9.0]


def test_above_the_line_between_the_ends():
    found = barrier(PLACES, LOSSES)
    assert (found.value, found.place) == (3.0, 0.5)  # 5 − (1 + 3)/2


def test_above_the_ends_mean():
    losses = [9.0, 1.0, 2.0, 4.0, 4.5, 3.0, 9.0]
    assert barrier(PLACES, losses).place == 0.5  # 4 − 2 against 4.5 − 2.5: the first of equals
    found = barrier(PLACES, losses, convention="mean")
    assert (found.value, found.place) == (2.5, 0.75)


def test_extrapolated_points_do_not_count():
    assert barrier([-1.0, 0.0, 1.0, 2.0], [9.0, 1.0, 1.0, 9.0]).value == 0.0


def test_a_flat_or_sagging_line_has_no_barrier():
    assert barrier([0.0, 0.5, 1.0], [2.0, 2.0, 2.0]).value == 0.0
    found = barrier([0.0, 0.5, 1.0], [2.0, 0.5, 2.0])
    assert (found.value, found.place) == (0.0, 0.0)


def test_without_its_ends_nothing_can_be_told():
    assert barrier([0.0, 0.5], [1.0, 2.0]) is None
    assert barrier([0.25, 0.5], [1.0, 2.0]) is None
    assert barrier([0.0, 1.0], [1.0, math.nan]) is None
    assert barrier([0.0, 1.0], [math.inf, 1.0]) is None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_between_is_an_infinite_barrier(loss):
    found = barrier([0.0, 0.5, 1.0], [1.0, loss, 1.0])
    assert found.value == math.inf
    assert found.place == 0.5
