"""What measures of one run share is computed when it is asked for, and once."""

from networks import CASES, context
from sharpcli.settings.measuring import MeasureSettings

from sharpcli.measures import Context


def test_what_is_known_costs_nothing_to_ask():
    shared = context(CASES["tanh"])
    assert shared.known("value_and_gradient") is None
    assert shared.objective.evaluations == 0
    found = shared.value_and_gradient
    assert shared.known("value_and_gradient") is found


def test_the_measured_split_has_a_name_where_it_is_one():
    shared = context(CASES["tanh"])
    assert shared.split == "train"
    alone = Context(shared.objective, {}, shared.theta, MeasureSettings())
    assert alone.split is None


def test_carriers_are_those_of_the_measured_split_either_way():
    first, second = context(CASES["tanh"], samples=20), context(CASES["tanh"], samples=20)
    assert first.evaluations["train"].loss.carriers is not None
    assert first.carriers == second.carriers
