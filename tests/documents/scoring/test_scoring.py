"""Scores of curves made by hand, whose numbers are known."""

import dataclasses

import pytest
from scored_runs import run, scored

from sharpcli.documents.scoring.runs import Run
from sharpcli.errors import SharpError, UsageError


def scores(runs, **asked):
    return [result["scores"] for result in scored(runs, **asked)["results"]]


def counts(**known):
    names = ("all", "trained", "diverged", "failed", "waiting", "unknown")
    return dict.fromkeys(names, 0) | known


def test_utility():
    (found,) = scores([run([0.1, 0.8, 0.7], seed=0), run([0.1, 0.4, 0.9], seed=1)])
    assert found["runs"] == counts(all=2, trained=2)
    assert found["final"]["mean"] == pytest.approx(0.8)
    assert found["final"]["values"] == [0.7, 0.9]
    half = 12.7062047 * 0.2 / 2**0.5 / 2**0.5
    assert found["final"]["interval"] == pytest.approx([0.8 - half, 0.8 + half])
    assert found["best"]["mean"] == pytest.approx(0.85)
    over = found["over_seeds"]
    assert over["standard_deviation"] == pytest.approx(0.02**0.5)
    assert (over["worst"], over["best"]) == (0.7, 0.9)


def test_cost_of_a_target():
    curves = [[0.1, 0.8, 0.9], [0.1, 0.4, 0.8], [0.8, 0.9, 0.9]]
    (found,) = scores([run(each, seed=i) for i, each in enumerate(curves)], target=0.8)
    cost = found["to_target"]
    assert (cost["reached"], cost["n"]) == (3, 3)
    assert cost["steps"] == {"median": 10, "interval": [0, 20], "confidence": 0.75}
    assert cost["epochs"]["median"] == 0.5
    assert cost["seconds"]["median"] == 5
    assert found["to_best"]["steps"]["median"] == 20


def test_a_seed_that_never_arrives_costs_more_than_all():
    curves = [[0.1, 0.9], [0.1, 0.2], [0.9, 0.9]]
    (found,) = scores([run(each, seed=i) for i, each in enumerate(curves)], target=0.9)
    cost = found["to_target"]
    assert (cost["reached"], cost["n"]) == (2, 3)
    assert cost["steps"] == {"median": 10, "interval": [0, None], "confidence": 0.75}
    (found,) = scores([run([0.1, 0.2], seed=i) for i in range(2)], target=0.9)
    assert found["to_target"]["reached"] == 0
    assert found["to_target"]["steps"]["median"] is None
    assert found["to_target"]["steps"]["interval"] == [None, None]


def test_a_diverged_run_counts_as_failed():
    runs = [run([0.1, 0.9]), run([0.2, 0.8], seed=1), run(seed=2, status="diverged")]
    document = scored([*runs, run(seed=3, status="waiting")])
    (found,) = [each["scores"] for each in document["results"]]
    assert found["runs"] == counts(all=4, trained=2, diverged=1, waiting=1)
    assert found["final"]["n"] == 2
    assert found["to_target"]["n"] == 3
    assert any("diverged or failed" in each for each in document["warnings"])
    assert any("1 of 4 runs is not trained" in each for each in document["warnings"])


def test_a_value_that_is_not_finite_is_a_diverged_run():
    document = scored([run([0.1, 0.9]), run([0.1, None], seed=1)])
    (found,) = [each["scores"] for each in document["results"]]
    assert found["runs"]["diverged"] == 1
    assert any("diverged or failed" in each for each in document["warnings"])
    assert found["final"]["values"] == [0.9]


def test_a_group_whose_runs_all_failed_keeps_its_row():
    runs = [run(lr=0.1), run(lr=9.0, status="diverged"), run(lr=9.0, seed=1, status="failed")]
    document = scored(runs)
    good, bad = document["results"]
    assert bad["scores"]["final"]["mean"] is None
    assert bad["scores"]["runs"]["failed"] == 1
    assert (bad["scores"]["to_target"]["reached"], bad["scores"]["to_target"]["n"]) == (0, 2)
    assert document["settings"]["score"]["target"] == 0.9  # of the group that trained
    assert good["scores"]["over_rates"]["worst"] is None


