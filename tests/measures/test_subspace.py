"""Random subspaces: the same columns everywhere, and the pseudoinverse of NumPy."""

import numpy as np
import pytest
import torch
from networks import CASES, objective

from sharpcli.measures import subspace
from sharpcli.measures.subspace import FullSpace, RandomSubspace


def theta(dtype=torch.float64):
    return objective(CASES["tanh"])[1].to(dtype)


def columns(space):
    """A (n, p), a column at a time through the public interface."""
    unit = torch.eye(space.dimensions, dtype=torch.float64)
    return torch.stack([space.lift(row) for row in unit], dim=1)


@pytest.fixture
def regenerated(monkeypatch):
    """A subspace whose columns are made anew at every use."""

    def make(like, dimensions, seed):
        with monkeypatch.context() as patch:
            patch.setattr(subspace, "available_memory", lambda device: 0)
            return RandomSubspace(like, dimensions, seed)

    return make


def test_columns_are_standard_normal_and_independent():
    matrix = columns(RandomSubspace(torch.zeros(4000, dtype=torch.float64), 20, 0))
    assert abs(float(matrix.mean())) < 0.02
    assert float(matrix.norm(dim=0).mean()) == pytest.approx(4000**0.5, rel=0.02)  # not unit norm
    overlap = (matrix.T @ matrix / 4000).fill_diagonal_(0)
    assert float(overlap.abs().max()) < 5 / 4000**0.5


def test_columns_that_are_made_anew_are_those_that_are_kept(regenerated):
    like = theta()
    kept, anew = RandomSubspace(like, 7, 3), regenerated(like, 7, 3)
    assert kept._kept is not None
    assert anew._kept is None
    assert torch.equal(columns(kept), columns(anew))
    gradient = torch.randn(len(like), dtype=torch.float64)
    point = torch.randn(7, dtype=torch.float64)
    assert torch.allclose(kept.coordinates(like), anew.coordinates(like), rtol=1e-12)
    assert torch.allclose(kept.pull(gradient), anew.pull(gradient), rtol=1e-12)
    assert torch.allclose(kept.lift(point), anew.lift(point), rtol=1e-12)


@pytest.mark.parametrize("dimensions", [1, 7, 60])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_coordinates_are_those_of_the_pseudoinverse(dimensions, dtype):
    like = theta(dtype)
    space = RandomSubspace(like, dimensions, 1)
    matrix = columns(RandomSubspace(theta(), dimensions, 1)).numpy()
    true = np.linalg.pinv(matrix) @ like.double().numpy()
    found = space.coordinates(like)
    assert found.dtype == dtype
    limit = 1e-11 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(found.double().numpy(), true, rtol=0, atol=limit * abs(true).max())


def test_lift_and_pull_are_transposes():
    like = theta()
    space = RandomSubspace(like, 9, 2)
    gradient, point = torch.randn(len(like)).double(), torch.randn(9).double()
    assert float(space.lift(point) @ gradient) == pytest.approx(float(point @ space.pull(gradient)))


def test_seeds_differ_and_leave_the_global_generator_alone():
    like, state = theta(), torch.get_rng_state()
    first, again, other = (columns(RandomSubspace(like, 3, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_more_dimensions_begin_with_the_same_columns():
    like = theta()
    assert torch.equal(
        columns(RandomSubspace(like, 9, 4))[:, :3], columns(RandomSubspace(like, 3, 4))
    )


def test_the_full_space_changes_nothing():
    like = theta()
    space = FullSpace()
    assert space.coordinates(like) is like
    assert space.lift(like) is like
    assert space.pull(like) is like
    assert space.dimensions is None
