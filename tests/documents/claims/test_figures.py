"""What the figures of experiments show."""

import math

import pytest
from simulated_claims import stages, trained

from sharpcli.documents.claims.experiment import FigurePlan
from sharpcli.documents.claims.figures import draw_plan
from sharpcli.documents.claims.runs import StageRuns, Trained
from sharpcli.documents.scoring.runs import Run


def stage(name, updates, values):
    runs = [
        Trained(Run("r", "r", {"seed": seed}, seed, "ok"), {"y": {"value": y}}, updates=updates)
        for seed, y in enumerate(values)
    ]
    return StageRuns(name, runs)


def test_each_stage_is_a_series_with_its_name():
    stages = {"slow": stage("slow", 100, (1.0, 3.0)), "fast": stage("fast", 40, (2.0, 2.0))}
    arguments = {"stages": ["slow", "fast"], "over": "updates", "value": "y"}
    drawn = draw_plan(FigurePlan("levels", "y", arguments), stages)
    assert [(each.name, each.x, each.y) for each in drawn.series] == [
        ("slow", [100.0], [2.0]),
        ("fast", [40.0], [2.0]),
    ]


def test_the_settings_of_a_series_follow_the_name_of_its_stage():
    arguments = {"stages": ["a"], "over": "updates", "value": "y", "by": ["seed"]}
    drawn = draw_plan(FigurePlan("levels", "y", arguments), {"a": stage("a", 7, (1.0, 3.0))})
    assert [each.name for each in drawn.series] == ["a, seed 0", "a, seed 1"]


def test_a_stage_is_drawn_with_the_name_that_the_figure_gives_it():
    arguments = {"stages": ["a", "b"], "over": "updates", "value": "y", "names": {"a": "slow"}}
    made = {name: stage(name, 7, (1.0, 3.0)) for name in "ab"}
    drawn = draw_plan(FigurePlan("levels", "y", arguments), made)
    assert [each.name for each in drawn.series] == ["slow", "b"]


def test_rows_have_a_statistic_with_its_interval():
    made = stages([trained(seed, value) for seed, value in enumerate((1.0, 4.0))])
    plan = FigurePlan("rows", "t", {"values": {"φ": "y"}, "of": {}, "log": True, "level": 1})
    figure = draw_plan(plan, made)
    assert (figure.style, figure.level) == ("rows", 1)
    (row,) = figure.series
    assert (row.name, row.y) == ("φ", [pytest.approx(2.0)])
    # Student's t for one degree of freedom is 12.7; the standard error of the logarithm is ln 2.
    assert math.log(row.high[0] / row.y[0]) == pytest.approx(12.706 * math.log(2), rel=1e-3)
    assert row.low[0] < row.y[0]


def test_rows_without_a_number_are_left_out():
    made = stages([trained(seed, 1.0) for seed in range(2)])
    plan = FigurePlan("rows", "t", {"values": {"a": "y", "b": "no"}, "of": {}})
    assert [each.name for each in draw_plan(plan, made).series] == ["a"]
