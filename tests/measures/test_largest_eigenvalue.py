"""λ1 alone, against dense float64 Hessians."""

import pytest
from networks import CASES, context, dense_eigenvalues, mlp, real_targets, squared_error, task

from sharpcli.measures.hessian import hessian
from sharpcli.measures.largest_eigenvalue import largest_eigenvalue


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_first_of_the_hessian_within_its_error(name, dtype):
    true = float(dense_eigenvalues(name)[0])
    found = largest_eigenvalue(context(CASES[name], dtype))["largest_eigenvalue"]
    assert found["status"] == "converged"
    assert abs(found["value"] - true) <= found["error"] <= 1.01e-3 * true
    assert found["error_kind"] == "residual"


def test_it_takes_fewer_products_than_both_ends():
    of = task(lambda: mlp(20, 30, 3), real_targets(20, 3), loss=squared_error, metrics=None)
    few = largest_eigenvalue(context(of))["largest_eigenvalue"]
    both = hessian(context(of, top=1))["hessian"]
    assert few["products"] < both["products"] / 2
    assert few["operator"] == "hessian"


def test_of_a_sample_the_sampling_error_covers_the_value_of_all_data():
    of = task(lambda: mlp(4, 3, 2), real_targets(4, 2), loss=squared_error, metrics=None, train=400)
    true = largest_eigenvalue(context(of, "float64"))["largest_eigenvalue"]
    assert true.get("sampling_error") is None
    off = []
    for seed in range(20):
        found = largest_eigenvalue(context(of, "float64", samples=100, seed=seed))
        scalar = found["largest_eigenvalue"]
        assert scalar["error"] <= 0.021 * scalar["value"]
        assert len(scalar["shards"]) == 16
        half = 1.96 * scalar["sampling_error"] + scalar["error"]
        off.append(abs(scalar["value"] - true["value"]) / half)
    assert sum(each <= 1 for each in off) >= 17
    assert max(off) < 2


def test_an_empirical_fisher_matrix_has_its_own_largest_eigenvalue():
    from sharpcli.settings.curvature import CurvatureSettings

    settings = CurvatureSettings(operator="empirical-fisher")
    shared = context(CASES["conv"], "float64", curvature=settings)
    both = hessian(context(CASES["conv"], "float64", curvature=settings))["hessian"]
    found = largest_eigenvalue(shared)["largest_eigenvalue"]
    assert found["value"] == pytest.approx(both["eigenvalues"][0].value, rel=2e-3)
    assert found["operator"] == "empirical-fisher"
