"""Adaptive sharpness: in closed form, against plain float64 PyTorch, and under rescaling."""

import pytest
import torch
from networks import CASES, UNEVEN, context, mlp, task, vectors
from plain_rises import Plain, largest_in_ball, least_squares, options, quadratic
from torch import nn

from sharpcli.errors import UsageError
from sharpcli.measures.adaptive_sharpness import adaptive_sharpness
from sharpcli.objective.shards import shards

KEYS = ("worst_linf", "worst_l2", "average_linf", "average_l2")


def measured(of, dtype="float64", given=None, **settings):
    own = options("adaptive-sharpness", **(given or {}))
    return adaptive_sharpness(context(of, dtype, options=own, **settings))["adaptive_sharpness"]


def units(theta, scale):
    return theta.abs() if scale == "weights" else torch.ones_like(theta)


@pytest.mark.parametrize("scale", ["weights", "one"])
def test_worst_cases_of_a_quadratic_are_known(scale):
    of = least_squares(6)
    theta, gradient, matrix = quadratic(of)
    found = measured(of, given={"adaptive_scale": scale})
    radius = units(theta, scale)
    own = matrix * radius[:, None] * radius
    in_ball = largest_in_ball(gradient * radius, own)
    assert found["worst_l2"]["value"] == pytest.approx(in_ball, rel=1e-6)
    bits = torch.arange(64)[:, None] >> torch.arange(6) & 1
    corners = 0.002 * radius * (2 * bits - 1)
    in_box = float((corners @ gradient + (corners @ matrix * corners).sum(1) / 2).max())
    assert found["worst_linf"]["value"] == pytest.approx(in_box, rel=1e-6)
    for key in ("worst_linf", "worst_l2"):
        assert found[key]["error_kind"] == found[key]["status"] == "lower_bound"
        assert found[key]["value"] == max(found[key]["by_maximizer"].values())
        assert "apgd" in found[key]["by_maximizer"]


@pytest.mark.parametrize("scale", ["weights", "one"])
@pytest.mark.parametrize("seed", range(3))
def test_averages_of_a_quadratic_are_known(scale, seed):
    of = least_squares(12)
    theta, _, matrix = quadratic(of)
    curved = float(matrix.diag() @ units(theta, scale).square())
    found = measured(of, seed=seed, given={"adaptive_scale": scale})
    for key, variance in (("average_l2", 0.2**2), ("average_linf", 0.2**2 / 3)):
        assert abs(found[key]["value"] - variance * curved / 2) <= 3 * found[key]["error"]
        assert found[key]["error_kind"] == "standard_error"


@pytest.mark.parametrize("name", ["tanh", "relu", "conv"])
def test_no_plain_ascent_finds_more_and_the_points_are_inside(name):
    at = Plain(CASES[name])
    found = measured(CASES[name])
    for norm, rho in (("linf", 0.002), ("l2", 1.0)):
        radius, best = rho * at.theta.abs(), 0.0
        point = torch.zeros_like(at.theta)
        for _ in range(30):  # projected gradient ascent with a short step
            slope = radius * at.gradient(radius * point)
            step = slope.sign() if norm == "linf" else slope / slope.norm()
            point = point + 0.3 * step
            point = point.clamp(-1, 1) if norm == "linf" else point / max(1, float(point.norm()))
            best = max(best, at.rise(radius * point))
        assert found[f"worst_{norm}"]["value"] >= 0.999 * best
        assert found[f"worst_{norm}"]["value"] <= 1.5 * best


def test_averages_are_those_of_plain_draws():
    at, generator = Plain(CASES["relu"]), torch.Generator().manual_seed(5)
    radius, found = 0.2 * at.theta.abs(), measured(CASES["relu"])

    def normal():
        return radius * torch.randn(len(radius), generator=generator, dtype=torch.float64)

    def uniform():
        return radius * (2 * torch.rand(len(radius), generator=generator, dtype=torch.float64) - 1)

    for key, draw in (("average_l2", normal), ("average_linf", uniform)):
        true, error = at.mean_rise(draw, 1000)
        assert abs(found[key]["value"] - true) <= 3 * (found[key]["error"] ** 2 + error**2) ** 0.5


def test_precision_and_batches_do_not_change_it():
    true = measured(CASES["relu"])
    for dtype, size, limit in (("float64", 3, 1e-6), ("float32", 12, 1e-3)):
        found = measured(CASES["relu"], dtype, batch_size=size)
        for key in KEYS:
            assert found[key]["value"] == pytest.approx(true[key]["value"], rel=limit), key
    assert len(UNEVEN) == 3


