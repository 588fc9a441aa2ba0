"""Both ends of a spectrum, on matrices whose spectra are prescribed."""

import functools

import numpy as np
import pytest
import torch
from spectra import Diagonal

from sharpcli.curvature import Dense
from sharpcli.linalg.eigsh import eigsh, expected_products, krylov_space
from sharpcli.linalg.ends import _open_stretches
from sharpcli.linalg.orthogonal import dots

SIZE = 140


def bulk(count, low=0.0, high=1.0):
    return torch.linspace(low, high, count, dtype=torch.float64).tolist()


SPECTRA = {
    "separated": [100.0, 30, 10, 3, *bulk(SIZE - 4)],
    "double": [10.0, 10, 5, 5, 5, *bulk(SIZE - 5)],
    "triple": [7.0, 7, 7, 4, 4, 4, 2, 2, 2, *bulk(SIZE - 9)],
    "ten-fold": [9.0] * 10 + bulk(SIZE - 10),
    "ten-fold below": [12.0, *[9.0] * 10, *bulk(SIZE - 11)],
    "identity": [1.0] * SIZE,
    "zero": [0.0] * SIZE,
    "low rank": [5.0, 3, 3, 1] + [0.0] * (SIZE - 4),
    "negative": bulk(SIZE, -8, -1),
    "most negative": [2.0, *bulk(SIZE - 2, -1, 1), -50.0],
    "double at the bottom": [3.0, *bulk(SIZE - 3), -4.0, -4.0],
    "uniform": bulk(SIZE, -1, 1),
    "clusters": [3 + 1e-9, 3.0, 3 - 1e-9, 2 + 1e-7, 2.0, *bulk(SIZE - 5)],
    "decades": [10.0 ** (-i / 10) for i in range(SIZE)],
}


def matrix(spectrum, seed=0, dtype=torch.float64):
    """A dense symmetric matrix with these eigenvalues and random eigenvectors."""
    values = torch.tensor(spectrum, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1000 + seed)
    square = torch.randn(len(values), len(values), dtype=torch.float64, generator=generator)
    vectors = torch.linalg.qr(square)[0]
    whole = vectors * values @ vectors.T
    return ((whole + whole.T) / 2).to(dtype)


def true_eigenvalues(dense):
    """All eigenvalues (n,), largest first, by Rayleigh quotients in extended precision.

    What LAPACK gives is off by up to 15 machine epsilons itself.
    """
    exact = dense.double().numpy().astype(np.longdouble)
    vectors = np.linalg.eigh(dense.double().numpy())[1].astype(np.longdouble)
    quotients = (vectors * (exact @ vectors)).sum(0) / (vectors**2).sum(0)
    return torch.from_numpy(np.sort(quotients.astype(np.float64))[::-1].copy())


@functools.cache
def prescribed(name, seed=0):
    """A matrix of `SPECTRA` and its eigenvalues."""
    dense = matrix(SPECTRA[name], seed)
    return dense, true_eigenvalues(dense)


def check(found, truth, k, smallest):
    """Sorted, no ghosts, none outside the spectrum, and each within its own error."""
    assert (found.largest.diff() <= 0).all(), "λ1 ≥ λ2 ≥ …"
    assert (found.smallest.diff() >= 0).all(), "the most negative one first"
    assert ((found.largest - truth[:k]).abs() <= found.largest_errors).all()
    lowest = truth.flip(0)[:smallest]
    assert ((found.smallest - lowest).abs() <= found.smallest_errors).all()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", SPECTRA)
def test_every_eigenvalue_lies_within_its_error(name, seed):
    dense, truth = prescribed(name, seed)
    operator = Dense(dense)
    found = eigsh(operator, 5, smallest=1, tolerance=1e-6, seed=seed, max_products=400)
    assert found.converged
    check(found, truth, 5, 1)
    limit = 1e-6 * float(truth[0].abs()) + 1e-13 * float(truth.abs().max())
    assert float(found.largest_errors.max()) <= limit
    assert found.products == operator.products


@pytest.mark.parametrize("name", ["separated", "triple", "ten-fold", "negative", "decades"])
def test_float32_says_what_its_rounding_leaves(name):
    dense = matrix(SPECTRA[name], dtype=torch.float32)
    found = eigsh(Dense(dense), 10, smallest=1, tolerance=1e-7, max_products=600)
    truth = true_eigenvalues(dense)
    check(found, truth, 10, 1)
    assert float((found.largest - truth[:10]).abs().max()) <= 1e-4 * float(truth.abs().max())


