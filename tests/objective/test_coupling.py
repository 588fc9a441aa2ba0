"""Losses that couple the examples of a batch are refused, others are measured in any batches."""

import pytest
import torch
from coupled_tasks import COUNT, COUPLED, FIXED, NOT_ROWWISE, ORDINARY
from sharpcli.settings.measuring import RunSettings

from sharpcli.errors import SharpError, UsageError
from sharpcli.objective.coupling import check_coupling
from sharpcli.objective.objective import Objective

CLOSE = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 0.05}
CAUSES = ("contrastive", "(N, 1) − (N,)", "statistics of the batch")


def ids(problems):
    return [problem.name for problem in problems]


def named(name):
    return next(p for p in (*COUPLED, *NOT_ROWWISE, *ORDINARY) if p.name == name)


@pytest.mark.parametrize("problem", COUPLED, ids=ids(COUPLED))
def test_a_coupled_loss_is_refused(problem):
    with pytest.raises(SharpError) as caught:
        problem.made_ready()
    if problem.name == "a queue of the batch before":  # it is not one function in the first place
        assert "two evaluations of the same batch differ" in caught.value.message
    else:
        assert all(cause in caught.value.hint for cause in CAUSES)


@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("name", ["a threshold that few exceed", "the hardest of 40"])
def test_a_small_batch_size_hides_nothing(name, batch_size):
    with pytest.raises(SharpError, match="depends on the other examples"):
        named(name).made_ready(batch_size=batch_size)


@pytest.mark.parametrize("problem", NOT_ROWWISE, ids=ids(NOT_ROWWISE))
@pytest.mark.parametrize("batch_size", [None, 40, 7, 1])
def test_a_batch_that_no_slice_makes_is_collated(problem, batch_size):
    _, objective, theta = problem.made_ready(batch_size=batch_size)
    assert objective.loss(theta) == pytest.approx(problem.true(1), rel=2e-5)


@pytest.mark.parametrize("problem", ORDINARY, ids=ids(ORDINARY))
def test_an_ordinary_task_is_measured(problem):
    _, objective, theta = problem.made_ready(batch_size=5)
    found, true = objective.loss(theta), problem.true()
    assert found == pytest.approx(true, rel=CLOSE[problem.dtype], abs=1e-6)


@pytest.mark.parametrize("size", [FIXED, COUNT, 50])
@pytest.mark.parametrize(
    "name", ["in-batch negatives", "symmetric, one pair a batch", "F.batch_norm(training=True)"]
)
def test_a_declared_batch_is_measured_and_stated(name, size):
    problem = named(name)
    study, objective, theta = problem.made_ready(fixed_batch=size)
    assert objective.loss(theta) == pytest.approx(problem.true(size), rel=2e-5)
    assert study.description()["fixed_batch"] == {"train": size}
    (note,) = study.notes
    assert f"{size} train" in note
    assert ("the last of 46" in note) == (size == 50)


def test_a_declared_batch_is_never_divided():
    _, objective, theta = named("in-batch negatives").made_ready(fixed_batch=FIXED)
    before = objective.gradient(theta)
    assert not objective.halve_batches()
    assert [count for _, count in objective.batches()] == [FIXED] * (COUNT // FIXED)
    assert objective.rows.head(3).count == FIXED
    assert torch.equal(objective.gradient(theta)[1], before[1])


def test_without_a_declared_batch_nothing_is_said_of_one():
    study, _, _ = ORDINARY[0].made_ready()
    assert not study.notes
    assert "fixed_batch" not in study.description()


def test_in_training_mode_all_examples_are_one_batch_whatever_the_memory():
    problem = named("CNN with batch norm")
    losses = []
    for size in (None, 7):
        study, objective, theta = problem.made_ready(mode="train", batch_size=size)
        losses.append(objective.loss(theta))
        assert study.description()["fixed_batch"] == {"train": COUNT}
        assert 'mode="train"' in study.notes[0]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("other", [{"samples": 10}, {"batch_size": 8}])
def test_what_contradicts_a_declared_batch_is_refused(other):
    with pytest.raises(UsageError, match="fixed_batch=8"):
        RunSettings(fixed_batch=8, **other)


def test_a_metric_of_the_batch_is_named():
    with pytest.raises(SharpError, match="metric 'auc'"):
        named("a metric of the batch").made_ready()


def test_padding_that_is_seen_is_named():
    with pytest.raises(SharpError) as caught:
        named("visible padding").made_ready()
    assert "padding" in caught.value.hint


def shares(objective, monkeypatch, processes=2):
    """Which rows each of several processes takes of a pass."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    found = []
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        found.append(objective.share)
    return found


def test_processes_divide_a_pass_between_batches_only(monkeypatch):
    problem = named("in-batch negatives")
    _, objective, _ = named("MLP, float64").made_ready()
    assert shares(objective, monkeypatch) == [(0, 48), (48, 96)]
    monkeypatch.undo()
    _, objective, _ = problem.made_ready(fixed_batch=20)  # 20, 20, 20, 20 and 16
    assert shares(objective, monkeypatch) == [(0, 40), (40, 96)]
    monkeypatch.undo()
    _, objective, _ = problem.made_ready(fixed_batch=COUNT)
    assert shares(objective, monkeypatch) == [(0, 96), (0, 96)]


def test_a_layer_in_training_mode_keeps_all_rows_in_one_process(monkeypatch):
    _, objective, _ = named("CNN with batch norm").made_ready(batch_size=5)
    norm = objective.network.model[1]
    norm.training = True
    assert (objective.fixed_batch, objective.batch_size) == (COUNT, COUNT)
    assert shares(objective, monkeypatch) == [(0, 96), (0, 96)]
    norm.training = False
    assert (objective.fixed_batch, objective.batch_size) == (None, 5)


@pytest.mark.parametrize(
    "name", ["in-batch negatives", "symmetric, one pair a batch", "F.batch_norm(training=True)"]
)
def test_a_later_checkpoint_is_checked_too(name):
    study, objective, theta = named(name).made_ready(fixed_batch=FIXED)
    rows = study.rows["train"].with_fixed_batch(None)
    undeclared = Objective(study.network, rows, objective.fixed)
    with pytest.raises(SharpError) as caught:
        check_coupling({"train": undeclared}, theta, again=True)
    assert all(cause in caught.value.hint for cause in CAUSES)


def test_a_later_checkpoint_costs_a_fraction_of_the_first(monkeypatch):
    study, objective, theta = ORDINARY[0].made_ready()
    passes = []
    outputs = study.network.outputs
    monkeypatch.setattr(
        type(study.network),
        "outputs",
        lambda self, *given: (passes.append(1), outputs(*given))[1],
    )
    for again in (False, True):
        check_coupling({"train": objective}, theta, again=again)
        passes.append(0)
    first = passes.index(0)
    assert len(passes) - first - 2 <= first / 3
