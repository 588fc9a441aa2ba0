"""Both ends of the spectrum and the trace, as a document shows them."""

import math
from dataclasses import replace

import pytest
import torch
from networks import (
    CASES,
    UNEVEN,
    context,
    dense_eigenvalues,
    dense_hessian,
    real_targets,
    squared_error,
    task,
)
from sharpcli.settings.curvature import CurvatureSettings
from sharpcli.settings.measuring import MeasureSettings, RunSettings
from torch import nn

from sharpcli import measure_model
from sharpcli.curvature import SelfCheck
from sharpcli.measures import context as shared_context
from sharpcli.measures.hessian import hessian, trace


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_right_sorted_and_within_their_errors(name):
    truth = dense_eigenvalues(name).tolist()
    found = hessian(context(CASES[name], "float32"))["hessian"]
    values = [scalar.value for scalar in found["eigenvalues"]]
    assert values == sorted(values, reverse=True)
    for scalar, true in zip(found["eigenvalues"], truth, strict=False):
        assert scalar.status == "converged"
        assert scalar.error_kind == "residual"
        assert abs(scalar.value - true) <= scalar.error <= 1.01e-3 * truth[0]
    smallest = found["smallest"]
    assert abs(smallest.value - truth[-1]) <= smallest.error
    ratio = found["ratio_1_5"]
    assert abs(ratio.value - truth[0] / truth[4]) <= ratio.error
    assert found["size"] == len(truth)
    assert found["operator"] == "hessian"


@pytest.mark.parametrize("name", CASES)
def test_the_trace_is_within_its_error(name):
    true = float(dense_hessian(name).trace())
    for dtype in ("float64", "float32"):
        shared = context(CASES[name], dtype, relative_error=0.1)
        alone = trace(shared)["trace"]
        hessian(shared)
        after = trace(shared)["trace"]  # on the space that the eigenvalues have built
        for found in (alone, after):
            # How often three suffice is counted over seeds where `linalg.trace` is tested.
            assert abs(found["value"] - true) <= 4 * found["error"]
            assert found["error_kind"] == "standard_error"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["conv", "ignored_tokens", "mapping"])
def test_nothing_depends_on_batches(name, dtype):
    def numbers(size):
        shared = context(CASES[name], dtype, batch_size=size, tol=1e-7, relative_error=0.2)
        found = hessian(shared)["hessian"]
        total = trace(shared)["trace"]
        ends = [*found["eigenvalues"], found["smallest"]]
        return torch.tensor([*(scalar.value for scalar in ends), total["value"]])

    whole = numbers(UNEVEN[0])
    for size in UNEVEN[1:]:
        difference = (numbers(size) - whole).abs().max() / whole.abs().max()
        assert difference <= {"float64": 1e-12, "float32": 1e-5}[dtype]


def test_running_out_of_products_is_said_for_each_number():
    found = hessian(context(CASES["conv"], max_products=10, tol=1e-6))["hessian"]
    assert found["products"] <= 10
    assert {scalar.status for scalar in found["eigenvalues"]} == {"max_products"}
    assert "raise max_products or tol" in found["eigenvalues"][0].advice
    assert found["ratio_1_5"].status == "max_products"
    assert found["smallest"].status == "max_products"


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_a_smallest_value_that_is_not_settled_is_an_upper_bound(operator, monkeypatch):
    solve = shared_context.eigsh

    def smallest_of(**unmet):
        monkeypatch.setattr(
            shared_context, "eigsh", lambda *args, **given: replace(solve(*args, **given), **unmet)
        )
        shared = context(CASES["conv"], curvature=CurvatureSettings(operator))
        return hessian(shared)["hessian"]["smallest"]

    smallest = smallest_of(smallest_settled=[False])
    if operator == "hessian":
        assert (smallest.status, smallest.error_kind) == ("upper_bound", "upper_bound")
        assert smallest.error is None
    else:  # nothing lies below zero there
        assert (smallest.status, smallest.error_kind) == ("converged", "residual")
    smallest = smallest_of(smallest_settled=[False], smallest_converged=[False])
    assert smallest.status == "max_products"


def test_float32_says_where_it_cannot_be_more_exact():
    found = hessian(context(CASES["tanh"], "float32", tol=1e-9))["hessian"]
    for scalar in found["eigenvalues"]:
        assert scalar.status == "precision"
        assert 'dtype="float64"' in scalar.advice
    exact = hessian(context(CASES["tanh"], "float64", tol=1e-9))["hessian"]
    assert {scalar.status for scalar in exact["eigenvalues"]} == {"converged"}


def test_bfloat16_has_the_larger_error():
    narrow, single = (
        hessian(context(CASES["tanh"], dtype, top=2))["hessian"]["eigenvalues"][0]
        for dtype in ("bfloat16", "float32")
    )
    assert narrow.error > 3 * single.error
    assert narrow.status != "converged"
    assert abs(narrow.value - single.value) < 0.05 * single.value


