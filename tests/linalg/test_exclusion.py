"""Places that Lanczos runs exclude hold no eigenvalue, and an eigenvalue is near any place."""

import pytest
import torch
from spectra import DIAGONAL, Diagonal

from sharpcli.linalg.quadrature import quadrature


def runs(values, probes=3, steps=30, seed=0):
    return quadrature(Diagonal(values), probes=probes, steps=steps, seed=seed).runs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", DIAGONAL)
def test_hardly_an_eigenvalue_is_excluded(name, dtype):
    """One in ten thousand, by what is asked; and each is asked for with all others."""
    values = DIAGONAL[name]().to(dtype)
    for seed in range(3):
        excluded = runs(values, seed=seed).excluded(values.double())
        assert int(excluded.sum()) <= 2


def test_the_chance_of_a_miss_is_that_of_the_starts():
    """Of an isolated eigenvalue: it is below x in about that share of starts."""
    values = torch.cat([DIAGONAL["uniform"](), torch.tensor([3.0], dtype=torch.float64)])
    place, chances = torch.tensor([3.0], dtype=torch.float64), []
    for seed in range(60):
        chances.append(float(runs(values, probes=2, steps=6, seed=seed).missed(place)[0]))
    low = sum(chance < 0.3 for chance in chances)
    # Of two starts' product of uniforms the chance of less than 0.3 is 0.3·(1 − ln 0.3) = 0.66;
    # what the runs bound is at least the share itself.
    assert low <= 0.66 * 60 + 12


def test_far_from_all_eigenvalues_everything_is_excluded():
    values = torch.cat([DIAGONAL["uniform"](), torch.tensor([3.0, 3.0], dtype=torch.float64)])
    places = torch.tensor([-2.0, 1.5, 2.0, 2.9, 3.1, 1e9], dtype=torch.float64)
    assert runs(values).excluded(places).all()


def test_a_far_outlier_overflows_nothing():
    values = torch.cat([DIAGONAL["uniform"](), torch.tensor([1e12], dtype=torch.float64)])
    places = torch.tensor([1e3, 1e9, 1e15], dtype=torch.float64)
    assert runs(values, steps=60).excluded(places).all()


@pytest.mark.parametrize("name", DIAGONAL)
def test_an_eigenvalue_is_as_near_as_is_said(name):
    values = DIAGONAL[name]()
    places = torch.linspace(float(values.min()) - 1, float(values.max()) + 1, 50).double()
    distances = (places[:, None] - values).abs().min(1).values
    for run in runs(values, probes=2).runs:
        assert bool((run.nearest(places) >= distances - 1e-6 * values.abs().max()).all())


def test_rounding_blurs_what_is_near():
    values = torch.cat([DIAGONAL["uniform"](), torch.tensor([30.0], dtype=torch.float64)])
    place = torch.tensor([30.0001], dtype=torch.float64)
    exact = quadrature(Diagonal(values), probes=2, steps=30)
    rough = quadrature(Diagonal(values), probes=2, steps=30, rounding=1e-4)
    assert exact.runs.excluded(place).all()
    assert not rough.runs.excluded(place).any()