def test_the_default_target_is_what_the_median_run_of_each_group_reaches():
    weak = [run([0.1, each], seed=i, lr=0.1) for i, each in enumerate([0.5, 0.6, 0.9])]
    strong = [run([0.1, 0.95], seed=i, lr=0.2) for i in range(3)]
    document = scored([*weak, *strong])
    assert document["settings"]["score"]["target"] == pytest.approx(0.6)
    assert [r["scores"]["to_target"]["reached"] for r in document["results"]] == [2, 3]


@pytest.mark.parametrize("bests", [[0.8, 0.9], [0.7, 0.8, 0.9, 0.95]])
def test_of_an_even_number_of_runs_more_than_half_reach_the_default_target(bests):
    document = scored([run([0.1, each], seed=i) for i, each in enumerate(bests)])
    assert document["settings"]["score"]["target"] == 0.8
    (found,) = [r["scores"]["to_target"] for r in document["results"]]
    assert found["reached"] > len(bests) / 2
    assert found["steps"]["median"] == 10


def test_labels_tell_groups_apart_by_any_digit():
    document = scored([run(lr=0.1234567), run(lr=0.1234568), run(lr=1e6)])
    labels = ["lr=0.1234567", "lr=0.1234568", "lr=1e+06"]
    assert [each["label"] for each in document["results"]] == labels


def test_a_loss_is_better_where_it_is_lower():
    curves = [[2.0, 0.5, 0.7], [2.0, 0.9, 0.6]]
    runs = [run(each, seed=i, metric="loss") for i, each in enumerate(curves)]
    document = scored(runs)
    about, (found,) = document["settings"]["score"], [r["scores"] for r in document["results"]]
    assert (about["metric"], about["split"], about["lower_is_better"]) == ("loss", "test", True)
    assert found["best"]["values"] == [0.5, 0.6]
    assert found["over_seeds"]["worst"] == 0.7
    assert about["target"] == pytest.approx(0.6)  # the worse one of two
    assert found["to_target"]["reached"] == 2


def test_a_metric_may_be_declared_lower():
    runs = [run([9.0, 3.0, 4.0], metric="perplexity")]
    (found,) = scores(runs, metric="perplexity", lower_is_better=True)
    assert found["best"]["values"] == [3.0]
    (found,) = scores(runs, metric="perplexity")
    assert found["best"]["values"] == [9.0]


def test_robustness_over_rates():
    finals = {0.01: 0.80, 0.1: 0.905, 0.5: 0.91, 1.0: 0.40}
    runs = [run([0.1, final], lr=lr) for lr, final in finals.items()]
    for found in scores(runs):
        over = found["over_rates"]
        assert (over["family"], over["tried"], over["near"]) == ("all runs", 4, 2)
        assert (over["best"], over["worst"], over["within"]) == (0.91, 0.40, 0.01)


def test_families_share_all_but_the_rate_and_the_numbers_of_a_schedule():
    specs = [
        "FIX(k0=0.1)",
        "FIX(0.5)",
        "warmup(0.1, steps=5):5, EXP(k0=0.1, gamma=0.99)",
        "0.2:9, 0.1",
    ]
    runs = [run(schedule=each) for each in specs]
    found = [each["scores"].get("over_rates") for each in scored(runs)["results"]]
    assert [each["family"] for each in found if each] == ["schedule=FIX"] * 2


def test_groups_differ_in_all_settings_but_the_seed():
    runs = [
        run(lr=lr, seed=seed, evaluate_every=seed + 1, **{"options.width": "8"})
        for lr in (0.5, 0.1)
        for seed in (0, 1)
    ]
    document = scored(runs)
    assert [each["label"] for each in document["results"]] == ["lr=0.1", "lr=0.5"]
    assert [each["n"] for each in document["results"]] == [2, 2]
    grouped = scored(runs, by=("width",))
    assert [each["label"] for each in grouped["results"]] == ["width=8"]
    assert any("differ in lr" in note for note in grouped["notes"])
    with pytest.raises(UsageError, match="by"):
        scored(runs, by=("hight",))


def test_groups_of_a_family_are_neighbours():
    runs = [run(lr=lr, optimizer=name) for lr in (0.1, 0.5) for name in ("sgd", "adam")]
    labels = [each["label"] for each in scored(runs)["results"]]
    assert labels == [
        "optimizer=adam, lr=0.1",
        "optimizer=adam, lr=0.5",
        "optimizer=sgd, lr=0.1",
        "optimizer=sgd, lr=0.5",
    ]