class Quadratic(nn.Module):
    """Half of Σ dᵢwᵢ² for every row: the Hessian is diag(d), its eigenvectors are the axes."""

    def __init__(self, diagonal):
        super().__init__()
        self.w = nn.Parameter(torch.ones(len(diagonal)))
        self.register_buffer("d", diagonal, persistent=False)

    def forward(self, x):
        return 0.5 * (self.d.to(x.dtype) * self.w.square()).sum() * x


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("largest", [[1024.0] + 4 * [5.0], [2.0**40, 3.0], [-7.0, 3.0, 1.0]])
def test_axes_that_bfloat16_holds_exactly_are_no_better_known(largest, seed):
    diagonal = torch.cat([torch.tensor(largest), torch.zeros(300)])
    of = task(
        lambda: Quadratic(diagonal),
        lambda count, _: (torch.ones(count, 1), torch.zeros(count)),
        loss=lambda outputs, batch: outputs[:, 0],
        metrics=None,
    )
    shared = context(of, "bfloat16", top=1, seed=seed)
    found = hessian(shared)["hessian"]
    for scalar, true in ((found["eigenvalues"][0], max(largest)), (found["smallest"], -7.0)):
        if true in largest:
            assert abs(scalar.value - true) <= scalar.error
    whole = trace(shared)["trace"]
    assert abs(whole["value"] - sum(largest)) <= 3 * whole["error"]


@pytest.mark.parametrize("check", [SelfCheck(1e-3, 1e-9), SelfCheck(1e-15, 0.1)])
def test_a_failed_self_check_makes_every_number_suspect(check):
    shared = context(CASES["tanh"])
    shared.self_check = check
    found = hessian(shared)["hessian"]
    scalars = [*found["eigenvalues"], found["smallest"], found["ratio_1_5"]]
    assert {scalar.status for scalar in scalars} == {"suspect"}
    assert "fail a float64 self-check" in found["eigenvalues"][0].advice
    assert trace(shared)["trace"]["status"] == "suspect"


def test_every_eigenvalue_can_be_asked_for():
    of = task(lambda: nn.Linear(2, 1), real_targets(2, 1), loss=squared_error, metrics=None)
    found = hessian(context(of, top=3))["hessian"]
    assert len(found["eigenvalues"]) == 3
    assert found["smallest"] == found["eigenvalues"][-1]
    assert "ratio_1_5" not in found


def test_a_flat_function_has_zeros_and_no_ratio():
    of = task(lambda: nn.Linear(5, 3), real_targets(5, 3), loss=lambda o, b: o.sum(1), metrics=None)
    found = hessian(context(of))["hessian"]
    assert [scalar.value for scalar in found["eigenvalues"]] == [0] * 5
    assert found["ratio_1_5"].value is None
    assert found["ratio_1_5"].status == "not_finite"
    assert trace(context(of))["trace"]["value"] == 0


def test_the_trace_says_where_its_error_stayed_too_large():
    shared = context(CASES["gelu"], relative_error=1e-6, max_products=20)
    found = trace(shared)["trace"]
    assert found["status"] == "max_products"
    assert "relative_error" in found["advice"]
    assert found["products"] == 20


def test_hessian_and_trace_share_their_products():
    shared = context(CASES["attention"])
    first = hessian(shared)["hessian"]["products"]
    second = trace(shared)["trace"]["products"]
    assert shared.hessian.products == first + second


def test_the_sampling_error_of_an_eigenvalue_is_about_the_scatter_over_samples():
    of = task(
        lambda: nn.Linear(3, 1), real_targets(3, 1), loss=squared_error, metrics=None, train=2000
    )
    found = [
        hessian(context(of, samples=200, seed=seed, top=1))["hessian"]["eigenvalues"][0]
        for seed in range(40)
    ]
    scatter = float(torch.tensor([scalar.value for scalar in found]).std())
    errors = torch.tensor([scalar.sampling_error for scalar in found])
    assert math.isclose(float(errors.mean()), scatter, rel_tol=0.5)
    whole = hessian(context(of, top=1))["hessian"]["eigenvalues"][0]
    assert whole.sampling_error is None


def test_rounding_is_not_blamed_for_what_any_precision_leaves_open():
    """λmin in the dense middle of a spectrum: known to a share of itself, as float64 says too."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(300, 6, generator=generator)
    classes = (inputs @ torch.randn(6, 3, generator=generator)).argmax(1)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), classes).backward()
        optimizer.step()
    loose = 0
    for seed in range(4):
        single, double = (
            measure_model(
                model,
                (inputs, classes),
                run=RunSettings(device="cpu", dtype=dtype, seed=seed),
                settings=MeasureSettings(measures=("hessian",)),
            )
            .results[0]
            .measures["hessian"]
            for dtype in ("float32", "float64")
        )
        assert single["smallest"].status == double["smallest"].status
        assert single["smallest"].error == pytest.approx(double["smallest"].error, rel=0.05)
        loose += single["smallest"].error > 1e-3 * single["eigenvalues"][0].value
    assert loose
