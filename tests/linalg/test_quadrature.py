"""Quadratures and densities of matrices whose spectrum is known."""

import functools

import pytest
import torch
from networks import CASES, dense_eigenvalues, dense_hessian
from spectra import DIAGONAL, Diagonal, total_variation, true_moments

from sharpcli.curvature import Dense
from sharpcli.linalg.bulk import bulk
from sharpcli.linalg.density import density
from sharpcli.linalg.quadrature import choose_probes, quadrature


@functools.cache
def found(name, dtype=torch.float64, probes=None, steps=60, seed=0):
    values = DIAGONAL[name]().to(dtype)
    probes = probes or 20
    return quadrature(Diagonal(values), probes=probes, steps=steps, seed=seed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", DIAGONAL)
def test_mass_in_twenty_bins(name, dtype):
    values = DIAGONAL[name]()
    of = found(name, dtype)
    assert of.rest  # not by way of all eigenvalues
    nodes, weights = of.nodes()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    grid, curve = density(of)
    assert bool((grid.diff() > 0).all())
    assert bool((curve >= 0).all())
    assert float(torch.trapezoid(curve, grid)) == pytest.approx(1, abs=1e-9)
    assert total_variation(grid, curve, values) <= 0.02
    assert abs(float(weights @ nodes) - of.moments()[0].value) <= 1e-9


@pytest.mark.parametrize("name", DIAGONAL)
def test_moments_are_off_by_what_their_errors_say(name):
    deviations = []
    for seed in range(25):
        of = found(name, probes=3, steps=30, seed=seed)
        true = true_moments(DIAGONAL[name]())
        deviations.append(
            [(m.value - t) / m.error for m, t in zip(of.moments(), true, strict=True)]
        )
    z = torch.tensor(deviations)
    assert (z.abs() <= 3).float().mean() >= 0.97
    # Neither too small nor so large that it says nothing.
    assert bool((z.square().mean(0).sqrt() < 1.5).all())
    assert z.square().mean().sqrt() > 0.5


def test_known_outliers_make_high_moments_sharp():
    values = DIAGONAL["spike"]()
    fourth = found("spike").moments()[3]
    assert fourth.error < 1e-4 * fourth.value
    assert abs(fourth.value - float((values**4).mean())) <= 3 * fourth.error


@pytest.mark.parametrize("name", CASES)
def test_a_small_network_is_known_entirely(name):
    dense = dense_hessian(name)
    true = dense_eigenvalues(name)
    operator = Dense(dense)
    of = quadrature(operator, probes=8, steps=80)
    assert operator.products == of.products == len(dense)
    nodes, weights = of.nodes()
    scale = float(true.abs().max())
    assert torch.allclose(nodes.flip(0), true, rtol=0, atol=1e-12 * scale)
    assert bool((weights == 1 / len(dense)).all())
    for moment, value in zip(of.moments(), true_moments(true), strict=True):
        assert abs(moment.value - value) <= moment.error


@pytest.mark.parametrize("name", CASES)
def test_the_quadrature_of_a_small_network(name):
    """Few enough products that not all of the matrix is asked for."""
    dense, true = dense_hessian(name), dense_eigenvalues(name)
    probes, steps = 5, (len(dense) - 1) // 5
    of = quadrature(Dense(dense), probes=probes, steps=steps)
    assert of.products == probes * steps
    for moment, value in zip(of.moments(), true_moments(true), strict=True):
        assert abs(moment.value - value) <= 4 * moment.error


def test_outliers_are_counted_with_their_copies():
    for extra in ([4.0, 5.0, 6.0, 6.0, 9.0], [3.8], [4.0, 4.0, 4.0]):
        values = torch.cat([marchenko_pastur(), torch.tensor(extra, dtype=torch.float64)])
        of = quadrature(Diagonal(values), probes=6, steps=60)
        seen = bulk(of)
        assert seen.outliers.tolist() == pytest.approx(sorted(extra, reverse=True), rel=1e-9)
        assert seen.edge == pytest.approx(float(marchenko_pastur().max()), rel=1e-3)
        assert seen.resolved


def test_a_bulk_alone_has_no_outliers():
    seen = bulk(quadrature(Diagonal(marchenko_pastur()), probes=6, steps=60))
    assert len(seen.outliers) == 0
    assert seen.edge == pytest.approx(float(marchenko_pastur().max()), rel=1e-3)


def test_both_ways_to_the_edge_agree():
    values = torch.cat([marchenko_pastur(), torch.tensor([5.0, 7.0], dtype=torch.float64)])
    whole = bulk(quadrature(Diagonal(values), probes=100, steps=60))
    part = bulk(quadrature(Diagonal(values), probes=6, steps=60))
    assert len(whole.outliers) == len(part.outliers) == 2
    assert part.edge == pytest.approx(whole.edge, rel=1e-3)


def test_too_few_steps_are_said():
    assert not bulk(found("uniform", steps=5)).resolved
    assert bulk(found("uniform")).resolved


def test_nothing_is_below_zero_where_nothing_is():
    for dtype in (torch.float32, torch.float64):
        values = DIAGONAL["positive spike"]().to(dtype)
        of = quadrature(Diagonal(values), probes=4, steps=50)
        assert float(of.nodes()[0].min()) >= 0
        assert float(density(of)[0].min()) >= 0


def test_a_spike_at_zero_stays_there_and_low_rank_is_exact():
    values = torch.zeros(2000, dtype=torch.float64)
    values[:4] = torch.tensor([9.0, 5.0, 2.0, -1.0])
    of = quadrature(Diagonal(values), probes=4, steps=50)
    assert of.top.tolist() == pytest.approx([9, 5, 2])
    assert of.bottom.tolist() == pytest.approx([-1])
    assert of.moments()[3].error < 1e-9
    grid, curve = density(of)
    near = (grid.abs() < 1e-3).nonzero().ravel()
    assert float(torch.trapezoid(curve[near], grid[near])) == pytest.approx(1996 / 2000, abs=1e-4)
    assert len(bulk(of).outliers) == 3


def test_outliers_stay_narrow():
    of = found("spike")
    grid, curve = density(of)
    around = (grid > 11.5) & (grid < 12.5)
    mass = torch.trapezoid(curve[around], grid[around])
    core = (grid > 11.9) & (grid < 12.1)
    assert float(torch.trapezoid(curve[core], grid[core])) == pytest.approx(float(mass), rel=0.01)
    assert float(mass) == pytest.approx(1 / of.size, rel=0.02)


def test_the_zero_matrix():
    of = quadrature(Diagonal(torch.zeros(300)), probes=2, steps=20)
    assert of.nodes()[0].unique().tolist() == [0]
    assert [(m.value, m.error) for m in of.moments()] == [(0, 0)] * 4
    grid, curve = density(of)
    assert float(torch.trapezoid(curve, grid)) == pytest.approx(1)
    assert bulk(of).edge == 0


def test_probes_in_step_and_one_after_the_other_are_the_same():
    values = DIAGONAL["uniform"]()
    alone, together = (
        quadrature(Diagonal(values), probes=5, steps=20, together=width) for width in (1, 3)
    )
    assert torch.allclose(alone.nodes()[0], together.nodes()[0], atol=1e-12)
    assert alone.products == together.products == 100


def test_the_same_seed_gives_the_same():
    moments = [found("uniform", probes=2, steps=10, seed=seed).moments()[1] for seed in (1, 2)]
    values = DIAGONAL["uniform"]()
    again = quadrature(Diagonal(values), probes=2, steps=10, seed=1).moments()[1]
    assert again == moments[0] != moments[1]


def test_large_operators_get_fewer_probes():
    assert [choose_probes(n) for n in (10, 3000, 20_000, 10**6)] == [40, 40, 6, 2]


@functools.cache
def marchenko_pastur():
    """Eigenvalues of XXᵀ/m for Gaussian X (n, m = 2n): up to (1 + √½)² = 2.91."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(600, 1200, generator=generator, dtype=torch.float64)
    return torch.linalg.eigvalsh(factor @ factor.T / 1200)
