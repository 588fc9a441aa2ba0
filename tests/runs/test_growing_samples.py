"""Samples that grow until their sampling error is small enough."""

import json
import math
from dataclasses import replace

import pytest
import torch
from networks import real_targets, squared_error, task
from sharpcli.documents.scalars import Scalar
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn

from sharpcli.documents.results import CheckpointResult, to_document
from sharpcli.runs.growing_samples import Judge, Widest, grown, widest
from sharpcli.runs.measure import measure_model
from sharpcli.runtime.progress import Notes

TOTAL = 3000


def heard():
    """Notes, and the list of what they were told."""
    said = []
    return Notes(note=said.append), said


def result(count, error, *, total=TOTAL):
    """What measuring `count` of `total` examples gives."""
    about = {"examples": count} | ({"examples_in_all": total} if count < total else {})
    scalar = Scalar(2.0, sampling_error=error if count < total else None)
    return CheckpointResult(about, measures={"trace": scalar, "other": Scalar(1.0)})


def error_of(variance, count, total=TOTAL):
    """The standard error of a mean of `count` out of `total` values of that variance."""
    return math.sqrt(variance / count * (1 - count / total))


def judged(judge, variances, first=100):
    """Grow over samples in which the number 2 has these variances an example, one after another."""
    notes, said = heard()
    asked = []

    def measure(count):
        asked.append(count)
        used = min(count, TOTAL)
        found = result(used, error_of(variances[min(len(asked), len(variances)) - 1], used))
        if count >= TOTAL:
            return found
        return replace(found, measures=judge(found.measures, count, TOTAL))

    return grown(judge, measure, first=first, notes=notes), asked, said


def test_widest_looks_at_leading_numbers_with_their_bias():
    measures = {
        "loss": {"train": Scalar(1.0, sampling_error=0.1), "test": Scalar(1.0)},
        "epsilon_sharpness": [
            {"epsilon": 1e-3, "value": 10.0, "status": "lower_bound"}
            | {"sampling_error": 3.0, "sampling_bias": 4.0}
        ],
        "hessian": {"eigenvalues": [Scalar(5.0, sampling_error=1.0), Scalar(1.0)]},
        "gradient": {"norm": Scalar(1e-3, sampling_error=1.0)},
    }
    found = widest(measures, "train")
    assert (found.key, found.share) == ("epsilon_sharpness[1e-3]", 0.5)
    assert str(found) == "φ(1e-3) to 50 %"
    del measures["epsilon_sharpness"]
    assert str(widest(measures, "train")) == "λ1 to 20 %"
    assert str(Widest("loss.train", 0.104)) == "the loss to 10.4 %"
    assert widest({"gradient": measures["gradient"]}, "train").share == 1000
    assert widest({}, "train") is None


def test_a_number_whose_error_cannot_be_told_is_not_known():
    found = widest({"trace": Scalar(1.0)}, "train")
    assert found.share == float("inf")
    assert str(found) == "trace not at all"
    assert widest({"trace": Scalar(0.0, sampling_error=0.0)}, "train").share == 0
    marked = Scalar(1.0, sampling_error=1e-3, sampling_status="unreliable")
    found = widest({"trace": marked}, "train")
    assert (str(found), found.share) == ("trace not reliably", 1.0)


def test_a_sample_grows_to_what_its_error_asks_for():
    found, asked, said = judged(Judge(0.08, "train"), [16])
    # 16/n·(1 − n/3000) = (2·0.08)² for n = 517, and a fifth more.
    assert asked == [100, 620]
    assert found.measures["trace"].sampling_error == pytest.approx(error_of(16, 620))
    assert said[0] == "100 of 3,000 examples not enough (trace to 19.7 %); trying 620"
    assert said[-1] == "measured on 620 of 3,000 examples: trace to 7.15 %"


def test_a_sample_grows_by_half_at_least_and_eight_times_at_most():
    _, asked, _ = judged(Judge(0.19, "train"), [16])
    assert asked == [100, 150]
    _, asked, _ = judged(Judge(0.01, "train"), [16])
    assert asked[:2] == [100, 800]


def test_a_sample_of_unknown_error_doubles():
    judge = Judge(0.1, "train")
    marked = Scalar(2.0, sampling_error=9.0, sampling_status="unreliable")
    judge({"trace": marked}, 100, TOTAL)
    assert judge.factor(100, TOTAL) == 2
    judge({"trace": Scalar(2.0)}, 100, TOTAL)
    assert judge.factor(100, TOTAL) == 2


def test_a_first_sample_has_to_be_well_within_the_target():
    _, asked, _ = judged(Judge(0.2, "train"), [16])
    assert asked == [100, 150]
    _, asked, _ = judged(Judge(0.2, "train"), [7])
    assert asked == [100]


