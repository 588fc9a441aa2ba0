"""The low-pass rise: in closed form on a quadratic, and against plain float64 draws."""

import pytest
import torch
from networks import CASES, UNEVEN, context
from plain_rises import Plain, least_squares, options, quadratic

from sharpcli.measures.low_pass import low_pass


def measured(of, dtype="float64", given=None, **settings):
    own = options("low-pass", **(given or {}))
    return low_pass(context(of, dtype, options=own, **settings))["low_pass"]


@pytest.mark.parametrize("seed", range(3))
def test_on_a_quadratic_it_is_half_the_trace(seed):
    of = least_squares(12)
    _, _, matrix = quadratic(of)
    for sigma in (0.01, 1.0):
        found = measured(of, seed=seed, given={"low_pass_sigma": sigma})
        true = sigma**2 / 2 * float(matrix.trace())
        assert abs(found["value"] - true) <= 3 * found["error"]
        # The gradient's part is taken out, so the error is the curvature's alone.
        scatter = sigma**2 * float((matrix @ matrix).trace() / 2) ** 0.5 / 10
        assert found["error"] == pytest.approx(scatter, rel=0.5)
        assert found["evaluations"] == 101


@pytest.mark.parametrize("name", ["tanh", "relu", "batch_norm"])
def test_it_is_the_mean_of_plain_draws(name):
    at, generator = Plain(CASES[name]), torch.Generator().manual_seed(5)

    def draw():
        return 0.1 * torch.randn(len(at.theta), generator=generator, dtype=torch.float64)

    true, error = at.mean_rise(draw, 1000)
    found = measured(CASES[name], given={"low_pass_sigma": 0.1})
    assert abs(found["value"] - true) <= 3 * (found["error"] ** 2 + error**2) ** 0.5


def test_precision_and_batches_do_not_change_it():
    true = measured(CASES["relu"])
    for size in UNEVEN:
        same = measured(CASES["relu"], batch_size=size)
        assert same["value"] == pytest.approx(true["value"], rel=1e-9)
        narrow = measured(CASES["relu"], "float32", batch_size=size)
        assert narrow["value"] == pytest.approx(true["value"], rel=1e-2)
        assert abs(narrow["value"] - true["value"]) <= narrow["error"]


def test_a_rise_below_rounding_or_scatter_is_not_sound():
    tiny = measured(CASES["tanh"], "float32", given={"low_pass_sigma": 1e-6})
    assert tiny["status"] == "precision"
    assert 'dtype="float64"' in tiny["advice"]
    saddle = measured(least_squares(), given={"low_pass_draws": 2})
    assert saddle["status"] == "unresolved"
    assert "low_pass_draws" in saddle["advice"]


def test_a_sample_has_an_error_that_holds_the_value_on_all_data():
    given = {"low_pass_sigma": 0.3}
    true = measured(CASES["tanh"], given=given)["value"]
    held = 0
    for seed in range(20):
        found = measured(CASES["tanh"], samples=15, seed=seed, given=given)
        held += (
            abs(found["value"] - true)
            <= 1.96 * (found["sampling_error"] ** 2 + 2 * found["error"] ** 2) ** 0.5
        )
    assert held >= 18


def test_global_random_numbers_and_parameters_stay():
    own = context(CASES["tanh"], options=options("low-pass"))
    before, state = own.theta.clone(), torch.get_rng_state()
    first = low_pass(own)["low_pass"]["value"]
    assert torch.equal(own.theta, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert low_pass(own)["low_pass"]["value"] == first
