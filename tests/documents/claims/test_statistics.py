"""Statistics of claims against closed forms."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from simulated_claims import SIMULATIONS, WITHOUT_EFFECT, lost, simulated, stages, trained

from sharpcli.documents.claims.conclusions import claim_result
from sharpcli.documents.claims.experiment import Claim
from sharpcli.documents.claims.runs import StageRuns, chosen, number_of
from sharpcli.documents.claims.statistics import STATISTICS, compute_statistic
from sharpcli.documents.claims.verdicts import Prediction
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


def test_tuning_looks_at_the_next_seed_only():
    # Seed 0 does best with rate 1, but the others with rate 2.
    values = {(0, 1): 0.1, (0, 2): 0.9, (1, 1): 0.8, (1, 2): 0.2, (2, 1): 0.7, (2, 2): 0.3}
    runs = [
        trained(seed, curve=([0, 10], [1.0, value]), lr=rate)
        for (seed, rate), value in values.items()
    ]
    arguments = {"value": "test.loss", "of": {}, "tuned": ["lr"], "tuned_by": "test.loss"}
    found = compute_statistic("value", stages(runs), arguments)
    assert found.values == {0: 0.9, 1: 0.2, 2: 0.7}


def test_a_setting_that_fails_for_a_seed_is_not_chosen():
    # Rate 2 is the best where it does not diverge.
    values = {(s, r): 0.5 if r == 1 else 0.1 for s in range(4) for r in (1, 2)}
    runs = [
        lost(seed, lr=rate) if (seed, rate) in {(0, 2), (1, 2)} else trained(seed, value, lr=rate)
        for (seed, rate), value in values.items()
    ]
    runs = [
        run if run.is_lost else replace(run, run=replace(run.run, finals=finals(run)))
        for run in runs
    ]
    arguments = {"value": "test.loss", "of": {}, "tuned": ["lr"]}
    assert compute_statistic("value", stages(runs), arguments).values == dict.fromkeys(
        range(4), 0.5
    )


def finals(run):
    return {"test": {"loss": run.measures["y"]["value"]}}


def test_tuned_settings_have_one_run_a_seed():
    runs = [
        trained(seed, curve=([0, 10], [1.0, 0.5]), lr=1, width=width)
        for seed in (0, 1)
        for width in (8, 16)
    ]
    arguments = {"value": "test.loss", "of": {}, "tuned": ["lr"]}
    with pytest.raises(UsageError, match="several runs of a seed have the same of these"):
        compute_statistic("value", stages(runs), arguments)


def test_only_of_a_loss_or_accuracy_it_is_known_what_is_better():
    runs = [trained(seed, 1.0, lr=1) for seed in (0, 1)]
    with pytest.raises(UsageError, match="y: nothing says whether lower or higher is better"):
        compute_statistic("value", stages(runs), {"value": "y", "of": {}, "tuned": ["lr"]})


def test_the_largest_is_that_of_all_runs_that_were_asked_for():
    runs = [trained(seed, 1.0, lr=rate) for seed in (0, 1) for rate in (1, 2)]
    runs += [lost(seed, lr=4) for seed in (0, 1)]
    arguments = {"value": "y", "of": {"lr": "largest"}, "to": {"lr": "smallest"}}
    found = compute_statistic("difference", stages(runs), arguments)
    assert (found.values, found.missing) == ({}, [0, 1])
    assert found.notes[0] == "seed 0: a run (diverged) has no y, and is left out"


def test_a_seed_with_a_part_of_its_runs_has_no_mean():
    runs = [trained(seed, float(rate), lr=rate) for seed in (0, 1) for rate in (1, 2, 4)]
    runs = [lost(1, lr=4) if run.run.name == "lr=4,seed=1" else run for run in runs]
    found = compute_statistic("value", stages(runs), {"value": "y", "of": {}})
    assert found.values == {0: pytest.approx(7 / 3)}
    sloped = compute_statistic("slope", stages(runs), {"value": "y", "of": {}, "over": "lr"})
    assert sloped.notes == ["seed 1: the slope is of 2 of 3 runs"]
    correlated = compute_statistic(
        "rank_correlation", stages(runs), {"value": "y", "other": "setting.lr"}
    )
    assert correlated.notes == ["seed 1: the correlation is of 2 of 3 runs"]
    assert correlated.missing == [1]


def claimed(runs, statistic="difference", direction="above", null=0.0, **arguments):
    claim = Claim("c", "c", "s", statistic, Prediction(direction, null), {**TWO, **arguments})
    return claim_result(claim, stages(runs))


def test_seeds_that_are_lost_leave_a_claim_undecided():
    runs = [trained(s, 0.01 * s, batch_size=8) for s in range(5)]
    runs += [
        lost(s, batch_size=32) if s in (1, 3) else trained(s, 2.0, batch_size=32) for s in range(5)
    ]
    found = claimed(runs)
    assert (found.verdict, found.seeds, found.seeds_needed) == ("undecided", 3, None)
    assert found.notes[0] == "seeds 1, 3: a run (diverged) has no y, and is left out"
    assert found.notes[1].startswith("2 of 5 seeds have no value (1, 3)")
    assert found.notes[1].endswith("of the others alone it would be confirmed")


def test_a_ratio_of_what_is_negative_for_a_seed_decides_nothing():
    runs = [trained(s, 1.0 + 0.01 * s, batch_size=8) for s in range(4)]
    runs += [trained(s, -1.0 if s == 0 else 9.0, batch_size=32) for s in range(4)]
    found = claimed(runs, "ratio", null=1.0)
    assert found.verdict == "undecided"
    assert "seed 0: a run has no y above 0, and is left out" in found.notes


@pytest.mark.parametrize("null", [0.0, -1.0])
def test_a_ratio_is_not_compared_with_what_it_always_exceeds(null):
    runs = [trained(s, 1.0, batch_size=b) for s in range(3) for b in (8, 32)]
    with pytest.raises(UsageError, match=f"null = {null:g}: the ratio is above 0 always"):
        claimed(runs, "ratio", null=null)


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ({"low": 0.5}, "at least 0.5"),
        ({"high": 2.0}, "at most 2"),
        ({"low": 0.5, "high": 2.0}, "from 0.5 to 2"),
    ],
)
def test_a_ratio_in_a_range(bounds, text):
    runs = [trained(s, b / 8 * (1 + 0.01 * s), batch_size=b) for s in range(3) for b in (8, 9)]
    claim = Claim("c", "c", "s", "ratio", Prediction("within", **bounds), TWO)
    found = claim_result(claim, stages(runs))
    assert (found.verdict, found.prediction) == ("confirmed", text)


def test_an_interval_beyond_all_numbers_is_the_largest_one():
    runs = [trained(s, 1.0, batch_size=8) for s in (0, 1)]
    runs += [trained(s, y, batch_size=32) for s, y in ((0, 1e-200), (1, 1e200))]
    low, high = claimed(runs, "ratio", null=1.0).statistic.interval
    assert low == 0.0
    assert 1e308 < high < math.inf


def test_numbers_that_did_not_converge_are_said():
    runs = [trained(s, b + 0.1 * s, batch_size=b) for s in range(3) for b in (8, 32)]
    runs[0].measures["y"]["status"] = "max_products"
    note = "1 of 6 runs have a y that did not converge: max_products"
    assert claimed(runs).notes == [note]


def test_one_value_of_all_seeds_is_said():
    runs = [trained(s, float(b), batch_size=b) for s in range(3) for b in (8, 32)]
    found = claimed(runs)
    assert found.verdict == "confirmed"
    assert found.notes == ["all seeds have the same value, so that the interval has no width"]


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_what_has_no_effect_is_not_confirmed(name):
    """Where leaving out lost seeds, or choosing by all other seeds, would confirm many."""
    found = Counter(
        claim_result(claim, made).verdict
        for index in range(60)
        for made, claim in [WITHOUT_EFFECT[name](random.Random(f"{name}{index}"))]
    )
    assert found["confirmed"] <= 7  # 60 at 5 %: more than 7 in one of 75


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
    with pytest.raises(UsageError, match="no run has batch_size = 9"):
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


@pytest.mark.parametrize(
    ("place", "batch"), [("smallest", 8), ("second smallest", 16), ("largest", 32)]
)
def test_a_setting_may_be_chosen_by_its_place(place, batch):
    (run,) = chosen(
        StageRuns("a", [trained(0, batch_size=b) for b in (32, 8, 16)]), {"batch_size": place}
    )
    assert run.setting("batch_size") == batch


def test_a_place_that_no_run_has_is_named():
    made = StageRuns("a", [trained(0, batch_size=8)])
    with pytest.raises(UsageError, match="no run has the second smallest batch_size"):
        chosen(made, {"batch_size": "second smallest"})


def test_a_setting_may_be_a_list():
    made = StageRuns("a", [trained(0, betas=(0.9, b)) for b in (0.99, 0.999)])
    (run,) = chosen(made, {"betas": [0.9, 0.999]})
    assert run.setting("betas") == (0.9, 0.999)
