"""Norms of the gradient, and the warning where they are not small."""

import pytest
import torch
from networks import CASES, context, dense_gradient, mlp, real_targets, squared_error, task
from torch import nn

from sharpcli.errors import SharpError
from sharpcli.measures.gradient import gradient


@pytest.mark.parametrize("name", CASES)
def test_norms_are_those_of_plain_pytorch(name):
    true = dense_gradient(name)
    for dtype, limit in (("float64", 1e-13), ("float32", 1e-5)):
        found = gradient(context(CASES[name], dtype))["gradient"]
        assert found["norm"].value == pytest.approx(float(true.norm()), rel=limit)
        assert found["l1"].value == pytest.approx(float((true**2 + 1e-16).sqrt().sum()), rel=limit)
        assert found["max"].value == pytest.approx(float(true.abs().max()), rel=limit)
        assert found["evaluations"] == 1


def test_a_zero_gradient_has_a_one_norm_of_epsilon_for_each_parameter():
    of = task(
        lambda: nn.Linear(4, 2),
        real_targets(4, 2),
        loss=lambda o, b: 0 * o.sum(1),
        metrics=None,
    )
    found = gradient(context(of))["gradient"]
    assert found["norm"].value == found["max"].value == 0
    assert found["l1"].value == pytest.approx(10 * 1e-8)


def test_a_slope_is_called_out():
    steep = context(
        task(
            lambda: mlp(4, 2),
            real_targets(4, 2),
            loss=lambda o, b: 100 * squared_error(o, b),
            metrics=None,
        )
    )
    gradient(steep)
    assert len(steep.warnings) == 1
    assert "this is not a minimum" in steep.warnings[0]
    flat = context(CASES["tanh"])
    gradient(flat)
    assert flat.warnings == []


def test_a_gradient_that_is_not_finite_names_the_parameter():
    def root(outputs, batch):
        return (outputs - outputs.detach()).square().sum(1).sqrt()

    of = task(lambda: nn.Linear(4, 2), real_targets(4, 2), loss=root, metrics=None)
    with pytest.raises(SharpError, match="the gradient is not finite, first in 'weight'") as caught:
        gradient(context(of))
    assert "sqrt or log at 0" in caught.value.hint
    assert torch.is_grad_enabled()
