"""SAM sharpness against plain PyTorch in float64, and where a step has no direction."""

import pytest
import torch
from networks import CASES, UNEVEN, context
from plain_rises import Plain, least_squares, options, quadratic

from sharpcli.measures.sam_sharpness import sam_sharpness

OPTIONS = options("sam-sharpness")


def measured(of, dtype="float64", given=None, **settings):
    own = OPTIONS | (given or {})
    return sam_sharpness(context(of, dtype, options=own, **settings))["sam_sharpness"]


def plain(of, rho, *, adaptive):
    at = Plain(of)
    gradient = at.gradient(torch.zeros_like(at.theta))
    scale = at.theta.abs() if adaptive else torch.ones_like(at.theta)
    return at.rise(rho * scale.square() * gradient / (scale * gradient).norm())


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu", "conv", "batch_norm", "layer_norm"])
def test_both_are_those_of_plain_pytorch(name):
    true = {
        "sam": plain(CASES[name], 0.05, adaptive=False),
        "asam": plain(CASES[name], 0.5, adaptive=True),
    }
    for dtype, limit in (("float64", 1e-9), ("float32", 1e-4)):
        for size in UNEVEN:
            found = measured(CASES[name], dtype, batch_size=size)
            for key, value in true.items():
                assert found[key]["value"] == pytest.approx(value, rel=limit)
                assert abs(found[key]["value"] - value) <= 4 * found[key]["error"]
                assert found[key]["status"] == "converged"


def test_on_a_quadratic_it_is_known():
    of = least_squares()
    theta, gradient, matrix = quadratic(of)
    for key, scale in (("sam", torch.ones_like(theta)), ("asam", theta.abs())):
        rho = OPTIONS[f"{key}_rho"]
        step = rho * scale.square() * gradient / (scale * gradient).norm()
        true = float(gradient @ step + step @ matrix @ step / 2)
        assert measured(of)[key]["value"] == pytest.approx(true, rel=1e-9)


def test_radii_are_options():
    found = measured(CASES["tanh"], given={"sam_rho": 0.2, "asam_rho": 0.1})
    assert found["sam"]["value"] == pytest.approx(plain(CASES["tanh"], 0.2, adaptive=False))
    assert found["asam"]["value"] == pytest.approx(plain(CASES["tanh"], 0.1, adaptive=True))
    assert (found["sam"]["rho"], found["asam"]["rho"]) == (0.2, 0.1)


def test_a_zero_gradient_has_no_direction_and_no_value():
    found = measured(least_squares(at_minimum=True))
    for key in ("sam", "asam"):
        assert found[key]["value"] is None
        assert found[key]["status"] == "unresolved"
        assert "adaptive-sharpness" in found[key]["advice"]


def test_a_gradient_of_rounding_is_said():
    own = context(CASES["tanh"], "float32", options=OPTIONS)
    _, off = own.rounding.gradient
    own.value_and_gradient = (own.value_and_gradient[0], 2 * off.float())
    found = sam_sharpness(own)["sam_sharpness"]
    assert found["sam"]["status"] == found["asam"]["status"] == "precision"


def test_a_sample_has_an_error_that_holds_the_value_on_all_data():
    true = measured(CASES["tanh"])["sam"]["value"]
    held = 0
    for seed in range(20):
        found = measured(CASES["tanh"], samples=15, seed=seed)["sam"]
        assert found["sampling_bias"] >= 0
        centre = found["value"] - found["sampling_bias"]
        held += abs(centre - true) <= 1.96 * found["sampling_error"]
    assert held >= 18
