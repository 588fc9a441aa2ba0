"""Means and sampling errors from sums that add up, against their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharpcli.errors import SharpError
from sharpcli.objective.means import mean_of, moments
from sharpcli.objective.reliability import widened


@given(st.integers(2, 40), st.integers(0, 10_000), st.floats(0.1, 100))
def test_a_ratio_and_its_standard_error(count, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    sums = scale * torch.rand(count, generator=generator, dtype=torch.float64)
    weights = torch.randint(1, 5, (count,), generator=generator).double()
    total = count + 10
    found = mean_of(moments(sums, weights).tolist(), total, sampled=True)
    mean = float(sums.sum() / weights.sum())
    residuals = (sums - mean * weights) / weights.mean()
    variance = residuals.square().sum() / (count - 1) / count * (1 - count / total)
    assert found.value == pytest.approx(mean, rel=1e-12)
    squares, fourths = residuals.square().sum(), residuals.pow(4).sum()
    most = count - 1  # also where the fourth powers are those of two values alone
    excess = float(fourths / squares**2) - 1 / count
    carried = most if excess * most <= 1 else max(1.0, 1 / excess)
    assert found.carriers == pytest.approx(carried, rel=1e-4)
    error = widened(float(variance.sqrt()), carried)
    assert found.sampling_error == pytest.approx(error, rel=1e-3, abs=1e-9 * scale)


def test_deviations_below_the_resolution_of_fourth_powers_count_as_normal_ones():
    sums = 1e6 + torch.linspace(-1, 1, 100, dtype=torch.float64)
    found = mean_of(moments(sums, torch.ones_like(sums)).tolist(), 200, sampled=True)
    assert found.carriers == pytest.approx(50)


def test_a_few_heavy_examples_carry_a_mean_and_widen_its_error():
    sums = torch.zeros(1000, dtype=torch.float64)
    sums[:4] = 1.0
    found = mean_of(moments(sums, torch.ones_like(sums)).tolist(), 10**9, sampled=True)
    assert found.carriers == pytest.approx(4, rel=0.02)
    plain = math.sqrt(0.004 * 0.996 / 999)
    assert found.sampling_error == pytest.approx(plain * 2.776 / 1.96, rel=0.02)


@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1e60, 1e100, 1e150])
def test_no_scale_of_losses_is_too_small_or_too_large(scale):
    sums = scale * torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = mean_of(moments(sums, torch.ones_like(sums)).tolist(), 100, sampled=True)
    plain = float(sums.std()) * math.sqrt(0.5 / 50)
    assert plain <= found.sampling_error <= 7 * plain
    assert 1 <= found.carriers <= 49


def test_equal_values_have_no_carriers():
    ones = torch.ones(50, dtype=torch.float64)
    found = mean_of(moments(ones, ones).tolist(), 100, sampled=True)
    assert (found.sampling_error, found.carriers) == (0.0, 0.0)


def test_moments_of_batches_add_up():
    sums, weights = torch.rand(2, 30, dtype=torch.float64)
    whole = moments(sums, weights)
    parts = moments(sums[:7], weights[:7]) + moments(sums[7:], weights[7:])
    assert torch.allclose(whole, parts, rtol=1e-14)
    assert whole[5] == 30


def test_a_single_pair_has_no_error_and_all_of_the_data_none_either():
    one = moments(torch.tensor(3.0), torch.tensor(2.0)).tolist()
    assert mean_of(one, 10, sampled=True) == mean_of(one, 10, sampled=False)
    assert mean_of(one, 10, sampled=True).value == 1.5


def test_no_weight_at_all_is_said():
    with pytest.raises(SharpError, match="every target of the data is ignored"):
        mean_of([0.0] * 6, 5, sampled=False)
