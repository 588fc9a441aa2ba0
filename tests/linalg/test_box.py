"""Maxima over the box [−1, 1]ᵖ, where they are known and against SciPy where they are not."""

import itertools
import math

import pytest
import torch
from scipy.optimize import Bounds, minimize

from sharpcli.linalg.box import (
    BoxMaximum,
    best_corners,
    corner_ascent,
    flip_ascent,
    projected_lbfgs,
)

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


# Many values at once


def wavy(points):
    """Neither convex nor concave; its best corner is no neighbour of most others."""
    matrix = draw(points.shape[1], points.shape[1], seed=4)
    bends = torch.einsum("ki,ij,kj->k", points, matrix, points)
    return bends + torch.sin(3 * points).sum(1) + points @ draw(points.shape[1], seed=5)


def every_corner(size):
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=size)), dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("chunk", [1, 5, 4096])
def test_the_best_corners_are_the_best_of_all(size, chunk):
    found = best_corners(wavy, torch.zeros(size).double(), keep=3, chunk=chunk)
    true = wavy(every_corner(size)).sort(descending=True).values[:3]
    assert [each.value for each in found] == pytest.approx(true.tolist(), rel=1e-12)
    assert found[0].evaluations == 2**size
    for each in found:
        assert bool((each.point.abs() == 1).all())
        assert float(wavy(each.point[None])[0]) == pytest.approx(each.value, rel=1e-12)


@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
def test_a_corner_whose_value_is_not_finite_is_never_the_best(broken):
    def values(points):
        return torch.where(points[:, 0] > 0, broken, points.sum(1))

    found = best_corners(values, torch.zeros(3), keep=8)
    assert len(found) == 4
    assert found[0].value == 1
    assert best_corners(lambda points: points[:, 0] * math.nan, torch.zeros(3)) == []


def test_flips_find_what_the_gradient_s_signs_stay_at():
    """Two coordinates that gain only together: every ascent from (−1, −1) by signs stays there."""

    def values(points):
        return 2 * points[:, 0] * points[:, 1] + 0.5 * points.sum(1)

    start = BoxMaximum(1.0, torch.tensor([-1.0, -1.0]), 0)
    found = flip_ascent(values, start)
    assert found.value == 3
    assert found.point.tolist() == [1, 1]
    assert found.evaluations == 2 * 3


@pytest.mark.parametrize("size", [6, 40])
def test_no_flip_of_one_coordinate_is_better_than_what_flips_end_at(size):
    start = torch.ones(size, dtype=torch.float64)
    found = flip_ascent(wavy, BoxMaximum(float(wavy(start[None])[0]), start, 0), chunk=7)
    flips = found.point * (1 - 2 * torch.eye(size, dtype=torch.float64))
    assert float(wavy(flips).max()) <= found.value
    assert float(wavy(found.point[None])[0]) == pytest.approx(found.value, rel=1e-12)
    assert found.value > float(wavy(start[None])[0])


def test_lbfgs_goes_on_from_a_corner_to_a_maximum_on_a_face():
    top = torch.tensor([0.25, 1.0, -1.0], dtype=torch.float64)
    slope = torch.tensor([0.0, 2.0, -2.0], dtype=torch.float64)

    def function(u):
        inward = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        return float(-(inward * (u - top) ** 2).sum() + slope @ u), -2 * inward * (u - top) + slope

    corner = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    found = projected_lbfgs(function, *function(corner), start=corner)
    assert torch.allclose(found.point, top, atol=1e-6)
    assert found.value == pytest.approx(4)


def test_a_slope_that_is_not_a_number_leaves_its_coordinate_where_it_is():
    slope = torch.tensor([1.0, math.nan, -2.0])
    found = corner_ascent(lambda u: (float(u[0] - 2 * u[2]), slope), 0.0, slope)
    assert found.point.tolist() == [1, 0, -1]
