"""Losses of derivatives in the inputs, as of a PINN: dense float64 references for each way."""

from __future__ import annotations

import math

import pytest
import torch
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn
from torch.func import jacrev, vmap

from sharpcli.runs.measure import measure_model

POINTS = torch.linspace(0, 1, 12, dtype=torch.float64)[:, None]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def by_autograd(model, batch):
    with torch.enable_grad():
        points = batch[0].detach().clone().requires_grad_()
        outputs = model(points)
        (slope,) = torch.autograd.grad(outputs.sum(), points, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), points, create_graph=True)
    return outputs, bend


def by_func(model, batch):
    second = jacrev(jacrev(lambda point: model(point[None])[0, 0]))
    return model(batch[0]), vmap(second)(batch[0]).reshape(-1, 1)


def loss(outputs, batch):
    values, bends = outputs
    rest = bends + math.pi**2 * torch.sin(math.pi * batch[0])
    return (rest.square() + 10 * values.square()).squeeze(1)


def dense(model, gauss_newton=False):
    """Loss, gradient and Hessian (or Gauss-Newton matrix) by plain autograd."""
    parameters = [*model.parameters()]
    outputs = by_autograd(model, (POINTS,))
    value = loss(outputs, (POINTS,)).mean()
    gradients = torch.autograd.grad(value, parameters, create_graph=True)
    flat = torch.cat([each.reshape(-1) for each in gradients])

    def rows(vector):
        found = [
            torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True)
            for each in vector
        ]
        return torch.stack([torch.cat([p.reshape(-1) for p in each]) for each in found])

    if not gauss_newton:
        return float(value.detach()), flat.detach(), rows(flat)
    bends, values = rows(outputs[1].squeeze(1)), rows(outputs[0].squeeze(1))
    return (
        float(value.detach()),
        flat.detach(),
        2 * (bends.T @ bends + 10 * values.T @ values) / len(POINTS),
    )


@pytest.mark.parametrize("predict", [by_autograd, by_func])
@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_a_loss_of_input_derivatives_is_measured_as_a_dense_reference_has_it(predict, operator):
    model = network()
    value, gradient, matrix = dense(model, operator == "ggn")
    eigenvalues = torch.linalg.eigvalsh(matrix).flip(0)
    report = measure_model(
        model,
        (POINTS, torch.zeros(len(POINTS), dtype=torch.float64)),
        loss=loss,
        predict=predict,
        metrics=lambda outputs, batch: {},
        run=RunSettings(dtype="float64"),
        settings=MeasureSettings(
            measures=("loss", "epsilon-sharpness", "gradient", "hessian", "trace"),
            top=3,
            tol=1e-6,
            relative_error=1e-6,
            epsilons=(1e-3,),
            curvature=CurvatureSettings(operator=operator),
        ),
    )
    (result,) = report.results
    assert result.status == "ok", result.error
    found = result.measures
    assert found["loss"]["train"].value == pytest.approx(value, rel=1e-12)
    assert found["gradient"]["norm"].value == pytest.approx(float(gradient.norm()), rel=1e-10)
    top = [each.value for each in found["hessian"]["eigenvalues"]]
    assert top == pytest.approx(eigenvalues[:3].tolist(), rel=1e-5)
    assert found["trace"]["value"] == pytest.approx(float(matrix.trace()), rel=1e-6)
    # φ is at least what the corner along the gradient's signs gives.
    corner, step = network(), 0
    for each in corner.parameters():
        signs = gradient[step : step + each.numel()].view(each.shape).sign()
        step += each.numel()
        each.data += signs * 1e-3 * (each.data.abs() + 1)
    there = dense(corner)[0]
    phi = found["epsilon_sharpness"][0]["value"]
    assert 100 * (there - value) / (1 + value) * 0.999 <= phi < 3 * 100 * (there - value)
