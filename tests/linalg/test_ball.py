"""Maxima over a ball: in closed form for quadratics, and never outside."""

import math

import pytest
import torch
from plain_rises import largest_in_ball

from sharpcli.linalg.ball import Ball, auto_pgd, tangent_ascent


def of(gradient, matrix):
    return lambda u: (float(gradient @ u + u @ matrix @ u / 2), gradient + matrix @ u)


def random_form(size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    gradient = torch.randn(size, generator=generator, dtype=torch.float64)
    return gradient, root @ root.T / size


@pytest.mark.parametrize("maximise", [auto_pgd, tangent_ascent])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_maximum_of_a_slope_is_the_dual_norm(maximise, norm):
    slope = torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64)
    function = of(slope, torch.zeros(3, 3, dtype=torch.float64))
    found = maximise(function, 0.0, slope, Ball(norm))
    assert found.value == pytest.approx({"l2": 5.0, "linf": 7.0}[norm], rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_over_the_ball_a_quadratic_has_a_known_maximum(seed):
    gradient, matrix = random_form(seed=seed)
    true = largest_in_ball(gradient, matrix)
    for maximise, share in ((auto_pgd, 0.999), (tangent_ascent, 1 - 1e-6)):
        found = maximise(of(gradient, matrix), 0.0, gradient, Ball("l2"))
        assert share * true <= found.value <= true * (1 + 1e-12)
        assert float(found.point.norm()) <= 1 + 1e-12
        assert found.evaluations <= 20


def test_over_the_box_no_point_is_outside_and_none_above_the_best_corner():
    gradient, matrix = random_form(size=8)
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    corners = (2 * bits - 1).double()
    values = corners @ gradient + (corners @ matrix * corners).sum(1) / 2
    first, _ = of(gradient, matrix)(gradient.sign())
    for maximise in (auto_pgd, tangent_ascent):
        found = maximise(of(gradient, matrix), 0.0, gradient, Ball("linf"))
        assert float(found.point.abs().max()) <= 1
        assert first <= found.value <= float(values.max()) * (1 + 1e-12)
        assert found.value == pytest.approx(of(gradient, matrix)(found.point)[0])


def test_a_concave_function_has_its_maximum_inside():
    centre = torch.tensor([0.3, -0.2], dtype=torch.float64)

    def function(u):
        return -float((u - centre).square().sum()), -2 * (u - centre)

    value, gradient = function(torch.zeros(2, dtype=torch.float64))
    found = auto_pgd(function, value, gradient, Ball("l2"), iterations=60)
    assert found.value == pytest.approx(0.0, abs=1e-3)
    assert float((found.point - centre).norm()) < 0.03


def test_points_without_a_value_are_never_the_best():
    def function(u):
        if float(u[0]) > 0.5:
            return math.nan, torch.full_like(u, math.nan)
        return float(u[0]), torch.tensor([1.0, 0.0], dtype=torch.float64)

    slope = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for maximise in (auto_pgd, tangent_ascent):
        found = maximise(function, 0.0, slope, Ball("l2"))
        assert 0 <= found.value <= 0.5
        assert bool(torch.isfinite(found.point).all())
    assert auto_pgd(function, 0.0, slope, Ball("l2")).value > 0.2


def test_tiny_and_zero_gradients_have_a_direction_or_none():
    ball = Ball("l2")
    tiny = torch.tensor([3e-30, 4e-30])
    assert ball.farthest(tiny).tolist() == pytest.approx([0.6, 0.8])
    assert not bool(ball.farthest(torch.zeros(3)).any())
    assert ball.project(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.6, 0.8])
    assert ball.project(torch.tensor([0.3, 0.4])).tolist() == pytest.approx([0.3, 0.4])
