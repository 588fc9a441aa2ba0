"""λ1 for measurements along a training: against dense float64 Hessians."""

import pytest
import torch
from torch import nn

from sharpcli.measures.example_curvature import with_sampling_error
from sharpcli.measures.leading import leading
from sharpcli.objective.network import Network
from sharpcli.objective.objective import Objective
from sharpcli.objective.reading import read_rows
from sharpcli.tasks import Task, defaults

COUNT = 400


def problem(activation, scale=1.0, samples=None):
    """An objective, its θ, and the dense Hessian in float64."""
    torch.manual_seed(0)
    inputs = torch.randn(COUNT, 4)
    targets = (inputs.sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(4, 10), activation, nn.Linear(10, 2))
    with torch.no_grad():
        model[0].weight[:2].fill_(1.0)
        model[2].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 10))
        for parameter in model.parameters():
            parameter.mul_(scale)
    data = inputs, targets
    task = Task("small", {}, "", lambda: model, lambda _: data, defaults.predict, loss())
    network = Network(model, task, device=torch.device("cpu"))
    rows = read_rows(data, name="train data")
    rows = rows if samples is None else rows.take(torch.arange(samples))
    theta = network.flatten(dict(model.named_parameters()))

    def total(vector):
        own = dict(zip(network.names, network.unflatten(vector), strict=True))
        scores = torch.func.functional_call(model, own, inputs.double())
        return nn.functional.cross_entropy(scores, targets)

    hessian = torch.autograd.functional.hessian(total, theta.double())
    return Objective(network, rows, network.fixed({})), theta, hessian


def loss():
    return defaults.loss_for("small")


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU()])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_the_error_holds_and_converged_means_within_the_tolerance(activation, scale):
    objective, theta, hessian = problem(activation, scale)
    found = leading(objective, theta, None, tolerance=0.05)
    true = float(torch.linalg.eigvalsh(hessian)[-1])
    assert found.scalar.status == "converged"
    assert abs(found.scalar.value - true) <= found.scalar.error <= 0.05 * found.scalar.value


def test_a_preconditioned_matrix_is_that_in_its_coordinates():
    objective, theta, hessian = problem(nn.Tanh())
    diagonal = 0.1 + torch.rand(len(theta), generator=torch.Generator().manual_seed(1))
    found = leading(objective, theta, None, tolerance=0.05, diagonal=diagonal).scalar
    scale = diagonal.double().rsqrt()
    true = float(torch.linalg.eigvalsh(scale[:, None] * hessian * scale)[-1])
    assert abs(found.value - true) <= found.error


def test_rounding_above_its_share_asks_for_float64():
    objective, theta, hessian = problem(nn.Tanh(), 1.5)
    found = leading(objective, theta, None, tolerance=0.05, rounding=lambda *_: 0.2)
    true = float(torch.linalg.eigvalsh(hessian)[-1])
    assert found.scalar.status == "converged"
    assert abs(found.scalar.value - true) <= found.scalar.error <= 0.05 * found.scalar.value
    assert found.vector.dtype == torch.float32


def test_without_the_precision_it_is_not_called_converged():
    objective, theta, _ = problem(nn.Tanh())
    double = objective.in_precision(torch.float64)
    found = leading(double, theta.double(), None, tolerance=0.05, rounding=lambda *_: 0.2).scalar
    assert found.status == "precision"
    assert found.error >= 0.2 * found.value


def test_the_sampling_error_is_that_of_each_examples_curvature():
    objective, theta, _ = problem(nn.Tanh(), samples=100)
    found = leading(objective, theta, None, tolerance=0.05)
    scalar = with_sampling_error(found.scalar, objective, theta, found.vector)
    vector = found.vector.double()
    own = []
    for row in range(100):
        one = objective.in_precision(torch.float64, rows=objective.rows.take(torch.tensor([row])))
        step = 1e-4
        ends = [one.gradient(theta.double() + way * step * vector)[1] for way in (1, -1)]
        own.append(float(vector @ (ends[0] - ends[1])) / (2 * step))
    plain = float(torch.tensor(own).std() / 10 * (1 - 100 / COUNT) ** 0.5)
    # Student's factor for few carriers widens it.
    assert plain * 0.98 <= scalar.sampling_error <= plain * 1.3


def test_all_data_have_no_sampling_error():
    objective, theta, _ = problem(nn.Tanh())
    found = leading(objective, theta, None, tolerance=0.05)
    scalar = with_sampling_error(found.scalar, objective, theta, found.vector)
    assert scalar == found.scalar


def test_the_value_is_the_curvature_of_the_whole_sample():
    objective, theta, _ = problem(nn.Tanh(), samples=200)
    searched = torch.arange(0, 200, 5)
    few = objective.in_precision(torch.float32, rows=objective.rows.take(searched))
    found = leading(few, theta, None, tolerance=0.05)
    scalar = with_sampling_error(found.scalar, objective, theta, found.vector, searched)
    double = objective.in_precision(torch.float64)
    vector, step = found.vector.double(), 1e-4
    ends = [double.gradient(theta.double() + way * step * vector)[1] for way in (1, -1)]
    true = float(vector @ (ends[0] - ends[1])) / (2 * step)
    assert scalar.value == pytest.approx(true, rel=2e-3)
    assert abs(found.scalar.value / true - 1) > 0.02  # of the searched examples alone
