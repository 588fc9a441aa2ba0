"""The Hessian product against the dense one, and the check that catches wrong derivatives."""

import pytest
import torch
from networks import (
    CASES,
    UNEVEN,
    WrongSecond,
    dense_eigenvalues,
    dense_hessian,
    objective,
    real_targets,
    relative,
    squared_error,
    task,
    vectors,
)
from torch import nn
from torch.nn import functional

from sharpcli.curvature import Dense, make_operator, self_check
from sharpcli.curvature.graphs import graph_cost
from sharpcli.curvature.hessian_products import double_backward
from sharpcli.errors import SharpError
from sharpcli.linalg.eigsh import eigsh

LIMITS = {"float64": 1e-12, "float32": 1e-5}


def random(size, columns, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, columns, generator=generator, dtype=torch.float64).to(dtype)


def eigenvalues(name, dtype, seed=0, **batches):
    function, theta = objective(CASES[name], dtype, **batches)
    return eigsh(make_operator(function, theta), 10, smallest=1, tolerance=1e-7, seed=seed)


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_dense_hessian(name):
    for dtype, limit in (("float64", 1e-12), ("float32", 1e-5)):
        function, theta = objective(CASES[name], dtype)
        hessian = make_operator(function, theta)
        block = random(function.size, 3).to(theta)
        true = dense_hessian(name) @ block.double()
        found = hessian @ block
        assert found.shape == block.shape
        assert found.dtype == theta.dtype
        assert relative(found, true) <= limit
        single = hessian @ block[:, 0]
        assert single.shape == (function.size,)
        assert relative(single, true[:, 0]) <= limit
        assert hessian.products == 4


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_ten_eigenvalues_and_the_least_are_right_and_within_their_errors(name, dtype, seed):
    truth = dense_eigenvalues(name)
    found = eigenvalues(name, dtype, seed)
    assert found.converged
    assert found.products < len(truth)  # or the basis would be the whole space
    largest, smallest = truth[:10], truth[-1:]
    limit = {"float64": 1e-8, "float32": 1e-4}[dtype] * float(truth[0])
    for values, errors, true in (
        (found.largest, found.largest_errors, largest),
        (found.smallest, found.smallest_errors, smallest),
    ):
        assert float((values - true).abs().max()) <= limit
        assert ((values - true).abs() <= errors).all()
    assert float(found.largest_errors.max()) <= 1e-4 * float(truth[0])


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("name", CASES)
def test_products_do_not_depend_on_batches(name, dtype):
    whole, theta = objective(CASES[name], dtype, batch_size=10_000)
    vector = random(whole.size, 2).to(theta)
    true = make_operator(whole, theta) @ vector
    for size in UNEVEN:
        split, _ = objective(CASES[name], dtype, batch_size=size)
        assert relative(make_operator(split, theta) @ vector, true) <= LIMITS[dtype]


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("name", ["tanh", "batch_norm", "ignored_tokens", "triples", "mapping"])
def test_eigenvalues_do_not_depend_on_batches(name, dtype):
    whole = eigenvalues(name, dtype, batch_size=10_000)
    for size in UNEVEN[1:]:
        split = eigenvalues(name, dtype, batch_size=size)
        ends = [torch.cat([found.largest, found.smallest]) for found in (split, whole)]
        assert relative(*ends) <= LIMITS[dtype]


@pytest.mark.parametrize("name", ["conv", "ignored_tokens", "unused"])
def test_graphs_that_do_not_fit_are_rebuilt_and_give_the_same(name):
    function, theta = objective(CASES[name], batch_size=4)
    block = random(function.size, 3)
    one = graph_cost(function, function.leaves(theta), double_backward).of(4)
    kept, some, none = (
        make_operator(function, theta, graphs=graphs) for graphs in (None, 2.5 * one, 0)
    )
    true = kept @ block
    for hessian in (kept, some, none):
        for _ in range(2):  # the first product builds, the second reuses or rebuilds
            assert relative(hessian @ block, true) <= 1e-14
    assert [sum(graph is not None for graph in h._kept) for h in (kept, some, none)] == [6, 2, 0]


def test_out_of_memory_in_the_middle_starts_over_with_smaller_batches():
    of = CASES["tanh"]
    calls = []

    def predict(model, batch):
        calls.append(len(batch[0]))
        if len(calls) > 3 and len(batch[0]) > 5:
            raise torch.OutOfMemoryError("tried to allocate")
        return model(batch[0])

    function, theta = objective(
        task(of.model, lambda n, g: of.data("train"), predict=predict), batch_size=8
    )
    hessian = make_operator(function, theta)
    block = random(function.size, 2)
    assert relative(hessian @ block, dense_hessian("tanh") @ block) <= 1e-12
    assert function.batch_size == 4
    assert relative(hessian @ block, dense_hessian("tanh") @ block) <= 1e-12


def test_released_graphs_are_built_anew():
    function, theta = objective(CASES["tanh"])
    hessian = make_operator(function, theta)
    vector = random(function.size, 1)[:, 0]
    first = hessian @ vector
    hessian.release()
    assert torch.equal(hessian @ vector, first)


def test_a_linear_loss_has_a_zero_hessian():
    of = task(lambda: nn.Linear(5, 3), real_targets(5, 3), loss=lambda o, b: o.sum(1))
    function, theta = objective(of)
    assert not (make_operator(function, theta) @ random(function.size, 2)).any()


