"""Statistics of claims against closed forms."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from simulated_claims import SIMULATIONS, simulated, stages, trained

from sharpcli.documents.claims.conclusions import claim_result
from sharpcli.documents.claims.runs import number_of
from sharpcli.documents.claims.statistics import STATISTICS, compute_statistic
from sharpcli.errors import UsageError

TWO = {"value": "y", "of": {"batch_size": "largest"}, "to": {"batch_size": "smallest"}}
BATCHES = (8, 16, 32)


def by_batch(values):
    """Runs of two seeds with a value for each batch size, the second seed's 10 higher."""
    return stages(
        [
            trained(seed, 10 * seed + value, batch_size=batch)
            for seed in (0, 1)
            for batch, value in zip(BATCHES, values, strict=True)
        ]
    )


def test_difference_and_ratio_are_of_one_seed():
    made = by_batch((1.0, 5.0, 4.0))
    assert compute_statistic("difference", made, TWO).values == {0: 3.0, 1: 3.0}
    ratio = compute_statistic("ratio", made, TWO)
    assert ratio.logarithmic
    assert ratio.values == {
        0: pytest.approx(math.log(4 / 1)),
        1: pytest.approx(math.log(14 / 11)),
    }


def test_several_runs_of_a_seed_count_by_their_mean():
    made = by_batch((1.0, 5.0, 4.0))
    assert compute_statistic("value", made, {"value": "y", "of": {}}).values[0] == pytest.approx(
        10 / 3
    )


def test_a_seed_without_the_value_is_left_out_and_said():
    runs = [*by_batch((1.0, 2.0, 3.0))["trained"].runs, trained(2, None, batch_size=32)]
    found = compute_statistic("difference", stages(runs), TWO)
    assert {*found.values} == {0, 1}
    assert found.notes == ["seed 2: a run has no y, and is left out"]


def test_a_slope_is_a_rise_for_each_factor_of_two():
    arguments = {"value": "y", "over": "batch_size", "of": {}}
    assert compute_statistic("slope", by_batch((1.0, 3.0, 5.0)), arguments).values == {
        0: pytest.approx(2.0),
        1: pytest.approx(2.0),
    }
    made = stages([trained(0, 4.0**k, batch_size=2**k) for k in range(3)])
    found = compute_statistic("slope", made, {**arguments, "log": True})
    assert found.values == {0: pytest.approx(2.0)}


def line(slope, start=1.0):
    steps = list(range(0, 101, 10))
    return steps, [start - slope * step for step in steps]


def test_steps_are_those_to_the_worse_of_both_ends():
    # One ends at 1 − 0.009·100 = 0.1, the other is there after 50 steps.
    runs = [trained(0, curve=line(0.009), lr=1), trained(0, curve=line(0.018), lr=2)]
    arguments = {"value": "test.loss", "of": {"lr": 2}, "to": {"lr": 1}}
    found = compute_statistic("steps_ratio", stages(runs), arguments)
    assert found.values == {0: pytest.approx(math.log(0.5))}
    swapped = compute_statistic(
        "steps_ratio", stages(runs), arguments | {"of": {"lr": 1}, "to": {"lr": 2}}
    )
    assert swapped.values == {0: pytest.approx(math.log(2))}


def test_tuning_looks_at_the_other_seeds_only():
    # Seed 0 does best with rate 1, but the others with rate 2.
    values = {(0, 1): 0.1, (0, 2): 0.9, (1, 1): 0.8, (1, 2): 0.2, (2, 1): 0.7, (2, 2): 0.3}
    runs = [
        trained(seed, curve=([0, 10], [1.0, value]), lr=rate)
        for (seed, rate), value in values.items()
    ]
    arguments = {"value": "test.loss", "of": {}, "tuned": ["lr"], "tuned_by": "test.loss"}
    found = compute_statistic("value", stages(runs), arguments)
    # Seed 0: 2 (0.25 against 0.75). Seed 1: 0.4 against 0.6, so 1. Seed 2: 0.45 against 0.55, so 1.
    assert found.values == {0: 0.9, 1: 0.8, 2: 0.7}