class Rescaled(nn.Module):
    """A ReLU network, of which hidden units are rescaled without changing the function."""

    def __init__(self, factors):
        super().__init__()
        self.net = mlp(6, 10, 8, 4, activation=nn.ReLU)
        with torch.no_grad():
            first, second, third = self.net[0], self.net[2], self.net[4]
            units = torch.logspace(-factors, factors, 10)
            first.weight.mul_(units[:, None])
            first.bias.mul_(units)
            second.weight.mul_(10**factors / units)
            second.bias.mul_(10**factors)
            third.weight.div_(10**factors)

    def forward(self, inputs):
        return self.net(inputs)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rescaling_that_keeps_the_function_moves_it_by_at_most_two_per_cent(dtype):
    before, after = (
        measured(task(lambda x=factors: Rescaled(x), vectors(6, 4)), dtype) for factors in (0, 1)
    )
    for key in KEYS:
        assert after[key]["value"] == pytest.approx(before[key]["value"], rel=0.02), key
    flat = {"adaptive_scale": "one", "worst_linf_rho": 1e-3}
    before, after = (
        measured(task(lambda x=factors: Rescaled(x), vectors(6, 4)), dtype, given=flat)
        for factors in (0, 1)
    )
    moved = after["worst_linf"]["value"] / before["worst_linf"]["value"]
    assert not 0.5 < moved < 2


def test_m_sharpness_is_the_mean_over_shards_of_their_own_maxima():
    def slope(outputs, batch):
        return 5 + (outputs * batch[1]).sum(1)

    of = task(
        lambda: nn.Linear(5, 3, bias=False),
        lambda n, g: (torch.randn(n, 5, generator=g), torch.randn(n, 3, generator=g)),
        loss=slope,
        metrics=None,
    )
    own = context(of, options=options("adaptive-sharpness", m_sharpness=6))
    found = adaptive_sharpness(own)["adaptive_sharpness"]
    slopes = [own.theta.abs() * s.gradient(own.theta)[1] for s in shards(own.objective, 0, 4)]
    l1 = sum(float(s.abs().sum()) for s in slopes) / 4
    l2 = sum(float(s.norm()) for s in slopes) / 4
    assert found["worst_linf"]["value"] == pytest.approx(0.002 * l1, rel=1e-9)
    assert found["worst_l2"]["value"] == pytest.approx(l2, rel=1e-9)
    assert (found["worst_l2"]["m"], found["worst_l2"]["shards"]) == (6, 4)
    whole = measured(of)
    for key in ("worst_linf", "worst_l2"):
        assert found[key]["value"] > whole[key]["value"]


@pytest.mark.parametrize("name", ["relu", "conv"])
def test_m_sharpness_is_never_below_the_worst_case_of_all(name):
    whole = measured(CASES[name])
    by_shard = measured(CASES[name], given={"m_sharpness": 6})
    for key in ("worst_linf", "worst_l2"):
        assert by_shard[key]["value"] >= whole[key]["value"] * (1 - 1e-9)


def test_shards_would_change_fixed_batches():
    own = context(CASES["tanh"], options=options("adaptive-sharpness", m_sharpness=6))
    own.objective.rows.fixed_batch = 8
    with pytest.raises(UsageError, match="m_sharpness=6: the loss is defined on batches of 8"):
        adaptive_sharpness(own)


def test_at_a_zero_gradient_the_worst_case_is_found_all_the_same():
    of = least_squares(6, at_minimum=True)
    theta, gradient, matrix = quadratic_at_minimum(of)
    found = measured(of)
    radius = theta.abs()
    own = matrix * radius[:, None] * radius
    true = float(torch.linalg.eigvalsh(own)[-1]) / 2
    assert float(gradient.norm()) == pytest.approx(0, abs=1e-12)
    assert found["worst_l2"]["value"] == pytest.approx(true, rel=1e-3)
    assert found["worst_linf"]["value"] > 0


def quadratic_at_minimum(of):
    theta, _, matrix = quadratic(of)
    return theta, Plain(of).gradient(torch.zeros_like(theta)), matrix


def test_a_box_that_float32_does_not_resolve_is_measured_in_float64():
    given = {"worst_linf_rho": 1e-9, "worst_l2_rho": 1e-8}
    true = measured(CASES["tanh"], given=given)
    found = measured(CASES["tanh"], "float32", given=given)
    for key in ("worst_linf", "worst_l2"):
        assert found[key]["value"] == pytest.approx(true[key]["value"], rel=1e-3)
        assert found[key]["status"] == "lower_bound"


@pytest.mark.parametrize("m", [0, 10])
def test_a_sample_has_an_error_that_holds_the_value_on_all_data(m):
    of = task(lambda: nn.Linear(8, 3), vectors(8, 3), train=80)
    given = {"m_sharpness": m, "average_draws": 2}
    true = measured(of, given=given)
    held = {"worst_linf": 0, "worst_l2": 0}
    for seed in range(1, 9):
        found = measured(of, samples=40, seed=seed, given=given)
        for key in held:
            scalar = found[key]
            centre = scalar["value"] - (scalar["sampling_bias"] or 0)
            assert scalar["sampling_error"] > 0
            held[key] += abs(centre - true[key]["value"]) <= 1.96 * scalar["sampling_error"]
    assert min(held.values()) >= 7
