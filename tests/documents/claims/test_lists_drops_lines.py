"""Statistics of lists, of where a value drops, and of lines, against what is known of made runs."""

import math

import pytest

from sharpcli.documents.claims.runs import Lines, StageRuns, Trained, number_of
from sharpcli.documents.claims.statistics import compute_statistic
from sharpcli.documents.scoring.runs import Run


def run(seed=0, accuracy=None, values=(), **settings):
    measures = {f"hessian.eigenvalues[{i}]": {"value": each} for i, each in enumerate(values)}
    finals = {} if accuracy is None else {"test": {"accuracy": accuracy}}
    own = Run("r", "r", {**settings, "seed": seed}, seed, "ok", finals=finals)
    return Trained(own, measures)


def statistic(name, *runs, lines=(), **arguments):
    return compute_statistic(name, {"trained": StageRuns("trained", runs, lines=lines)}, arguments)


def test_eigenvalues_above_the_largest_of_others_are_counted():
    small = run(batch_size=16, values=(2.0, 1.0))
    large = run(batch_size=512, values=(9.0, 5.0, 2.5, 2.0, 0.1))
    sides = {"of": {"batch_size": "largest"}, "to": {"batch_size": "smallest"}}
    counted = statistic("count_above", small, large, value="hessian.eigenvalues", **sides)
    assert counted.values == {0: 3}
    factor = statistic("count_above", small, large, value="hessian.eigenvalues", factor=3, **sides)
    assert factor.values == {0: 1}
    assert not counted.notes


def test_a_count_of_all_that_were_computed_is_noted():
    runs = run(batch_size=16, values=(2.0,)), run(batch_size=512, values=(9.0, 5.0))
    found = statistic(
        "count_above",
        *runs,
        value="hessian.eigenvalues",
        of={"batch_size": 512},
        to={"batch_size": 16},
    )
    assert found.values == {0: 2}
    assert "there may be more" in found.notes[0]


@pytest.mark.parametrize(
    ("accuracies", "start"),
    [
        ((0.90, 0.91, 0.905, 0.88, 0.85), 128),
        ((0.85, 0.91, 0.905, 0.91, 0.899), 256),
        ((0.80, 0.91, 0.80, 0.905, 0.91), 512),  # a drop that does not last is none
        ((0.92, 0.90, 0.90, 0.90, 0.90), 32),
    ],
)
def test_where_a_value_drops_for_good(accuracies, start):
    runs = [run(accuracy=a, batch_size=16 * 2**i) for i, a in enumerate(accuracies)]
    found = statistic("worse_from", *runs, value="test.accuracy", over="batch_size", margin=0.01)
    assert found.logarithmic
    assert math.exp(found.values[0]) == pytest.approx(start)
    assert bool(found.notes) == (start == 512)


def bowl(place):
    """Curvature 1 around 0 and 9 around 1, as two parabolas that meet."""
    return min(0.1 + place**2, 0.2 + 9 * (place - 1) ** 2)


def test_the_rise_around_the_ends_of_a_line_is_the_ratio_of_curvatures():
    places = [i / 8 for i in range(-8, 17)]
    line = Lines(0, places, {"train": {"loss": [bowl(each) for each in places]}})
    found = statistic("rise_ratio", lines=[line], distance=0.125)
    assert math.exp(found.values[0]) == pytest.approx(9)


def test_a_line_without_a_rise_or_without_the_place_is_left_out_and_noted():
    places = [-0.25, 0.0, 0.25, 0.75, 1.0, 1.25]
    falling = Lines(0, places, {"train": {"loss": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]}})
    assert "does not rise" in statistic("rise_ratio", lines=[falling], distance=0.25).notes[0]
    assert "no loss at" in statistic("rise_ratio", lines=[falling], distance=0.5).notes[0]


def test_the_step_that_a_run_started_from_is_a_setting():
    warm = run(init="small/seed=0/path/step-1008.safetensors")
    assert number_of(warm, "setting.init.step") == 1008
    assert number_of(run(init="small/model.safetensors"), "setting.init.step") is None
    assert number_of(run(), "setting.init.step") is None
