"""Gauss-Newton and Fisher products against dense matrices made entry by entry."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from networks import (
    CASES,
    UNEVEN,
    WrongSecond,
    context,
    dense_empirical_fisher,
    dense_gauss_newton,
    dense_hessian,
    mlp,
    objective,
    real_targets,
    relative,
    squared_error,
    task,
    vectors,
)
from sharpcli.settings.curvature import CurvatureSettings
from torch import Tensor, nn
from torch.nn import functional

from sharpcli.curvature import graph_bytes, make_operator
from sharpcli.errors import SharpError, UsageError
from sharpcli.linalg.eigsh import eigsh
from sharpcli.measures.hessian import hessian, trace

GGN, FISHER = CurvatureSettings("ggn"), CurvatureSettings("fisher")
EMPIRICAL = CurvatureSettings("empirical-fisher")
DENSE = {"ggn": dense_gauss_newton, "empirical-fisher": dense_empirical_fisher}


def block(size, columns=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("operator", DENSE)
@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_dense_matrix(name, operator):
    for dtype, limit in (("float64", 1e-12), ("float32", 1e-5)):
        function, theta = objective(CASES[name], dtype)
        made = make_operator(function, theta, CurvatureSettings(operator))
        vectors = block(function.size).to(theta)
        true = DENSE[operator](name) @ vectors.double()
        for _ in range(2):  # the first makes the graphs, the second uses them
            assert relative(made @ vectors, true) <= limit
        assert made.products == 6


@pytest.mark.parametrize("operator", DENSE)
@pytest.mark.parametrize("name", ["tanh", "batch_norm", "ignored_tokens", "twins", "mapping"])
def test_nothing_depends_on_batches_or_on_what_is_kept(name, operator):
    for size in UNEVEN:
        for memory in (None, 0):
            function, theta = objective(CASES[name], batch_size=size)
            made = make_operator(function, theta, CurvatureSettings(operator, memory=memory))
            vectors = block(function.size)
            assert relative(made @ vectors, DENSE[operator](name) @ vectors) <= 1e-12


def test_one_forward_pass_serves_all_products():
    of, calls = CASES["tanh"], []

    def predict(model, batch):
        calls.append(1)
        return model(batch[0])

    function, theta = objective(
        task(of.model, lambda n, g: of.data("train"), predict=predict), batch_size=8
    )
    assert graph_bytes(function, theta, GGN)[0]  # passes of its own size what is kept
    calls.clear()
    made = make_operator(function, theta, GGN)
    for _ in range(3):
        made @ block(function.size)
    assert len(calls) == 3  # 23 examples in batches of 8


def test_the_fisher_matrix_is_the_expectation_over_the_model_s_own_classes():
    of = CASES["tanh"]
    model = of.model().double()
    inputs, _ = of.data("train")
    parameters = list(model.parameters())
    true = torch.zeros_like(dense_hessian("tanh"))
    for row in inputs.double():
        log_p = functional.log_softmax(model(row), 0)
        for entry in log_p:
            parts = torch.autograd.grad(entry, parameters, retain_graph=True)
            gradient = torch.cat([part.reshape(-1) for part in parts])
            true += entry.exp().detach() * torch.outer(gradient, gradient) / len(inputs)
    function, theta = objective(of)
    assert (
        relative(make_operator(function, theta, FISHER) @ torch.eye(len(true)).to(theta), true)
        <= 1e-12
    )


def test_the_fisher_matrix_of_squared_errors_is_twice_jtj_once_the_task_says_so():
    def loss(outputs, batch):
        return squared_error(outputs, batch)

    of = task(lambda: mlp(4, 6, 2), real_targets(4, 2), loss=loss, metrics=None)
    function, theta = objective(of)
    with pytest.raises(UsageError, match="the distribution behind the loss") as caught:
        make_operator(function, theta, FISHER)
    for way_out in ('operator="ggn"', "empirical-fisher", "exponential_family = True"):
        assert way_out in caught.value.hint
    loss.exponential_family = True
    model = of.model().double()
    outputs = model(of.data("train")[0].double())
    rows = []
    for entry in outputs.reshape(-1):
        parts = torch.autograd.grad(entry, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    jacobian = torch.stack(rows)
    vectors = block(function.size)
    true = 2 * jacobian.T @ (jacobian @ vectors) / len(outputs)
    assert relative(make_operator(function, theta, FISHER) @ vectors, true) <= 1e-12


def test_a_linear_model_s_gauss_newton_matrix_is_its_hessian():
    function, theta = objective(CASES["triples"])
    vectors = block(function.size)
    assert (
        relative(make_operator(function, theta, GGN) @ vectors, dense_hessian("triples") @ vectors)
        <= 1e-12
    )


Pair = namedtuple("Pair", ["unused", "logits"])


@dataclass(frozen=True)
class Record:
    logits: Tensor
    label: str = "a record"


HOLDERS = {
    "mapping": lambda logits: OrderedDict(hidden=[logits * 2], logits=logits, name="text"),
    "named tuple": lambda logits: Pair(logits.argmax(1), logits),
    "object": Record,
    "nested": lambda logits: {"logits": logits, "rest": (Record(logits.tanh()), None, 3)},
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_outputs_may_be_whatever_holds_tensors(holder):
    of = CASES["tanh"]

    def loss(outputs, batch):
        found = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        return functional.cross_entropy(found, batch[1], reduction="none")

    wrapped = task(
        of.model,
        lambda n, g: of.data("train"),
        predict=lambda model, batch: HOLDERS[holder](model(batch[0])),
        loss=loss,
        metrics=None,
    )
    function, theta = objective(wrapped)
    vectors = block(function.size)
    assert (
        relative(
            make_operator(function, theta, GGN) @ vectors, dense_gauss_newton("tanh") @ vectors
        )
        <= 1e-12
    )


def test_a_loss_of_two_outputs_that_is_linear_in_one_has_the_other_s_curvature():
    def loss(outputs, batch):
        curved, linear = outputs
        return functional.cross_entropy(curved, batch[1], reduction="none") + linear.sum(1)

    of = task(CASES["twins"].model, vectors(5, 3), loss=loss, metrics=None)
    function, theta = objective(of)
    product = make_operator(function, theta, GGN) @ theta
    half = len(theta) // 2
    assert float(product[:half].norm()) > 0
    assert not product[half:].any()


def test_a_loss_that_is_linear_in_the_outputs_is_refused():
    of = task(
        CASES["tanh"].model,
        vectors(5, 3),
        predict=lambda model, batch: functional.cross_entropy(
            model(batch[0]), batch[1], reduction="none"
        ),
        loss=lambda outputs, batch: outputs,
        metrics=None,
    )
    function, theta = objective(of)
    with pytest.raises(SharpError, match="linear in what predict") as caught:
        make_operator(function, theta, GGN) @ theta
    assert "logits" in caught.value.hint


def test_the_empirical_fisher_matrix_needs_a_loss_for_each_example():
    of = task(
        CASES["tanh"].model,
        vectors(5, 3),
        loss=lambda o, b: (
            functional.cross_entropy(o, b[1], reduction="sum"),
            torch.tensor(float(len(o))),
        ),
    )
    function, theta = objective(of)
    with pytest.raises(SharpError, match="one sum for a batch") as caught:
        make_operator(function, theta, EMPIRICAL) @ theta
    assert 'operator="ggn"' in caught.value.hint
    assert (
        relative(make_operator(function, theta, GGN) @ theta, dense_gauss_newton("tanh") @ theta)
        <= 1e-12
    )


def test_a_wrong_second_derivative_does_not_matter_to_gauss_newton():
    class Squares(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, inputs):
            return self.last(self.square(self.first(inputs)))

    class Right(Squares):
        square = staticmethod(torch.square)

    class Wrong(Squares):
        square = staticmethod(WrongSecond.apply)

    products = []
    for model in (Right, Wrong):
        function, theta = objective(task(model, vectors(5, 3)))
        products.append(make_operator(function, theta, GGN) @ theta)
    assert relative(products[1], products[0]) <= 1e-13


@pytest.mark.parametrize("operator", ["ggn", "fisher", "empirical-fisher"])
@pytest.mark.parametrize("name", ["conv", "ignored_tokens"])
def test_the_measures_take_the_operator(name, operator):
    dense = (dense_empirical_fisher if operator == "empirical-fisher" else dense_gauss_newton)(name)
    truth = torch.linalg.eigvalsh(dense).flip(0)
    shared = context(CASES[name], "float32", curvature=CurvatureSettings(operator))
    found = hessian(shared)["hessian"]
    assert found["operator"] == operator
    for scalar, true in zip(found["eigenvalues"], truth.tolist(), strict=False):
        assert abs(scalar.value - true) <= scalar.error
    assert 0 <= found["smallest"].value <= found["smallest"].error
    total = trace(shared)["trace"]
    assert abs(total["value"] - float(dense.trace())) <= 4 * total["error"]
    assert len(eigsh(shared.hessian, 1).largest) == 1


@pytest.mark.parametrize("operator", ["ggn", "fisher", "empirical-fisher"])
def test_a_mode_of_hessian_products_is_refused(operator):
    with pytest.raises(UsageError, match='hvp="finite-difference": is a way to a Hessian') as no:
        CurvatureSettings(operator, hvp="finite-difference")
    assert f'operator="{operator}" has none' in no.value.message