def test_attention_needs_its_math_kernel_and_gets_it():
    # The fused kernel has no second derivative: this is what a product would meet without care.
    of = CASES["attention"]
    model = of.model().double()
    words, targets = of.data("train")
    mean = functional.cross_entropy(model(words).flatten(0, 1), targets.flatten())
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(mean, parameters, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative"):
        torch.autograd.grad(sum(g.sum() for g in gradients), parameters)
    function, theta = objective(of)
    assert (make_operator(function, theta) @ random(function.size, 1)).any()


class Once(torch.autograd.Function):
    """Squares; autograd leaves out what a second derivative owes to the backward pass."""

    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(inputs)
        return inputs**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (inputs,) = ctx.saved_tensors
        return 2 * inputs * gradient


class Asymmetric(torch.autograd.Function):
    """The identity with a gradient that is not one of any function."""

    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(inputs)
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        (inputs,) = ctx.saved_tensors
        return gradient * (1 + 0.1 * inputs.roll(1, -1))


class Through(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, inputs):
        return self.last(self.function.apply(self.first(inputs)))


class Labels(nn.Linear):
    """Adds `ctc_loss` of one label each, whose backward pass cannot be differentiated."""

    def forward(self, inputs):
        outputs = super().forward(inputs)
        ones = torch.ones(len(inputs), dtype=torch.long)
        scores = outputs.log_softmax(1)[None]  # (steps, examples, labels)
        loss = functional.ctc_loss(scores, ones[:, None], ones, ones, reduction="none")
        return outputs - loss[:, None] * torch.arange(3)


def test_no_second_derivative_is_said():
    function, theta = objective(task(lambda: Labels(5, 3), vectors(5, 3)))
    with pytest.raises(SharpError, match="the model has no second derivative") as caught:
        make_operator(function, theta) @ random(function.size, 1)
    assert "leave the hessian and trace out" in caught.value.hint


def test_a_second_derivative_that_is_not_finite_names_the_parameter():
    class Power(nn.Module):
        """Adds x^1.5, which has slope 0 and no curvature at 0."""

        def __init__(self):
            super().__init__()
            self.fine, self.zero = nn.Linear(5, 3), nn.Linear(5, 3, bias=False)
            nn.init.zeros_(self.zero.weight)

        def forward(self, inputs):
            return self.fine(inputs) + self.zero(inputs).pow(1.5)

    function, theta = objective(
        task(Power, vectors(5, 3), loss=lambda o, b: o.sum(1), metrics=None)
    )
    _, gradient = function.gradient(theta)
    assert torch.isfinite(gradient).all()
    with pytest.raises(SharpError, match=r"not finite although the gradient is.*'zero\.weight'"):
        make_operator(function, theta) @ random(function.size, 1)


@pytest.mark.parametrize("name", CASES)
def test_the_self_check_passes_where_derivatives_are_right(name):
    function, theta = objective(CASES[name])
    for seed in range(3):
        check = self_check(function, theta, seed=seed)
        assert check.passed
        assert check.asymmetry <= 1e-12


@pytest.mark.parametrize("wrong", [Once, WrongSecond, Asymmetric])
def test_the_self_check_fails_where_they_are_wrong(wrong):
    function, theta = objective(task(lambda: Through(wrong), vectors(5, 3)))
    for seed in range(3):
        assert not self_check(function, theta, seed=seed).passed


def test_the_self_check_passes_on_a_flat_function():
    of = task(lambda: nn.Linear(5, 3), real_targets(5, 3), loss=lambda o, b: o.sum(1))
    function, theta = objective(of)
    assert self_check(function, theta).passed


def test_a_quadratic_has_its_hessian_in_closed_form():
    of = task(lambda: nn.Linear(4, 1), real_targets(4, 1), loss=squared_error, metrics=None)
    function, theta = objective(of)
    inputs = of.data("train")[0].double()
    design = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    true = 2 * design.T @ design / len(inputs)
    assert (
        relative(make_operator(function, theta) @ torch.eye(5, dtype=torch.float64), true) <= 1e-13
    )


def test_dense_counts_its_products():
    operator = Dense(torch.eye(4))
    _ = operator @ torch.ones(4)
    _ = operator @ torch.ones(4, 3)
    assert operator.products == 4


def test_bfloat16_works_and_says_so_by_a_larger_error():
    truth = dense_eigenvalues("tanh")
    errors = {}
    for dtype in ("float64", "float32", "bfloat16"):
        function, theta = objective(CASES["tanh"], dtype)
        found = eigsh(make_operator(function, theta), 3, tolerance=1e-3, max_products=80)
        errors[dtype] = float(found.largest_errors.max())
        assert abs(float(found.largest[0] - truth[0])) <= 0.05 * float(truth[0])
    assert errors["bfloat16"] > 3e-3 * float(truth[0])
    assert errors["bfloat16"] > 3 * errors["float32"]


def test_a_single_parameter_has_its_second_derivative():
    of = task(
        lambda: nn.Linear(1, 1, bias=False), real_targets(1, 1), loss=squared_error, metrics=None
    )
    function, theta = objective(of)
    found = eigsh(make_operator(function, theta), 1)
    inputs = of.data("train")[0].double()
    assert float(found.largest[0]) == pytest.approx(2 * float(inputs.square().mean()), rel=1e-13)
    assert found.products == 1