def test_rank_correlations():
    made = by_batch((1.0, 2.0, 3.0))
    arguments = {"value": "y", "other": "setting.batch_size"}
    assert compute_statistic("rank_correlation", made, arguments).values == {0: 1.0, 1: 1.0}


def with_course(*values):
    return stages([trained(0, curve=(list(range(len(values))), list(values)), lr=1)])


def test_a_rise_is_the_late_median_over_the_first_number():
    found = compute_statistic(
        "rise", with_course(2.0, 9.0, 5.0, 6.0, 7.0), {"value": "test.loss", "of": {}}
    )
    assert found.logarithmic
    assert found.values == {0: pytest.approx(math.log(6 / 2))}


def test_the_highest_of_a_course():
    found = compute_statistic(
        "highest", with_course(1.0, 5.0, 2.0), {"value": "test.loss", "of": {}}
    )
    assert found.values == {0: 5.0}


def test_a_share_counts_from_where_the_level_was_reached():
    arguments = {"value": "test.loss", "of": {}, "reached": 0.9, "low_end": 0.8, "high_end": 1.2}
    found = compute_statistic("share_within", with_course(0.1, 0.5, 1.0, 0.7, 1.1, 1.3), arguments)
    assert found.values == {0: 0.5}
    assert compute_statistic("share_within", with_course(0.1, 0.5), arguments).values == {0: 0.0}


def test_granulated_correlations_compare_runs_that_differ_in_one_factor():
    # y goes with the gap along lr and against it along the batch size.
    gaps = {(1, 8): 0.0, (1, 16): 1.0, (2, 8): 10.0, (2, 16): 11.0}
    numbers = {(1, 8): 1.0, (1, 16): 0.0, (2, 8): 11.0, (2, 16): 10.0}
    runs = [
        replace(
            trained(0, lr=lr, batch_size=batch),
            measures={
                "gap_": {"value": gap},
                "y": {"value": numbers[lr, batch]},
                "z": {"value": -gap},
            },
        )
        for (lr, batch), gap in gaps.items()
    ]
    arguments = {"value": "y", "other": "gap_", "factors": ["lr", "batch_size"]}
    assert compute_statistic("granulated_correlation", stages(runs), arguments).values == {0: 0.0}
    along = compute_statistic(
        "granulated_correlation", stages(runs), {**arguments, "value": ["y", "z"]}
    )
    assert along.values == {0: -0.5}
    apart = compute_statistic(
        "granulated_correlation_difference", stages(runs), {**arguments, "than": "z"}
    )
    assert apart.values == {0: 1.0}


def test_a_rescaled_number_is_the_factor_by_which_it_moved():
    moved = {"y": {"before": 4.0, "after": 1.0}, "z": {"before": -1.0, "after": 1.0}}
    run = replace(trained(0, lr=1), rescaled=moved)
    assert number_of(run, "rescaled.y") == 4.0
    assert number_of(run, "rescaled.z") is None


def test_what_does_not_exist_is_named():
    with pytest.raises(UsageError, match="statistic rato: did you mean 'ratio'"):
        compute_statistic("rato", {}, {})
    with pytest.raises(UsageError, match="no trained run has batch_size = 9"):
        compute_statistic(
            "value", by_batch((1.0, 2.0, 3.0)), {"value": "y", "of": {"batch_size": 9}}
        )
    with pytest.raises(UsageError, match="statistic ratio: needs 'to'"):
        compute_statistic("ratio", by_batch((1.0, 2.0, 3.0)), {"value": "y", "of": {}})


def test_every_statistic_is_simulated():
    assert {*STATISTICS} == {*SIMULATIONS}


@pytest.mark.parametrize("name", SIMULATIONS)
def test_verdicts_on_simulated_sweeps(name):
    """The benchmark `claims` has the rates; here a large effect is seen, and none is not."""
    found = Counter(
        claim_result(claim, made).verdict
        for index in range(20)
        for made, claim in [simulated(name, random.Random(f"{name}{index}"), 4.0)]
    )
    assert found["confirmed"] >= 19
    found = Counter(
        claim_result(claim, made).verdict
        for index in range(40)
        for made, claim in [simulated(name, random.Random(f"{name}{index}"), 0.0)]
    )
    assert found["confirmed"] <= 6  # 40 at 5 %: more than 6 in one of 70