def test_an_error_that_looks_small_is_held_against_the_ones_before_it():
    # By its own error the second sample would be enough.
    judge = Judge(0.05, "train")
    found, asked, _ = judged(judge, [16, 10.5, 16])
    assert asked == [100, 800, 1200]
    assert error_of(10.5, 800) < 2 * 0.05
    # Variances an example are averaged, with the examples as weights.
    pooled = (16 * (100 + 1200) + 10.5 * 800) / 2100
    assert found.measures["trace"].sampling_error == pytest.approx(error_of(pooled, 1200))


def test_an_error_marked_unreliable_neither_ends_it_nor_counts():
    judge = Judge(0.5, "train")
    marked = Scalar(2.0, 9.0, "standard_error", sampling_error=9.0, sampling_status="unreliable")
    assert judge({"trace": marked}, 100, TOTAL) == {"trace": marked}
    assert not judge.enough
    own = error_of(1, 200)
    plain = replace(marked, error=own, sampling_error=own, sampling_status=None)
    entry = {"epsilon": 1e-3, "value": 3.0, "status": "lower_bound", "sampling_error": own}
    found = judge({"trace": plain, "epsilon_sharpness": [entry]}, 200, TOTAL)
    assert judge.enough
    assert found["trace"].error == found["trace"].sampling_error == pytest.approx(own)
    assert found["epsilon_sharpness"][0]["sampling_error"] == pytest.approx(own)


def test_where_no_sample_is_enough_all_of_the_data_are_measured():
    found, _, said = judged(Judge(1e-9, "train"), [16], first=1000)
    assert found.checkpoint == {"examples": TOTAL}
    assert said[-1] == "measured on all 3,000 examples: no smaller sample was enough"


def test_a_failure_ends_it():
    notes, said = heard()
    failed = CheckpointResult({}, "failed")
    assert grown(Judge(0.1, "train"), lambda _: failed, first=8, notes=notes) is failed
    assert said == []


def regression():
    return task(
        lambda: nn.Linear(3, 1), real_targets(3, 1), loss=squared_error, metrics=None, train=TOTAL
    )


def measured(target, *, samples=None, model=None):
    of = regression()
    notes, said = heard()
    report = measure_model(
        model or of.model(),
        of.data("train"),
        loss=of.loss,
        metrics=None,
        run=RunSettings(device="cpu", samples=samples),
        settings=MeasureSettings(measures=("loss", "trace"), sampling_error=target),
        notes=notes,
    )
    return to_document(report), said


@pytest.mark.parametrize(("target", "samples"), [(0.5, None), (0.03, None), (0.03, 100)])
def test_a_measurement_uses_as_few_examples_as_meet_the_target(target, samples):
    document, said = measured(target, samples=samples)
    about = document["results"][0]["checkpoint"]
    used = about["examples"]
    assert used == (samples or 512) if target == 0.5 else used > (samples or 512)
    assert about["examples_in_all"] == TOTAL
    assert document["task"]["examples"]["train"] == used
    assert document["settings"]["run"]["samples"] == samples
    for scalar in (
        document["results"][0]["measures"]["loss"]["train"],
        document["results"][0]["measures"]["trace"],
    ):
        assert scalar["sampling_error"] <= target * abs(scalar["value"])
    assert (len(said) == 1) == (target == 0.5)
    assert f"measured on {used:,} of " in said[-1]
    json.dumps(document, allow_nan=False)


def test_a_target_out_of_reach_takes_all_data_and_leaves_no_sampling_error():
    document, said = measured(1e-6)
    about = document["results"][0]["checkpoint"]
    assert about["examples"] == TOTAL
    assert "examples_in_all" not in about
    assert "sampling_error" not in document["results"][0]["measures"]["trace"]
    assert said[-1].endswith("measured on all 3,000 examples: no smaller sample was enough")


def test_samples_of_one_seed_are_nested():
    from sharpcli.objective.reading import read_rows

    column = torch.arange(TOTAL)
    small, large = (
        set(read_rows((column,), name="train data", samples=n, seed=3).batch[0].tolist())
        for n in (200, 400)
    )
    assert small < large


def test_layers_are_measured_on_the_last_sample_only():
    of = regression()
    settings = MeasureSettings(measures=("trace",), sampling_error=0.05, by="layer")
    begun = []

    def begin(what):
        begun.append(what)
        return lambda done, total: None

    report = measure_model(
        of.model(),
        of.data("train"),
        loss=of.loss,
        metrics=None,
        run=RunSettings(device="cpu", samples=64),
        settings=replace(settings),
        begin=begin,
    )
    assert len(report.results[0].layers) == 1
    assert sum("layer 1 of 1" in each for each in begun) == 1
