"""How long a run takes, and runs that end by the clock."""

from dataclasses import replace

import pytest
import torch
from sharpcli.documents.scalars import Scalar
from sharpcli.settings.measuring import RunSettings
from torch import nn

from sharpcli import MeasureSettings, measure_model
from sharpcli.documents.results import CheckpointResult
from sharpcli.errors import UsageError
from sharpcli.measures import choose
from sharpcli.runs.growing_samples import FIRST_IN_TIME, Judge, Limit, grown
from sharpcli.runs.price import Foreteller, TimeShares, samples_for
from sharpcli.runtime.progress import Notes

TOTAL = 100_000


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def grown_in(seconds, *, fixed=0.0, an_example=0.01, target=0.0):
    """Grow over samples that take `fixed` plus `an_example` seconds, within `seconds`."""
    clock, said, asked = FakeClock(), [], []
    judge = Judge(target, "train")
    limit = Limit(seconds, clock)

    def measure(count):
        asked.append(count)
        clock.now += fixed + an_example * count
        about = {"examples": count} | ({"examples_in_all": TOTAL} if count < TOTAL else {})
        error = 2.0 / count**0.5 if count < TOTAL else None
        found = {"trace": Scalar(2.0, sampling_error=error)}
        return CheckpointResult(about, measures=judge(found, count, TOTAL))

    grown(judge, measure, first=FIRST_IN_TIME, notes=Notes(note=said.append), limit=limit)
    return asked, clock.now, said


@pytest.mark.parametrize("seconds", [5, 60, 600])
@pytest.mark.parametrize("fixed", [0.0, 1.0])
def test_growth_ends_in_time_and_uses_most_of_it(seconds, fixed):
    asked, took, said = grown_in(seconds, fixed=fixed)
    assert seconds / 3 < took <= seconds
    assert asked == sorted(asked)
    assert "no larger sample fits into the time" in said[-1]


def test_the_smallest_sample_is_kept_if_even_it_is_late():
    asked, took, said = grown_in(1.0)
    assert asked == [FIRST_IN_TIME]
    assert took > 1.0
    assert "even this sample took longer than the time given" in said[-1]


def test_growth_in_time_ends_at_the_data_or_the_target():
    asked, _, said = grown_in(1e6)
    assert asked[-1] == TOTAL
    assert "measured on all" in said[-1]
    asked, _, said = grown_in(1e6, target=0.05)
    assert asked[-1] < 1000
    assert "no larger" not in said[-1]


def test_checkpoints_share_the_time_and_what_is_left_of_it():
    clock = FakeClock()
    shares = TimeShares(60, 3, clock)
    assert shares.end_of_next() == 20
    clock.now = 10.0  # earlier than it had to
    assert shares.end_of_next() == 10 + 25
    clock.now = 70.0  # too late
    assert shares.end_of_next() == 70


def test_samples_for_an_error():
    assert samples_for(0.05, 10**9) == 4096
    assert samples_for(0.05, 4000) == 2048
    assert samples_for(0.01, 4000) == 4000
    assert samples_for(1e-6, 50) == 50


def model_and_data(count=6000):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, (torch.randn(count, 3), torch.randint(0, 2, (count,)))


def foretold(monkeypatch, seconds, checkpoints=1, samples=None):
    """The note of a run whose forward pass takes `seconds`."""
    import sharpcli.runs.measure as module

    ticks, said = iter([0.0, seconds]), []
    monkeypatch.setattr(
        module,
        "Foreteller",
        lambda _, notes: Foreteller(checkpoints, notes, lambda: next(ticks)),
    )
    measure_model(
        *model_and_data(),
        run=RunSettings(samples=samples),
        settings=MeasureSettings(measures=("loss", "gradient")),
        notes=Notes(note=said.append),
    )
    return said


def test_a_long_run_is_foretold(monkeypatch):
    # Loss and gradient take 4/3 gradients of three forward passes each.
    assert foretold(monkeypatch, 10.0) == []
    (said,) = foretold(monkeypatch, 30.0)
    assert said.startswith("about 2 min; ")
    assert "4096 gives about 5 % sampling error in" in said.replace("samples=", "")
    (said,) = foretold(monkeypatch, 15.0, checkpoints=3)
    assert said.startswith("about 3 min for 3 checkpoints (60 s each); ")
    (said,) = foretold(monkeypatch, 30.0, samples=1000)
    assert said == "about 2 min"  # it is a sample already


def test_costs_of_the_default_measures():
    settings = MeasureSettings()
    costs = {m.name: m.gradients(settings, 10**6) for m in choose(())}
    assert 80 < costs["epsilon-sharpness"] < 110
    assert 60 < costs["hessian"] < 90
    both = costs["epsilon-sharpness"]
    one = choose(("epsilon-sharpness",))[0].gradients
    assert one(replace(settings, epsilons=(1e-3,)), 10**6) < both
    assert one(replace(settings, subspaces=(10,)), 10**6) == settings.draws * both
    assert one(replace(settings, epsilons=(1e-1,)), 10**6) > one(
        replace(settings, epsilons=(1e-3,)), 10**6
    )


def test_a_run_in_time_says_what_it_measured():
    model, data = model_and_data(300)
    settings = MeasureSettings(measures=("loss",), time=60.0)
    report = measure_model(model, data, settings=settings)
    assert report.settings["measure"]["time"] == 60.0
    assert report.results[0].checkpoint["examples"] == 300


def test_a_time_out_of_range_is_refused():
    with pytest.raises(UsageError, match="time"):
        MeasureSettings(time=0.0)
    with pytest.raises(UsageError, match="do not go together"):
        MeasureSettings(time=5.0, by="layer")
