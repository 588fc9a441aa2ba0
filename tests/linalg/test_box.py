"""Maxima over the box [−1, 1]ᵖ, where they are known and against SciPy where they are not."""

import math

import pytest
import torch
from scipy.optimize import Bounds, minimize

from sharpcli.linalg.box import corner_ascent, projected_lbfgs

METHODS = {"corner": corner_ascent, "lbfgs": projected_lbfgs}


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def maximized(method, function, size, dtype=torch.float64, **options):
    """The maximum found from the centre; checks what every maximum has to keep."""
    asked = []

    def watched(point):
        asked.append(point.clone())
        return function(point)

    centre = torch.zeros(size, dtype=dtype)
    start = function(centre)
    found = METHODS[method](watched, *start, **options)
    assert all(float(point.abs().max()) <= 1 for point in asked), "left the box"
    assert found.point.shape == (size,)
    assert found.evaluations == len(asked)
    assert math.isfinite(found.value)
    assert found.value >= start[0]
    assert function(found.point)[0] == found.value
    return found


def linear(slope):
    return lambda u: (float(slope @ u), slope.clone())


def quadratic(matrix, slope):
    return lambda u: (float(u @ matrix @ u / 2 + slope @ u), matrix @ u + slope)


def by_autograd(function):
    def value_and_gradient(u):
        u = u.detach().clone().requires_grad_()
        value = function(u)
        return float(value.detach()), torch.autograd.grad(value, u)[0]

    return value_and_gradient


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_linear_function_is_largest_in_its_corner(method, scale, dtype):
    slope = (scale * draw(50)).to(dtype)
    found = maximized(method, linear(slope), 50, dtype)
    assert torch.equal(found.point, slope.sign())


@pytest.mark.parametrize("method", METHODS)
def test_a_convex_quadratic_reaches_the_best_corner(method):
    matrix = draw(12, 12)
    matrix = matrix @ matrix.T / 12
    # Slopes so steep that the best corner is theirs, whatever the curvature does.
    slope = draw(12).sign() * 2 * matrix.abs().sum(1)
    found = maximized(method, quadratic(matrix, slope), 12)
    best = slope.sign()
    assert torch.equal(found.point, best)
    assert found.value == pytest.approx(float(best @ matrix @ best / 2 + slope @ best))


@pytest.mark.parametrize("condition", [1, 100])
def test_a_concave_quadratic_is_largest_inside(condition):
    top = draw(20).clamp(-0.8, 0.8)
    curvature = torch.logspace(0, math.log10(condition), 20, dtype=torch.float64)

    def function(u):
        return float(-(curvature * (u - top) ** 2).sum() / 2), -curvature * (u - top)

    found = maximized("lbfgs", function, 20, iterations=60)
    assert found.value == pytest.approx(0, abs=1e-6 * condition)


def test_a_maximum_on_a_face_has_some_coordinates_at_their_bounds():
    top = torch.tensor([0.5, 3.0, -0.25, -7.0], dtype=torch.float64)

    def function(u):
        return float(-((u - top) ** 2).sum()), -2 * (u - top)

    found = maximized("lbfgs", function, 4, iterations=40)
    assert torch.allclose(found.point, top.clamp(-1, 1), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
def test_values_that_are_not_finite_are_never_the_best(method, broken):
    slope = draw(10)
    edge = 0.6 * float(slope.abs().sum())

    def function(u):
        value = float(slope @ u)
        return (broken if value > edge else value), slope.clone()

    found = maximized(method, function, 10)
    assert 0 <= found.value <= edge


@pytest.mark.parametrize("method", METHODS)
def test_a_flat_function_ends_without_error(method):
    found = maximized(method, lambda u: (3.0, torch.zeros_like(u)), 5)
    assert found.value == 3.0


@pytest.mark.parametrize("method", METHODS)
def test_a_function_that_only_falls_stays_at_the_centre(method):
    def function(u):
        return float(-(u**2).sum()), -2 * u

    found = maximized(method, function, 6)
    assert found.value == 0
    assert not found.point.any()


@pytest.mark.parametrize("method", METHODS)
def test_more_iterations_are_never_worse(method):
    function = by_autograd(lambda u: torch.sin(3 * u + torch.arange(8.0)).sum() + 0.1 * u.sum())
    values = [maximized(method, function, 8, iterations=count).value for count in (1, 3, 10, 30)]
    assert values == sorted(values)


SMOOTH = {
    "softplus": lambda a: lambda u: torch.nn.functional.softplus(a @ u).sum(),
    "logistic": lambda a: lambda u: torch.log(torch.sigmoid(a @ u).mean()),
    "waves": lambda a: lambda u: torch.sin(a @ u / 2).sum(),
    "concave": lambda a: lambda u: -((a @ u - 1) ** 2).sum(),
    "convex": lambda a: lambda u: ((a @ u - 1) ** 2).sum(),
    "decades": lambda a: lambda u: torch.log(1e-7 + ((a @ u - 0.1) ** 4).mean()),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SMOOTH)
def test_as_good_as_scipy_in_as_many_iterations(name, seed):
    function = by_autograd(SMOOTH[name](draw(15, 10, seed=seed) / 3))

    def negated(point):
        value, gradient = function(torch.from_numpy(point))
        return -value, -gradient.numpy()

    scipy = minimize(
        negated,
        [0.0] * 10,
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds([-1.0] * 10, [1.0] * 10),
        options={"maxiter": 10, "maxcor": 10},
    )
    start = function(torch.zeros(10, dtype=torch.float64))[0]
    found = max(maximized(method, function, 10, iterations=10).value for method in METHODS)
    # Of a gain over the centre; where several maxima are near, either may find the better one.
    assert found - start >= 0.99 * (-scipy.fun - start)


@pytest.mark.parametrize("method", METHODS)
def test_progress_ends_with_what_was_asked(method):
    seen = []
    maximized(
        method, linear(draw(4)), 4, iterations=7, progress=lambda done, total: seen.append(done)
    )
    assert seen
    assert seen == sorted(seen)
