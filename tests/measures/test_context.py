"""What measures of one run share is computed when it is asked for, and once."""

import torch
from networks import CASES, context

from sharpcli.curvature.rounding import bytes_to_compare
from sharpcli.measures import Context
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import MeasureSettings


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


def test_kept_graphs_make_room_for_those_of_rounding_where_a_limit_asks():
    def kept(memory):
        curvature = CurvatureSettings(hvp="double-backward", memory=memory)
        shared = context(CASES["tanh"], "float32", batch_size=10, curvature=curvature)
        product = shared.hessian @ shared.theta
        graphs = [shared.hessian.microbatches[0]]
        assert shared.rounding is shared.rounding
        graphs.append(shared.hessian.microbatches[0])
        assert torch.equal(shared.hessian @ shared.theta, product)
        return graphs, shared

    (some, same), shared = kept(None)
    assert same == some > 1
    most = int(shared.budget.bytes)
    (some, none), shared = kept(most)
    assert (some > 1, none) == (True, 0)
    (some, same), _ = kept(2 * int(most + bytes_to_compare(shared.objective)))
    assert same == some > 1
