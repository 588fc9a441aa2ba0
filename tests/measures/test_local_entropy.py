"""Local entropy: in closed form on a quadratic, and against plain float64 draws."""

import math

import pytest
import torch
from networks import CASES, UNEVEN, context
from plain_rises import Plain, least_squares, options, quadratic

from sharpcli.measures.local_entropy import local_entropy


def measured(of, dtype="float64", given=None, **settings):
    own = options("local-entropy", **(given or {}))
    return local_entropy(context(of, dtype, options=own, **settings))["local_entropy"]


@pytest.mark.parametrize("gamma", [1e4, 100.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_on_a_quadratic_it_is_known(gamma, seed):
    of = least_squares(6)
    theta, gradient, matrix = quadratic(of)
    eye = torch.eye(len(theta), dtype=torch.float64)
    true = (
        -Plain(of).loss(torch.zeros_like(theta))
        + float(gradient @ torch.linalg.solve(matrix + gamma * eye, gradient)) / 2
        - float(torch.logdet(eye + matrix / gamma)) / 2
    )
    found = measured(of, seed=seed, given={"entropy_gamma": gamma})
    assert found["mean"].status == "converged"
    assert abs(found["mean"].value - true) <= 3 * found["mean"].error
    volume = 3 * math.log(2 * math.pi / gamma)
    assert found["integral"]["value"] == pytest.approx(found["mean"].value + volume, rel=1e-12)


def test_it_is_the_log_of_the_mean_over_plain_draws():
    at, generator = Plain(CASES["tanh"]), torch.Generator().manual_seed(5)
    shifts = torch.randn(1000, len(at.theta), generator=generator, dtype=torch.float64) / 3
    volumes = torch.tensor([math.exp(-at.loss(shift)) for shift in shifts], dtype=torch.float64)
    true = math.log(float(volumes.mean()))
    error = float(volumes.std() / volumes.mean()) / 1000**0.5
    found = measured(CASES["tanh"], given={"entropy_gamma": 9.0})["mean"]
    assert abs(found.value - true) <= 3 * math.hypot(found.error, error)


def test_precision_and_batches_do_not_change_it():
    true = measured(CASES["relu"])["mean"].value
    for size in UNEVEN:
        assert measured(CASES["relu"], batch_size=size)["mean"].value == pytest.approx(
            true, rel=1e-12
        )
        narrow = measured(CASES["relu"], "float32", batch_size=size)["mean"].value
        assert narrow == pytest.approx(true, rel=1e-6)


def test_a_mean_that_few_draws_carry_is_unresolved():
    found = measured(least_squares(6), given={"entropy_gamma": 0.01})
    assert found["carriers"] < 10
    assert found["mean"].status == found["integral"]["status"] == "unresolved"
    assert "entropy_gamma" in found["mean"].advice


def test_on_a_sample_the_loss_s_own_error_is_in_it():
    given = {"entropy_gamma": 100.0}
    true = measured(CASES["tanh"], given=given)["mean"].value
    held = 0
    for seed in range(20):
        found = measured(CASES["tanh"], samples=15, seed=seed, given=given)["mean"]
        held += abs(found.value - true) <= 1.96 * math.hypot(
            found.sampling_error, 1.5 * found.error
        )
    assert held >= 18