@pytest.mark.parametrize("name", ["ten-fold", "ten-fold below", "identity", "low rank", "triple"])
def test_multiplicities_are_right_also_for_more_copies_than_the_block_is_wide(name):
    for seed in range(3):
        dense, truth = prescribed(name, seed)
        found = eigsh(Dense(dense), 12, smallest=2, tolerance=1e-8, seed=seed, max_products=600)
        assert torch.allclose(found.largest, truth[:12], rtol=0, atol=1e-7)
        check(found, truth, 12, 2)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
@pytest.mark.parametrize("name", ["double", "triple", "ten-fold", "low rank"])
def test_multiplicities_are_right_before_rounding_brings_the_missing_copies(name, tolerance):
    for seed in range(10):
        dense, truth = prescribed(name, seed)
        found = eigsh(Dense(dense), 5, smallest=1, tolerance=tolerance, seed=seed)
        check(found, truth, 5, 1)


def test_no_ghosts_however_long_it_runs():
    # Without reorthogonalisation, copies of 100 turn up in place of what comes next.
    dense = matrix([100.0, *bulk(SIZE - 1)])
    found = eigsh(Dense(dense), 10, tolerance=1e-14, max_products=140)
    assert int((found.largest > 50).sum()) == 1
    assert torch.allclose(found.largest, true_eigenvalues(dense)[:10], atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["separated", "double", "triple", "negative", "clusters"])
