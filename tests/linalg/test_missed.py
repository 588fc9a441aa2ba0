"""What a Krylov space says of eigenvalues that it has not found, against those there are."""

import math

import pytest
import torch
from spectra import Diagonal

from sharpcli.linalg.ends import both_ends, without_missed
from sharpcli.linalg.krylov import expand, restart, start_space, widen
from sharpcli.linalg.missed import hidden_shares, missed_probability

SIZE = 300


def spectrum(name):
    generator = torch.Generator().manual_seed(5)
    bulk = torch.rand(SIZE, generator=generator, dtype=torch.float64)
    first = {"dominant": [1000.0, 900.0], "plain": [], "double": [9.0, 9.0, 4.0]}[name]
    values = torch.cat([torch.tensor(first, dtype=torch.float64), bulk])[:SIZE]
    return values.sort(descending=True).values


def grown(values, blocks, seed=0, restarts=(), widened=()):
    """A space of so many blocks, and each eigenvector's coordinates in the random rows (r, n)."""
    operator, generator = Diagonal(values), torch.Generator().manual_seed(seed)
    space = start_space(operator, 2, len(values), generator)
    random = [space.pending.clone()]
    for block in range(blocks):
        if block in restarts:
            restart(space, 8, 4)
        if block in widened:
            waiting = space.width
            widen(space, 2, generator)
            random.append(space.pending[waiting:].clone())
        expand(space, operator, generator)
    return space, torch.cat(random)


@pytest.mark.parametrize("name", ["dominant", "plain", "double"])
@pytest.mark.parametrize(
    ("restarts", "widened"), [((), ()), ((10, 14), ()), ((), (8,)), ((9,), (9,)), ((12,), (6,))]
)
def test_every_eigenvector_lies_in_the_ellipsoid_that_is_left_for_it(name, restarts, widened):
    values = spectrum(name)
    space, random = grown(values, 16, restarts=restarts, widened=widened)
    shares = hidden_shares(space.history(), values, 1e-11 * float(values[0]))
    assert shares.shape == (SIZE, len(random))
    # An ellipsoid that holds w is at least as long as w.
    lengths = random.square().sum(0)
    assert bool((shares[:, 0] >= lengths * (1 - 1e-3) - 1e-12).all())


def test_what_lies_beyond_the_spectrum_would_have_been_seen():
    values = spectrum("plain")
    space, _ = grown(values, 20)
    shares = hidden_shares(space.history(), torch.tensor([1.2, 2.0, 1e6]), 1e-13)
    chance = missed_probability(shares, 0, SIZE)
    assert chance.max() < 1e-6
    assert bool((chance.diff() < 0).all())


def test_the_probability_is_that_of_a_chi_squared_variable():
    shares = torch.tensor([[0.02, 0.001]], dtype=torch.float64)
    assert float(missed_probability(shares, 0, 100)) == pytest.approx(1 - math.exp(-1.0))
    assert float(missed_probability(shares, 1, 100)) == pytest.approx(math.erf(math.sqrt(0.05)))
    assert float(missed_probability(shares, 2, 100)) == 1.0


@pytest.mark.parametrize("name", ["dominant", "plain", "double"])
def test_a_value_and_its_reach_hold_the_eigenvalue_of_its_number(name):
    values, missed = spectrum(name), 0
    for seed in range(12):
        for blocks in (4, 7, 11, 16):
            space, _ = grown(values, blocks, seed=seed)
            top, bottom = both_ends(space, 4, 2, 1e-3)
            top, bottom = without_missed(top, space), without_missed(bottom, space)
            missed += int(((top.values[:4] - values[:4]).abs() > top.errors).sum())
            lowest = values.flip(0)[:2]
            missed += int(((-bottom.values[:2] - lowest).abs() > bottom.errors).sum())
    assert missed == 0


def test_rounding_leaves_room_for_what_it_may_hide():
    values = spectrum("dominant")
    space, _ = grown(values, 12)
    open_point = torch.tensor([500.0], dtype=torch.float64)
    exact = missed_probability(hidden_shares(space.history(), open_point, 0.0), 0, SIZE)
    noisy = missed_probability(hidden_shares(space.history(), open_point, 100.0), 0, SIZE)
    assert float(exact) < 1e-9
    assert float(noisy) > 0.5
