"""Which points are asked for."""

import pytest
from sharpcli.settings.exploring import GridSettings

from sharpcli.errors import UsageError
from sharpcli.landscape.grid import axis_values, check_line, fewest_points, grid_points, line_values


def test_the_default_line_holds_its_ends_exactly():
    values = line_values(-1.0, 2.0, 25)
    assert values == [(i - 8) / 8 for i in range(25)]


@pytest.mark.parametrize("points", range(1, 40))
@pytest.mark.parametrize("limits", [(-1.0, 2.0), (0.0, 1.0), (-0.3, 1.1), (-7.0, 1.0)])
def test_ends_in_range_are_always_among_a_lines_points(points, limits):
    values = line_values(*limits, points)
    assert len(set(values)) == points
    assert values == sorted(values)
    assert 0.0 in values
    assert 1.0 in values or points == 1


@pytest.mark.parametrize(
    ("limits", "ends"), [((0.2, 0.8), []), ((0.5, 2.0), [1.0]), ((2.0, 3.0), [])]
)
def test_ends_out_of_range_are_not_drawn_in(limits, ends):
    values = line_values(*limits, 7)
    assert [v for v in values if v in (0.0, 1.0)] == ends
    assert limits[0] <= values[0] <= values[-1] <= limits[1]


@pytest.mark.parametrize("points", range(1, 40))
@pytest.mark.parametrize(
    ("limits", "fewest"),
    [
        ((-1.0, 2.0), 4),
        ((-0.01, 1.01), 4),
        ((0.0, 1.0), 2),
        ((-7.0, 1.0), 3),
        ((0.5, 2.0), 3),
        ((0.0, 0.0), 1),
        ((0.2, 0.8), 1),
    ],
)
def test_the_ends_of_a_range_are_kept_or_the_points_are_too_few(limits, fewest, points):
    assert fewest_points(*limits) == fewest
    if points < fewest:
        with pytest.raises(UsageError, match=f"takes {fewest} points at least"):
            check_line(*limits, points)
        return
    check_line(*limits, points)
    values = line_values(*limits, points)
    assert len(values) == points
    if points > 1:
        assert (values[0], values[-1]) == limits
        assert {end for end in (0.0, 1.0) if limits[0] <= end <= limits[1]} <= set(values)


def test_too_few_points_are_refused_with_what_the_range_takes():
    with pytest.raises(UsageError) as caught:
        check_line(-1.0, 2.0, 3)
    assert caught.value.message == (
        "points=3: a range of -1:2 that holds 0 and 1 takes 4 points at least"
    )
    assert caught.value.hint == (
        "ask for 4 or more, or for a ranges with an end at 0 or 1, such as 0:1"
    )
    with pytest.raises(UsageError, match=r"a range of 0\.5:2 that holds 1 takes 3 points"):
        check_line(0.5, 2.0, 2)


def test_a_single_point():
    assert line_values(-1.0, 2.0, 1) == [0.0]
    assert line_values(0.0, 0.0, 1) == [0.0]
    assert line_values(0.25, 0.75, 1) == [0.5]
    assert axis_values(-1.0, 1.0, 1) == [0.0]


def test_alpha_runs_fastest():
    assert list(grid_points([[0.0, 1.0, 2.0], [5.0, 6.0]])) == [
        (0.0, 5.0), (1.0, 5.0), (2.0, 5.0), (0.0, 6.0), (1.0, 6.0), (2.0, 6.0),
    ]  # fmt: skip
    assert list(grid_points([[0.0, 1.0]])) == [(0.0,), (1.0,)]


def test_one_value_holds_for_all_axes_and_two_for_each():
    assert GridSettings((25,)).shape(2) == (25, 25)
    assert GridSettings((21, 31)).shape(2) == (21, 31)
    assert GridSettings(ranges=((0.0, 1.0),)).limits(((-1.0, 1.0),) * 2) == ((0.0, 1.0),) * 2
    assert GridSettings().limits(((-1.0, 1.0), (0.0, 3.0))) == ((-1.0, 1.0), (0.0, 3.0))


def test_more_axes_than_there_are_is_misuse():
    with pytest.raises(UsageError, match="points names 2 axes, and there is one"):
        GridSettings((21, 31)).shape(1)
    with pytest.raises(UsageError, match="ranges names 2 axes, and there is one"):
        GridSettings(ranges=((0.0, 1.0),) * 2).limits(((0.0, 1.0),))
