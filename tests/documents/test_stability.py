"""Stability thresholds against the recurrences of the optimizers on a quadratic."""

import pytest
import torch
from torch import nn

from sharpcli.documents.stability import of_adam, of_momentum, of_settings
from sharpcli.training.stability import preconditioner, threshold


def grows(make, curvature, steps=400):
    """Whether an optimizer leaves the minimum of curvature·x²/2."""
    x = nn.Parameter(torch.tensor([1e-3], dtype=torch.float64))
    optimizer = make([x])
    for _ in range(steps):
        optimizer.zero_grad()
        (curvature * x.square() / 2).sum().backward()
        optimizer.step()
    return float(x.detach().abs()) > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.5, "dampening": 0.5},
        {"weight_decay": 3.0},
        {"momentum": 0.9, "weight_decay": 3.0},
    ],
)
def test_sgd_leaves_a_quadratic_just_above_its_threshold(options):
    def make(parameters):
        return torch.optim.SGD(parameters, lr=0.1, **options)

    found = threshold(make([nn.Parameter(torch.zeros(1))]))
    assert found.of == "hessian"
    assert grows(make, 1.02 * found.value)
    assert not grows(make, 0.98 * found.value)


def test_the_published_values():
    assert of_momentum(0.1).value == pytest.approx(20)
    assert of_momentum(0.1, 0.9).value == pytest.approx(38)
    assert of_momentum(0.1, 0.9, nesterov=True).value == pytest.approx(38 / 2.8)
    assert of_adam(0.1, 0.9).value == pytest.approx(380)
    assert of_adam(0.1, 0.9).rule == "38/η"


def test_adam_with_a_frozen_preconditioner_is_stable_up_to_its_threshold():
    rate, beta = 0.01, 0.9
    limit = of_adam(rate, beta).value
    for share, leaves in ((1.02, True), (0.98, False)):
        x, memory, diagonal = 1e-3, 0.0, 0.3
        for _ in range(2000):
            memory = beta * memory + (1 - beta) * share * limit * diagonal * x
            x -= rate * memory / diagonal
        assert (abs(x) > 1e-3) == leaves


SQUARES = 0.09  # the running mean of squared gradients, kept


def frozen(kind, x, **options):
    """An optimizer whose preconditioner has settled, as over many steps of equal gradients."""
    optimizer = kind([x], lr=0.01, eps=0.0, **options)
    zeros, squares = torch.zeros_like(x), torch.full_like(x, SQUARES)
    optimizer.state[x] = {
        "step": torch.tensor(1e15),  # no bias is left to correct
        "exp_avg": zeros.clone(),
        "exp_avg_sq": squares,
        "square_avg": squares.clone(),
        "momentum_buffer": zeros.clone(),
    }
    return optimizer


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {"betas": (0.9, 1 - 1e-12)}),
        (torch.optim.AdamW, {"betas": (0.5, 1 - 1e-12), "weight_decay": 0.0}),
        (torch.optim.RMSprop, {"alpha": 1 - 1e-12}),
        (torch.optim.RMSprop, {"alpha": 1 - 1e-12, "momentum": 0.9}),
    ],
)
def test_optimizers_leave_a_quadratic_just_above_their_preconditioned_threshold(kind, options):
    def left(share):
        x = nn.Parameter(torch.tensor([1e-3], dtype=torch.float64))
        optimizer = frozen(kind, x, **options)
        found = threshold(optimizer)
        assert found.of == "preconditioned_hessian"
        curvature = share * found.value * float(preconditioner(optimizer, {"x": x})["x"])
        farthest = 0.0
        for _ in range(400):
            optimizer.zero_grad()
            (curvature * x.square() / 2).sum().backward()
            optimizer.step()
            farthest = max(farthest, float(x.detach().abs()))
        return farthest > 2e-2  # from there on large gradients change the preconditioner

    assert left(1.02)
    assert not left(0.98)


def test_the_preconditioner_gives_adams_own_step():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    named = dict(model.named_parameters())
    assert preconditioner(optimizer, named) is None
    for _ in range(3):
        before = {name: each.detach().clone() for name, each in named.items()}
        optimizer.zero_grad()
        model(torch.randn(4, 3, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    diagonal = preconditioner(optimizer, named)
    for name, each in named.items():
        memory = optimizer.state[each]["exp_avg"]
        torch.testing.assert_close(before[name] - each, 0.1 * memory / diagonal[name])


def test_metadata_give_the_same_threshold():
    metadata = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0}
    assert of_settings(metadata, 0.1) == of_momentum(0.1, 0.9)
    adam = {"optimizer": "adam", "beta1": 0.9, "beta2": 0.999}
    assert of_settings(adam, 0.1) == of_adam(0.1, 0.9)
    assert of_settings({"optimizer": "Lion"}, 0.1) is None
    assert of_settings({**metadata, "ema": 0.9}, 0.1) is None
    assert of_settings(metadata, None) is None


@pytest.mark.parametrize("make", [torch.optim.NAdam, torch.optim.Adagrad, torch.optim.LBFGS])
def test_no_threshold_is_made_up(make):
    assert threshold(make([nn.Parameter(torch.zeros(1))])) is None


def test_rates_that_differ_have_no_one_threshold():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.2)]
    assert threshold(torch.optim.SGD(groups)) is None