def test_restarts_with_a_small_basis_find_the_same(name, seed):
    dense, truth = prescribed(name, seed)
    found = eigsh(
        Dense(dense), 4, smallest=2, tolerance=1e-6, max_products=2000, max_basis=20, seed=seed
    )
    assert found.converged
    assert found.krylov.size <= 30
    assert found.krylov.restarts > 5
    check(found, truth, 4, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("smallest", [0, 1])
def test_small_matrices_are_solved_whole(size, smallest):
    dense = matrix(bulk(size, -2, 3))
    k = size - smallest
    if k < 1:
        k, smallest = 1, 0
    found = eigsh(Dense(dense), k, smallest=smallest, tolerance=1e-10)
    assert found.converged
    assert found.products == size
    check(found, true_eigenvalues(dense), k, smallest)


@pytest.mark.parametrize("spectrum", [[0.0], [-3.0], [2.0, 2.0], [0.0, 0.0, 0.0]])
def test_degenerate_small_matrices(spectrum):
    found = eigsh(Dense(matrix(spectrum)), len(spectrum))
    assert found.converged
    assert torch.allclose(found.largest, torch.tensor(spectrum, dtype=torch.float64), atol=1e-14)


@pytest.mark.parametrize(("k", "smallest"), [(0, 0), (6, 0), (5, 1), (-1, 0)])
def test_more_than_there_are_is_refused(k, smallest):
    with pytest.raises(ValueError, match="of an operator of size 5"):
        eigsh(Dense(matrix(bulk(5))), k, smallest=smallest)


@pytest.mark.parametrize("name", ["uniform", "negative", "clusters"])
@pytest.mark.parametrize("budget", [6, 10, 20])
def test_a_solve_that_runs_out_of_products_says_so_and_errs_on_the_safe_side(name, budget):
    dense, truth = prescribed(name)
    found = eigsh(Dense(dense), 3, smallest=1, tolerance=1e-9, max_products=budget)
    assert not found.converged
    assert found.products <= budget
    # A Ritz value never leaves the spectrum, and some eigenvalue lies within its residual.
    for value, error in zip(found.largest, found.largest_errors, strict=True):
        assert truth[-1] - 1e-12 <= value <= truth[0] + 1e-12
        assert float((truth - value).abs().min()) <= float(error)


def test_converged_is_told_for_each_pair():
    spectrum = [100.0, 50.0, *bulk(SIZE - 2)]
    found = eigsh(Dense(matrix(spectrum)), 4, tolerance=1e-8, max_products=22)
    assert found.largest_converged[:2] == [True, True]
    assert found.largest_converged[2:] == [False, False]


def test_residuals_and_vectors_belong_to_the_values():
    dense = matrix(SPECTRA["separated"])
    found = eigsh(Dense(dense), 5, tolerance=1e-3)
    residuals = (dense @ found.vectors.T - found.vectors.T * found.largest).norm(dim=0)
    assert bool((residuals <= found.largest_errors).all())
    assert float((dots(found.vectors, found.vectors) - torch.eye(5)).abs().max()) < 1e-13


def test_the_same_seed_gives_the_same_and_leaves_the_global_generator_alone():
    dense = matrix(SPECTRA["triple"])
    state = torch.get_rng_state()
    first, again, other = (eigsh(Dense(dense), 3, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.largest, again.largest)
    assert not torch.equal(first.largest, other.largest)


def test_progress_counts_products():
    seen = []
    found = eigsh(
        Dense(matrix(SPECTRA["double"])), 2, progress=lambda done, total: seen.append(done)
    )
    assert seen == sorted(seen)
    assert seen[-1] == found.products


@pytest.mark.parametrize("products", [2, 20, 500])
def test_a_krylov_space_is_an_orthonormal_basis_with_its_projection(products):
    dense = matrix(SPECTRA["decades"])
    operator = Dense(dense)
    space = krylov_space(operator, products, seed=1)
    assert space.size == operator.products == min(products, SIZE)
    overlap = dots(space.basis, space.basis) - torch.eye(space.size)
    assert float(overlap.abs().max()) < 1e-13
    assert torch.allclose(space.basis @ dense @ space.basis.T, space.projected, atol=1e-13)


def piled_up(*lowest):
    """Twelve outliers far out, ten thousand curvatures within 1e-6 of zero, a few below."""
    generator = torch.Generator().manual_seed(0)
    pile = (torch.rand(10_000, generator=generator, dtype=torch.float64) - 0.5) * 2e-6
    bulk = torch.logspace(-3, -0.5, 200, dtype=torch.float64)
    outliers = torch.linspace(2, 12, 12, dtype=torch.float64)
    return Diagonal(torch.cat([outliers, bulk, pile, torch.tensor(lowest, dtype=torch.float64)]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lowest", [(-0.02, -0.015, -0.01), (-0.012,), (-0.3, -0.002)])
def test_a_smallest_value_is_not_taken_from_the_pile_at_zero(lowest, seed):
    found = eigsh(piled_up(*lowest), 5, smallest=1, seed=seed)
    assert found.smallest_settled == [True]
    assert abs(float(found.smallest) - lowest[0]) <= float(found.smallest_errors)


def test_where_nothing_lies_below_the_pile_patience_ends():
    operator = piled_up()
    operator.values.abs_()
    found = eigsh(operator, 5, smallest=1)
    assert found.converged
    true = float(operator.values.min())
    assert true <= float(found.smallest) <= true + float(found.smallest_errors)
    assert 60 <= found.products <= 62


def test_patience_does_not_outlast_the_products_allowed():
    found = eigsh(piled_up(-0.02), 5, smallest=1, max_products=24)
    assert found.products <= 24
    assert found.smallest_settled == [False]


@pytest.mark.parametrize("smallest", [0, 1])
def test_progress_expects_more_only_while_it_goes_on(smallest):
    values = torch.cat([torch.linspace(1, 10, 20), torch.full((400,), 1e-3), torch.tensor([-5.0])])
    totals = []
    found = eigsh(
        Dense(torch.diag(values.double())),
        3,
        smallest=smallest,
        progress=lambda done, total: totals.append((done, total)),
    )
    assert found.converged
    assert totals[-1][0] == found.products
    expected = expected_products(3, smallest)
    assert all(total <= max(expected, done + 2) for done, total in totals)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hundreds_of_near_eigenvalues_are_found_in_a_few_products_each(dtype):
    # Neighbours are nearer than the tolerance: they are no copies of one another.
    values = 0.98 ** torch.arange(400, dtype=torch.float64)
    rest = torch.linspace(0, 2e-4, 1600, dtype=torch.float64) - 1e-4
    spectrum = torch.cat([values, rest]).sort(descending=True).values
    found = eigsh(Diagonal(spectrum.to(dtype)), 150, smallest=1)
    assert found.converged
    check(found, spectrum.to(dtype).double(), 150, 1)
    assert found.products <= 4 * 150
    assert found.passes <= found.products / 5


def test_one_missed_copy_moves_what_follows_by_one_number():
    points = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    open_at = [0.0, 0.002, 0.003, 0.0, 0.5, 0.0]
    stretches = _open_stretches(points, torch.tensor(open_at))
    assert stretches == [(4.0, False), (6.0, True)]


def test_triples_among_many_values_keep_their_number():
    values = torch.cat([torch.linspace(1, 2, 60).repeat_interleave(3), torch.zeros(400)])
    spectrum = values.double().sort(descending=True).values
    for seed in range(3):
        found = eigsh(Diagonal(spectrum), 100, smallest=1, seed=seed)
        assert found.converged
        check(found, spectrum, 100, 1)