def test_median_and_quartiles_of_curves():
    curves = [[0.0, 0.1], [0.0, 0.2], [0.0, 0.3], [0.0, 0.5]]
    (found,) = scores([run(each, seed=i) for i, each in enumerate(curves)])
    band = found["curve"]
    assert band["steps"] == [0, 10]
    assert band["epochs"] == [0, 0.5]
    assert band["seconds"] == [0, 5]
    assert band["median"] == pytest.approx([0, 0.25])
    assert band["lower"] == pytest.approx([0, 0.175])
    assert band["upper"] == pytest.approx([0, 0.35])
    assert band["n"] == [4, 4]


def test_a_curve_ends_where_less_than_half_of_the_runs_go_on():
    lengths = [2, 2, 3, 5]
    (found,) = scores([run([0.5] * each, seed=i) for i, each in enumerate(lengths)])
    assert found["curve"]["n"] == [4, 4, 2]


def test_one_run_has_no_interval_and_a_note_says_so():
    document = scored([run()])
    (found,) = [each["scores"] for each in document["results"]]
    assert found["final"]["interval"] is None
    assert found["to_target"]["steps"] == {"median": 20, "interval": None, "confidence": None}
    assert any("no interval" in note for note in document["notes"])


def bare(seed=0, loss=0.5, **finals):
    known = {"train": {"loss": loss}, **finals}
    curve = {"step": [1, 2], "loss": [2.0, loss]}
    return Run(f"r{seed}", "p", {"seed": seed}, seed, "ok", finals=known, steps=curve)


def test_without_evaluations_there_are_final_values_and_a_note():
    document = scored([bare(0, 0.5), bare(1, 0.7)])
    (found,) = [each["scores"] for each in document["results"]]
    assert document["settings"]["score"]["metric"] == "loss"
    assert document["settings"]["score"]["target"] is None
    assert found["final"]["mean"] == pytest.approx(0.6)
    assert "best" not in found
    assert found["curve"]["median"] == pytest.approx([2.0, 0.6])
    assert any("evaluate_every" in note for note in document["notes"])


def test_what_a_sweep_measured_at_the_end_is_known_too():
    (found,) = scores([bare(test={"loss": 0.6, "accuracy": 0.8})])
    assert found["final"]["mean"] == 0.8
    assert "curve" not in found


def test_a_run_without_the_metric_has_not_failed():
    document = scored([run(), bare(1)])
    found = [each["scores"] for each in document["results"]]
    assert sum(each["runs"]["unknown"] for each in found) == 1
    assert sum(each["runs"]["diverged"] for each in found) == 0
    assert any("is not known of some runs" in note for note in document["notes"])
    assert "warnings" not in document


def test_the_gap_between_test_and_training_data():
    values = {"train": {"loss": [2.0, 0.5]}, "test": {"loss": [2.0, 0.75]}}
    known = run([0.1, 0.9])
    evaluations = {**known.evaluations, **values}
    (found,) = scores([dataclasses.replace(known, evaluations=evaluations)])
    assert found["gap"]["mean"] == 0.25


def test_a_target_that_runs_have_before_their_first_step():
    document = scored([run([0.1, 0.1], lr=9.0), run([0.1, 0.9], lr=0.1)])
    assert any("target" in note for note in document["notes"])
    assert not any("the target" in n for n in scored([run()], target=0.1)["notes"])


def test_long_settings_are_not_cut():
    specs = [f"warmup(0.1, steps=50):50, EXP(k0=0.1, gamma={g})" for g in (0.99, 0.999)]
    labels = [each["label"] for each in scored([run(schedule=each) for each in specs])["results"]]
    assert labels == [f"schedule={each}" for each in specs]


def test_a_metric_that_is_not_known():
    with pytest.raises(UsageError, match=r"acuracy.*accuracy"):
        scored([run()], metric="acuracy")


def test_no_run_is_trained():
    with pytest.raises(SharpError, match=r"no run is trained.*1 diverged, 1 waiting"):
        scored([run(status="diverged"), run(seed=1, status="waiting")])


def test_a_run_that_is_given_twice_counts_once():
    same = dataclasses.replace(run(), sha256="0" * 64)
    document = scored([same, same, run(seed=1)])
    assert [each["n"] for each in document["results"]] == [2]
    assert any("counted once" in note for note in document["notes"])
