"""Figures of several stages, and over the updates that runs took."""

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
