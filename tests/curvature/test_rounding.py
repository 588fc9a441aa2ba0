"""What a run's arithmetic leaves, seen on some of the rows."""

import math

import pytest
import torch
from networks import CASES, context, squared_error, task
from torch import nn

from sharpcli.curvature import rounding
from sharpcli.measures.gradient import gradient
from sharpcli.measures.hessian import hessian


@pytest.mark.parametrize("seed", range(3))
def test_few_rows_that_carry_the_gradient_are_not_overlooked(seed, monkeypatch):
    monkeypatch.setattr(rounding, "_SMALL", 1e5)  # about a twentieth of these rows

    def data(count, generator):
        inputs = torch.randn(count, 6, generator=generator)
        inputs[[7, count // 2]] *= 1e4
        return inputs, torch.randn(count, 1, generator=generator)

    def model():
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

    of = task(model, data, loss=squared_error, metrics=None, train=30_000)
    exact = of.model().double()
    inputs, targets = of.data("train")
    losses = squared_error(exact(inputs.double()), (inputs.double(), targets.double()))
    slopes = torch.autograd.grad(losses.mean(), list(exact.parameters()))
    true = torch.cat([slope.flatten() for slope in slopes])
    found = gradient(context(of, "float32", seed=seed))["gradient"]
    assert found["norm"].status == "converged"
    assert abs(found["norm"].value - float(true.norm())) <= found["norm"].error
    assert abs(found["l1"].value - float(true.abs().sum())) <= found["l1"].error
    assert abs(found["max"].value - float(true.abs().max())) <= found["max"].error
    assert found["norm"].error <= 1e-3 * found["norm"].value


def test_eigenvalues_that_underflow_in_float32_lie_within_their_errors():
    """Softmax curvature p(1 − p) of 1e-45 is zero in float32: 0(0) would be wrong."""

    def model():
        layer = nn.Linear(4, 2, bias=False)
        layer.weight.data = torch.tensor([[26.0] * 4, [0.0] * 4])
        return layer

    def data(count, generator):
        return torch.ones(count, 4), torch.zeros(count, dtype=torch.long)

    of = task(model, data, metrics=None, train=8)
    found = hessian(context(of, "float32"))["hessian"]
    exact = hessian(context(of, "float64"))["hessian"]["eigenvalues"][0]
    p = 1 / (1 + math.exp(104.0))
    assert exact.value == pytest.approx(8 * p * (1 - p), rel=1e-6)
    assert exact.status == "converged"
    off = abs(found["eigenvalues"][0].value - exact.value)
    assert 0 < off <= found["eigenvalues"][0].error < 1e-25


def test_a_limit_on_memory_bounds_the_rows_that_are_compared():
    shared = context(CASES["tanh"], "float32")
    objective = shared.objective
    example = objective.saved_bytes
    assert rounding.bytes_to_compare(objective) == 4 * example * objective.rows.count
    objective.memory = int(16 * 10.5 * example)
    assert rounding.bytes_to_compare(objective) == 4 * example * 10
    counts = [other.own.rows.count for other in shared.rounding._others]
    assert counts[0] == 10
    objective.memory = 1
    assert rounding.bytes_to_compare(objective) == 4 * example * 4  # the fewest
