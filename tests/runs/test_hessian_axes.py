"""The Hessian's axes: eigenvectors against dense ones."""

import pytest
import torch
from networks import (
    CASES,
    dense_eigenvalues,
    dense_hessian,
    objective,
    real_targets,
    squared_error,
    task,
)
from torch import nn

from sharpcli.curvature import SelfCheck
from sharpcli.errors import SharpError
from sharpcli.landscape.directions import cosine
from sharpcli.runs.hessian_axes import top_eigenpairs


@pytest.mark.parametrize("name", ["tanh", "conv", "batch_norm", "tied", "encoder"])
def test_hessian_axes_are_the_dense_eigenvectors(name):
    of, theta = objective(CASES[name])
    found = top_eigenpairs(of, theta, 2, tol=1e-9)
    values, columns = torch.linalg.eigh(dense_hessian(name))
    for i, (direction, scalar) in enumerate(
        zip(found.vectors, found.eigenvalues, strict=True), start=1
    ):
        true = columns[:, -i]
        true = true * true[true.abs().argmax()].sign()
        assert float((direction - true).norm()) < 1e-6
        assert scalar.value == pytest.approx(float(values[-i]), rel=1e-9)
        assert (scalar.status, scalar.error_kind) == ("converged", "residual")
    assert found.warnings == ()


@pytest.mark.parametrize("name", ["relu", "twins", "triples"])
def test_hessian_axes_are_orthonormal_and_repeatable_in_float32(name):
    of, theta = objective(CASES[name], "float32")
    found = top_eigenpairs(of, theta, 2, seed=1)
    again = top_eigenpairs(of, theta, 2, seed=1)
    first, second = found.vectors
    assert first.dtype == torch.float32
    assert abs(cosine(first, second)) < 1e-6
    assert float(first.double().norm()) == pytest.approx(1, abs=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(found.vectors, again.vectors, strict=True))
    curvature = [float(v.double() @ dense_hessian(name) @ v.double()) for v in found.vectors]
    assert curvature == pytest.approx(dense_eigenvalues(name)[:2].tolist(), rel=1e-2)
    assert found.products <= 32


def test_eigenvalues_that_are_not_what_was_asked_for_say_so():
    of, theta = objective(CASES["conv"])
    found = top_eigenpairs(of, theta, 2, tol=1e-9, max_products=4)
    assert found.products == 4
    assert {scalar.status for scalar in found.eigenvalues} == {"max_products"}
    assert "max_products" in found.eigenvalues[0].advice
    failed = top_eigenpairs(of, theta, 1, self_check=SelfCheck(0.1, 0.1))
    assert failed.eigenvalues[0].status == "suspect"


def test_one_direction_of_a_model_of_one_parameter_and_no_plane():
    of = task(
        lambda: nn.Linear(1, 1, bias=False), real_targets(1, 1), loss=squared_error, metrics=None
    )
    problem, theta = objective(of)
    assert top_eigenpairs(problem, theta, 1).vectors[0].tolist() == [1.0]
    with pytest.raises(SharpError, match="only 1 parameter") as caught:
        top_eigenpairs(problem, theta, 2)
    assert caught.value.hint == "draw a line"
