"""Statistics of how many steps are needed, how long a gain lasts, and what a choice costs."""

from __future__ import annotations

import math

import pytest

from sharpcli.documents.claims.runs import StageRuns, Trained
from sharpcli.documents.claims.statistics import compute_statistic
from sharpcli.documents.scoring.runs import Run


def trained(seed, losses, every=10, **settings):
    """A run whose test loss is evaluated at step 0 and every so many steps."""
    steps = [every * i for i in range(len(losses))]
    evaluations = {"step": steps, "test": {"loss": losses}}
    run = Run(f"{settings}{seed}", "", settings, seed, "ok", evaluations=evaluations)
    return Trained(run, updates=steps[-1])


def stage(name, *runs):
    return StageRuns(name, runs)


def test_the_length_that_suffices_is_interpolated_in_the_logarithm():
    stages = {
        "short": stage("short", *(trained(s, [9.0, 3.0], 100, kind="a") for s in (0, 1))),
        "long": stage("long", *(trained(s, [9.0, 1.0], 400, kind="a") for s in (0, 1))),
        "other": stage("other", *(trained(s, [9.0, 2.0], 400, kind="b") for s in (0, 1))),
    }
    arguments = {"stages": ["short", "long"], "to_stage": "other", "value": "test.loss"}
    found = compute_statistic(
        "length_ratio", stages, arguments | {"of": {"kind": "a"}, "to": {"kind": "b"}}
    )
    assert {s: math.exp(x) for s, x in found.values.items()} == pytest.approx({0: 0.5, 1: 0.5})
    assert not found.notes


def test_a_length_beyond_the_longest_is_extrapolated():
    stages = {
        "short": stage("short", trained(0, [9.0, 3.0], 100, kind="a")),
        "long": stage("long", trained(0, [9.0, 2.0], 200, kind="a")),
        "other": stage("other", trained(0, [9.0, 1.0], 200, kind="b")),
    }
    arguments = {"stages": ["short", "long"], "to_stage": "other", "value": "test.loss"}
    found = compute_statistic(
        "length_ratio", stages, arguments | {"of": {"kind": "a"}, "to": {"kind": "b"}}
    )
    assert found.values == pytest.approx({0: math.log(2)})
    assert "of 1 of 1 seeds the length is beyond" in found.notes[0]


def test_the_target_is_reached_by_the_rate_that_is_first_for_the_other_seeds():
    runs = []
    for seed in (0, 1, 2):
        runs += [
            trained(seed, [4.0, 2.0, 1.0, 0.5], schedule="FIX(0.1)"),
            trained(seed, [4.0, 3.0, 3.0, 3.0], schedule="FIX(0.01)"),
            trained(seed, [4.0, 1.0, 1.0, 1.0], schedule="TRI2(0, 1, 9)"),
        ]
    found = compute_statistic(
        "target_ratio",
        {"trained": stage("trained", *runs)},
        {
            "value": "test.loss",
            "target": 1.0,
            "tuned": ["schedule"],
            "of": {"policy": "TRI2"},
            "to": {"policy": "FIX"},
        },
    )
    assert [math.exp(x) for x in found.values.values()] == pytest.approx([0.5, 0.5, 0.5])
    assert not found.notes


def test_a_run_that_never_reaches_the_target_counts_with_all_its_steps():
    runs = [trained(s, [4.0, 3.0, 2.0], kind="a") for s in (0, 1)]
    runs += [trained(s, [4.0, 1.0, 1.0], kind="b") for s in (0, 1)]
    arguments = {"value": "test.loss", "target": 1.0, "of": {"kind": "a"}, "to": {"kind": "b"}}
    found = compute_statistic("target_ratio", {"trained": stage("trained", *runs)}, arguments)
    assert [math.exp(x) for x in found.values.values()] == pytest.approx([2.0, 2.0])
    assert found.notes == ["2 of 2 runs of kind a do not reach 1, and count with all their steps"]


def test_half_lives_of_exponential_decays():
    def losses(life):
        return [5.0 - 0.5 ** (10 * i / life) for i in range(41)]

    stages = {
        "after": stage("after", trained(0, losses(80), kind="a"), trained(0, losses(20), kind="b")),
        "without": stage(
            "without", trained(0, [5.0] * 41, kind="a"), trained(0, [5.0] * 41, kind="b")
        ),
    }
    arguments = {"minus": "without", "value": "test.loss", "of": {"kind": "a"}}
    found = compute_statistic("half_life_ratio", stages, arguments | {"to": {"kind": "b"}})
    assert math.exp(found.values[0]) == pytest.approx(4.0)


def test_the_choice_of_another_stage_costs_the_difference():
    def runs(a, b):
        return [
            each
            for seed in (0, 1, 2)
            for each in (
                trained(seed, [9.0, a], schedule="FIX(0.1)"),
                trained(seed, [9.0, b], schedule="TRI2(0, 1, 9)"),
            )
        ]

    stages = {"fine": stage("fine", *runs(2.0, 1.5)), "scratch": stage("scratch", *runs(3.0, 4.0))}
    arguments = {"chosen_in": "scratch", "value": "test.loss", "by": ["policy"]}
    found = compute_statistic("cost_of_choice", stages, arguments)
    assert found.values == {0: 0.5, 1: 0.5, 2: 0.5}
    assert found.notes == ["both stages choose the same for 0 of 3 seeds"]


def test_the_policy_of_a_schedule_is_its_names():
    run = trained(0, [1.0], schedule="warmup(0.1, steps=50):50, cosine(0.1, steps=50)")
    assert run.setting("policy") == "warmup + cosine"
    assert trained(0, [1.0]).setting("policy") is None
