"""The trace, and whether its standard error means what it says."""

import pytest
import torch
from networks import CASES, dense_hessian

from sharpcli.curvature import Dense
from sharpcli.linalg.eigsh import eigsh, krylov_space
from sharpcli.linalg.trace import trace


@pytest.mark.parametrize("name", CASES)
def test_ninety_nine_of_a_hundred_seeds_are_within_three_standard_errors(name):
    dense = dense_hessian(name)
    true = float(dense.trace())
    within, deviations = 0, []
    for seed in range(100):
        space = krylov_space(Dense(dense), 16, seed=seed)
        found = trace(Dense(dense), space, max_probes=16, seed=seed + 1)
        assert space.size < len(dense)
        deviations.append((found.value - true) / found.standard_error)
        within += abs(deviations[-1]) <= 3
    assert within >= 99
    # Neither too small nor so large that it says nothing.
    assert 0.7 < torch.tensor(deviations).square().mean().sqrt() < 1.3


def test_a_complete_space_gives_the_trace_without_products():
    dense = dense_hessian("unused")
    operator = Dense(dense)
    space = krylov_space(operator, len(dense))
    found = trace(operator, space)
    assert found.products == 0
    assert found.converged
    assert abs(found.value - float(dense.trace())) <= 1e-13 * float(dense.trace().abs())


def test_low_rank_needs_no_luck():
    vectors = torch.linalg.qr(torch.randn(200, 4, dtype=torch.float64))[0]
    dense = vectors * torch.tensor([9.0, 5, 2, -1], dtype=torch.float64) @ vectors.T
    operator = Dense(dense)
    space = eigsh(operator, 3, smallest=1, tolerance=1e-6).krylov
    found = trace(operator, space)
    assert found.converged
    assert found.products == 6
    assert abs(found.value - 15) <= 3 * found.standard_error
    assert found.standard_error < 1e-12


def test_the_error_wanted_is_the_error_got():
    dense = torch.diag(torch.linspace(0.5, 1.5, 400, dtype=torch.float64))
    rotation = torch.linalg.qr(torch.randn(400, 400, dtype=torch.float64))[0]
    operator = Dense(rotation @ dense @ rotation.T)
    space = krylov_space(operator, 10)
    rough = trace(operator, space, relative_error=0.03)
    fine = trace(operator, space, relative_error=0.008)
    assert rough.converged
    assert fine.converged
    assert rough.standard_error <= 0.03 * rough.value
    assert fine.standard_error <= 0.008 * fine.value
    assert fine.products > rough.products


def test_running_out_of_probes_is_said():
    dense = torch.diag(torch.tensor([1.0, -1.0] * 100, dtype=torch.float64))
    rotation = torch.linalg.qr(torch.randn(200, 200, dtype=torch.float64))[0]
    operator = Dense(rotation @ dense @ rotation.T)
    found = trace(operator, krylov_space(operator, 10), relative_error=0.01, max_probes=10)
    assert not found.converged
    assert found.products == 10


def test_the_zero_matrix_has_trace_zero():
    operator = Dense(torch.zeros(50, 50, dtype=torch.float64))
    found = trace(operator, krylov_space(operator, 10))
    assert found.value == 0
    assert found.standard_error == 0
    assert found.converged


def test_the_same_seed_gives_the_same():
    operator = Dense(dense_hessian("tanh"))
    space = krylov_space(operator, 10)
    values = [trace(operator, space, seed=seed).value for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
