"""Loss and metrics on both splits, and their gap."""

import pytest
import torch
from networks import CASES, context, dense_loss, mlp, real_targets, squared_error, task, vectors
from torch.nn import functional

from sharpcli.errors import SharpError
from sharpcli.measures.loss import loss


@pytest.mark.parametrize("name", CASES)
def test_train_loss_is_that_of_plain_pytorch(name):
    found = loss(context(CASES[name]))["loss"]
    assert found["train"].value == pytest.approx(dense_loss(name), rel=1e-13)
    assert found["gap"].value == found["test"].value - found["train"].value
    assert found["evaluations"] == 2
    for scalar in (found["train"], found["test"], found["gap"]):
        assert (scalar.error_kind, scalar.status) == ("rounding", "converged")
        assert 0 < scalar.error <= 1e-13 * dense_loss(name)


def test_accuracy_and_test_loss_are_those_of_plain_pytorch():
    of = CASES["tanh"]
    found = loss(context(of))
    inputs, targets = of.data("test")
    scores = of.model().double()(inputs.double()).detach()
    assert found["loss"]["test"].value == pytest.approx(
        functional.cross_entropy(scores, targets).item(), rel=1e-13
    )
    right = float((scores.argmax(1) == targets).double().mean())
    assert found["accuracy"]["test"].value == pytest.approx(right, rel=1e-15)


def test_accuracy_counts_only_tokens_that_are_not_ignored():
    of = CASES["ignored_tokens"]
    found = loss(context(of, batch_size=2))["accuracy"]["train"].value
    words, targets = of.data("train")
    right = (of.model().double()(words).argmax(-1) == targets)[targets != -100]
    assert found == pytest.approx(float(right.double().mean()), rel=1e-15)


def test_a_task_without_metrics_has_none():
    assert list(loss(context(CASES["triples"]))) == ["loss"]


def test_metrics_have_the_tasks_own_names():
    of = task(
        lambda: mlp(5, 3),
        real_targets(5, 3),
        loss=squared_error,
        metrics=lambda o, b: {"worst": (o - b[1]).abs().amax(1)},
    )
    found = loss(context(of))
    assert list(found) == ["loss", "worst"]
    assert found["worst"]["train"].value > 0


def test_a_subset_carries_its_sampling_error_into_the_gap():
    found = loss(context(CASES["tanh"], samples=12))["loss"]
    assert found["train"].sampling_error > 0
    assert found["train"].error == found["train"].sampling_error
    assert found["train"].error_kind == "standard_error"
    assert found["test"].sampling_error is None  # all of it was measured
    assert found["gap"].sampling_error == pytest.approx(found["train"].sampling_error)


def test_an_infinite_loss_names_the_data_that_overflow():
    def data(count, generator):
        inputs, targets = vectors(5, 3)(count, generator)
        return inputs * 1e200, targets

    of = task(lambda: mlp(5, 8, 3, activation=torch.nn.SiLU), data)
    with pytest.raises(SharpError, match="hold an infinity in row 0 of the inputs") as caught:
        loss(context(of, "float32"))
    assert 'dtype="float64" for numbers above 3.4e+38' in caught.value.hint


def test_a_sample_of_one_says_that_it_tells_nothing_of_sampling():
    shared = context(CASES["tanh"], samples=1)
    assert loss(shared)["loss"]["train"].sampling_error is None
    assert shared.warnings == [
        "1 example is too few to tell the sampling error of the loss: take 2 or more"
    ]
