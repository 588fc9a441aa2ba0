"""All splits in one forward pass: the numbers of passes of their own, or no such pass."""

import pytest
import torch
from mixtures import ALPHAS, ends
from networks import CASES, objective, real_targets, squared_error, task
from torch import nn

from sharpcli.landscape.points.evaluator import Surface
from sharpcli.landscape.points.joint_splits import joint_objective
from sharpcli.objective.objective import Objective
from sharpcli.objective.reading import join_rows
from sharpcli.objective.rows import Rows


def splits(name, **run):
    """Both splits' objectives of a case, and θ."""
    _, objectives, frame, _, _ = ends(CASES[name], **run)
    return objectives, frame.anchors[0]


@pytest.mark.parametrize("name", ["tanh", "conv", "batch_norm", "attention", "ignored_tokens"])
def test_every_split_s_moments_are_those_of_a_pass_of_its_own(name):
    apart, theta = splits(name)
    joint = joint_objective(apart, theta)
    counts = [each.rows.count for each in apart.values()]
    assert joint.rows.count == sum(counts)
    names, found = joint.moments(theta, parts=counts)
    for own, each in zip(apart.values(), found, strict=True):
        assert names == own.moments(theta)[0]
        assert torch.allclose(each, own.moments(theta)[1], rtol=1e-12)
    assert joint.evaluations == 1


def test_smaller_batches_change_nothing_where_memory_ran_out():
    apart, theta = splits("conv")
    joint, counts = joint_objective(apart, theta), [o.rows.count for o in apart.values()]
    whole = joint.moments(theta, parts=counts)[1]
    while joint.halve_batches():
        assert torch.allclose(joint.moments(theta, parts=counts)[1], whole, rtol=1e-12)
    assert joint.batch_size == 1


@pytest.mark.parametrize("name", ["tanh", "batch_norm"])
def test_a_line_s_values_are_those_of_a_pass_a_split(name):
    found = []
    for size in (None, 30):
        _, objectives, frame, anchors, _ = ends(CASES[name], batch_size=size)
        walk = Surface(objectives).each(anchors, ALPHAS, frame.weights, ())
        found.append([values for _, group in walk for values in group])
        apart = {key: each.evaluations for key, each in objectives.items()}
        assert apart == dict.fromkeys(objectives, 0 if size is None else len(ALPHAS))
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys() == {"train", "test"}
        for split, means in one.items():
            assert {k: m.value for k, m in means.items()} == pytest.approx(
                {k: m.value for k, m in other[split].items()}, rel=1e-12
            )


def test_splits_that_do_not_fit_in_one_batch_keep_passes_of_their_own():
    apart, theta = splits("tanh", batch_size=20)
    assert joint_objective(apart, theta) is None
    alone, theta = splits("tanh")
    assert joint_objective({"train": alone["train"]}, theta) is None


def test_a_sample_beside_whole_data_keeps_passes_of_its_own():
    apart, theta = splits("tanh")
    rows = apart["train"].rows
    sampled = Rows(rows.slice(0, 10), 10, rows.count)
    apart["train"] = Objective(apart["train"].network, sampled, apart["train"].fixed)
    assert joint_objective(apart, theta) is None


def test_a_loss_of_a_whole_batch_cannot_be_told_apart():
    of = task(
        lambda: nn.Linear(3, 1),
        real_targets(3, 1),
        loss=lambda outputs, batch: (squared_error(outputs, batch).sum(), torch.tensor(1.0)),
        metrics=None,
    )
    train, theta = objective(of)
    assert joint_objective({"train": train, "test": train}, theta) is None


def test_rows_of_other_widths_do_not_join():
    narrow, wide = (Rows((torch.zeros(4, n), torch.zeros(4)), 4, 4) for n in (3, 5))
    assert join_rows([narrow, wide]) is None
    joined = join_rows([narrow, narrow])
    assert (joined.count, joined.total, joined.batch[0].shape) == (8, 8, (8, 3))
