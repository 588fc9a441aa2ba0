"""Products by finite differences of the gradient, beside the dense Hessian."""

import pytest
import torch
from networks import (
    CASES,
    context,
    dense_eigenvalues,
    dense_hessian,
    mlp,
    objective,
    relative,
    task,
    vectors,
)
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn

from sharpcli.curvature import make_operator
from sharpcli.errors import SharpError
from sharpcli.linalg.eigsh import eigsh
from sharpcli.measures.hessian import hessian
from sharpcli.runs.measure import measure_model

DIFFERENCE = CurvatureSettings(hvp="finite-difference")


def block(size):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, generator=generator, dtype=torch.float64)


def trained(activation=nn.ReLU):
    """A small network after two hundred steps of Adam."""
    of = task(lambda: mlp(8, 32, 32, 3, activation=activation), vectors(8, 3), train=200)
    model, (inputs, targets) = of.model(), of.data("train")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    model.zero_grad()
    return task(lambda: model, vectors(8, 3), train=200)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_dense_hessian(name, dtype):
    function, theta = objective(CASES[name], dtype)
    made = make_operator(function, theta, DIFFERENCE)
    vectors = block(function.size).to(theta)
    found = made @ vectors
    assert found.dtype == theta.dtype
    assert relative(found, dense_hessian(name) @ vectors.double()) <= 1e-6
    assert made.products == 3
    assert (made @ torch.zeros_like(theta)).tolist() == [0.0] * len(theta)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_top_eigenvalues_of_trained_networks_in_float32(activation):
    of = trained(activation)
    double, theta = objective(of)
    truth = eigsh(make_operator(double, theta), 5, tolerance=1e-9).largest
    single, theta = objective(of, "float32")
    found = eigsh(make_operator(single, theta, DIFFERENCE), 5, tolerance=1e-4)
    assert relative(found.largest, truth) <= 1e-5  # the bar is 1e-3


class OnlyOnce(torch.autograd.Function):
    """The hyperbolic tangent with a gradient, and no second derivative."""

    @staticmethod
    def forward(ctx, inputs):
        outputs = inputs.tanh()
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (outputs,) = ctx.saved_tensors
        return gradient * (1 - outputs**2)


class OnlySingle(torch.autograd.Function):
    """As `OnlyOnce`, written for float32 alone."""

    @staticmethod
    def forward(ctx, inputs):
        if inputs.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float but found Double")
        return OnlyOnce.forward(ctx, inputs)

    backward = OnlyOnce.backward


class Layer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function.apply(inputs)


def custom(function):
    return task(lambda: mlp(5, 9, 8, 3, activation=lambda: Layer(function)), vectors(5, 3))


def test_a_function_without_a_second_derivative_is_measured():
    of = custom(OnlyOnce)  # the network "tanh" by another name
    run = RunSettings(device="cpu")
    about = {"train": of.data("train"), "loss": of.loss, "run": run}
    one = MeasureSettings(measures=("hessian",), curvature=DIFFERENCE)
    found = measure_model(of.model(), settings=one, **about).results[0].measures["hessian"]
    for scalar, true in zip(found["eigenvalues"], dense_eigenvalues("tanh").tolist(), strict=False):
        assert scalar.status == "converged"
        assert abs(scalar.value - true) <= scalar.error
    exact = MeasureSettings(measures=("hessian",))
    found = measure_model(of.model(), settings=exact, **about).results[0].measures["hessian"]
    assert {scalar.status for scalar in found["eigenvalues"]} == {"suspect"}
    assert 'hvp="finite-difference"' in found["eigenvalues"][0].advice


def test_a_function_of_float32_alone_is_measured_with_the_larger_error():
    shared = context(custom(OnlySingle), "float32", curvature=DIFFERENCE, top=3, tol=1e-2)
    found = hessian(shared)["hessian"]["eigenvalues"]
    truth = dense_eigenvalues("tanh")
    assert shared.hessian.error > 1e-6 * float(truth[0])
    for scalar, true in zip(found, truth.tolist(), strict=False):
        assert abs(scalar.value - true) <= scalar.error
        assert abs(scalar.value - true) <= 1e-3 * float(truth[0])


@pytest.mark.parametrize("tied", [False, True])
def test_the_row_of_padding_is_not_trained_but_where_it_is_used_elsewhere(tied):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.last = nn.Embedding(3, 4, padding_idx=0), nn.Linear(4, 3)

        def forward(self, inputs):
            tokens = (inputs > 0).long() + (inputs > 1).long()
            hidden = self.embed(tokens).tanh()
            if not tied:
                return self.last(hidden.mean(1))
            seen = (hidden * (tokens != 0)[..., None]).mean(1)  # a mask: 0 stands there otherwise
            return nn.functional.linear(seen, self.embed.weight) + self.last(seen)

    function, theta = objective(task(Tokens, vectors(5, 3)), dtype="float64")
    exact = make_operator(function, theta) @ torch.eye(len(theta)).to(theta)
    found = make_operator(function, theta, DIFFERENCE) @ torch.eye(len(theta)).to(theta)
    assert relative(found, exact) < 1e-6
    assert bool(exact[:4].any()) == tied


def test_a_kink_at_the_point_itself_is_said():
    class Kinked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)
            self.kink = nn.Parameter(torch.zeros(3))

        def forward(self, inputs):
            return self.layer(inputs) + 3 * self.kink.abs()

    shared = context(task(Kinked, vectors(5, 3)), curvature=DIFFERENCE, top=2)
    found = hessian(shared)["hessian"]["eigenvalues"]
    assert {scalar.status for scalar in found} <= {"precision", "max_products"}
    assert found[0].error > 1


def test_a_loss_that_is_not_finite_is_said():
    of = task(lambda: nn.Linear(5, 3), vectors(5, 3), loss=lambda o, b: o.sum(1) / 0)
    function, theta = objective(of)
    with pytest.raises(SharpError, match="the loss is"):
        make_operator(function, theta, DIFFERENCE) @ theta
