"""The bulk's edge and the outliers: those of all eigenvalues, or not resolved."""

import pytest
import torch
from spectra import Diagonal

from sharpcli.linalg.bulk import bulk
from sharpcli.linalg.quadrature import quadrature


def uniform(low, high, count=1500, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)


def with_(values, rest):
    return torch.cat([torch.tensor(values, dtype=torch.float64), rest])


TRIPLE = with_([10.0] * 3, uniform(0, 1))
FAR = with_([1e8], uniform(-1, 1))


def of(values, dtype=torch.float64, **more):
    return quadrature(Diagonal(values.to(dtype)), **({"probes": 4, "steps": 40} | more))


def test_as_many_copies_as_probes_are_not_counted():
    seen = bulk(of(TRIPLE, probes=2))
    assert (seen.resolved, seen.copies) == (False, True)
    told = bulk(of(TRIPLE, probes=4))
    assert (told.resolved, told.copies, len(told.outliers)) == (True, False, 3)
    assert abs(told.edge - float(TRIPLE[3:].max())) <= told.error


@pytest.mark.parametrize("steps", [6, 10, 20, 40, 60])
@pytest.mark.parametrize("seed", range(3))
def test_the_count_does_not_change_with_the_steps(steps, seed):
    values = with_([9.0, 7.0, 5.0, 3.5, 2.5, 1.9], uniform(0, 1))
    whole = bulk(quadrature(Diagonal(values), probes=100, steps=80))
    seen = bulk(of(values, steps=steps, seed=seed))
    if steps == 60:
        assert seen.resolved
    if seen.resolved:
        assert len(seen.outliers) == len(whole.outliers) == 6
        assert abs(seen.edge - whole.edge) <= seen.error


def test_a_gap_below_many_eigenvalues_leaves_room_for_doubt():
    """A tenth of all lie above a second gap, and few steps do not tell them one by one."""
    values = torch.cat([with_([9.0], uniform(2, 3, 100)), uniform(0, 1)])
    whole = bulk(quadrature(Diagonal(values), probes=100, steps=80))
    assert len(whole.outliers) == 101
    for steps in (8, 20, 40):
        assert not bulk(of(values, steps=steps)).resolved


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("first", [1e4, 1e5, 1e8])
def test_an_outlier_far_out_hides_no_end(first, dtype):
    values = with_([first], uniform(-1, 1)).to(dtype).double()
    for seed in range(4):
        found = of(values, dtype, seed=seed, steps=30)
        (high, high_error), (low, low_error) = found.ends()
        assert abs(high - first) <= high_error
        assert abs(low - float(values.min())) <= low_error
        seen = bulk(found)
        assert seen.resolved
        assert len(seen.outliers) == 1
        assert abs(seen.edge - float(values[1:].max())) <= seen.error
        if dtype == torch.float64:
            assert seen.error < 0.1


def test_an_end_that_few_steps_do_not_reach_is_within_its_error():
    values = with_([1.3], uniform(-1, 1, 3000))
    for seed in range(30):
        (high, error), _ = of(values, probes=2, steps=6, seed=seed).ends()
        assert abs(high - 1.3) <= error


def test_products_that_are_not_symmetric_blur_every_value():
    class Skewed(Diagonal):
        def __matmul__(self, vectors):
            return super().__matmul__(vectors) + 1e-3 * vectors.roll(1, 0)

    for probes in (2, 100):
        found = quadrature(Skewed(uniform(0, 1)), probes=probes, steps=30)
        assert 3e-4 <= found.rounding <= 1e-1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_a_spectrum_of_one_value_is_all_bulk(seed, dtype):
    matrix = Diagonal(torch.full((1000,), 2.0, dtype=dtype))
    found = bulk(quadrature(matrix, probes=1 + seed % 2, steps=12, seed=seed))
    assert len(found.outliers) == 0
    assert abs(found.edge - 2) <= max(found.error, 1e-6)
