"""Inner products and orthonormal bases, also where float32 or repeated vectors make it hard."""

import pytest
import torch

from sharpcli.linalg.orthogonal import dots, extend, project_out, random_rows


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def orthonormal(rows):
    overlap = dots(rows, rows)
    return float((overlap - torch.eye(len(rows), dtype=torch.float64)).abs().max())


@pytest.mark.parametrize("size", [3, 2**14, 2**14 + 1, 3 * 2**14 - 5])
def test_dots_sum_float32_in_float64(size):
    left, right = torch.randn(2, size, generator=generator()), torch.randn(3, size)
    left[0, 0], right[0, 0], right[:, -1] = 1e8, 1.0, 0.5  # float32 sums would lose the rest
    true = left.double() @ right.double().T
    assert dots(left, right).dtype == torch.float64
    assert torch.allclose(dots(left, right), true, rtol=1e-14, atol=1e-9)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_project_out_leaves_nothing_of_the_basis(dtype, limit):
    basis = torch.linalg.qr(torch.randn(50, 10, dtype=torch.float64, generator=generator()))[0].T
    basis = basis.to(dtype).contiguous()
    rows = 1e3 * basis[:2] + 1e-3 * torch.randn(2, 50, dtype=dtype, generator=generator(1))
    before = rows.double().clone()
    removed = project_out(rows, basis)
    assert float(dots(basis, rows).abs().max()) <= limit * 1e-3  # against what is left: ~1e-3
    rebuilt = rows.double() + removed.T @ basis.double()
    assert torch.allclose(rebuilt, before, atol=1e3 * limit)


def test_random_rows_are_the_same_for_every_dtype():
    single = random_rows(3, torch.empty(0, 7), generator(4))
    double = random_rows(3, torch.empty(0, 7, dtype=torch.float64), generator(4))
    assert torch.equal(single.double(), double)


def test_extend_gives_orthonormal_rows_and_the_coefficients():
    basis = torch.linalg.qr(torch.randn(30, 6, dtype=torch.float64, generator=generator()))[0].T
    rows = torch.randn(4, 30, dtype=torch.float64, generator=generator(1))
    project_out(rows, basis)
    kept = rows.clone()
    new, coupling = extend(rows, basis, 1.0, generator(2))
    assert orthonormal(torch.cat([basis, new])) < 1e-13
    assert torch.allclose(coupling.T @ new, kept, atol=1e-13)


def test_extend_replaces_rows_that_are_spanned_already():
    row = torch.randn(1, 30, dtype=torch.float64, generator=generator())
    rows = torch.cat([row, 2 * row, torch.zeros_like(row)])
    new, coupling = extend(rows.clone(), rows[:0], 1.0, generator(1))
    assert orthonormal(new) < 1e-13
    assert not coupling[1:].any()
    assert torch.allclose(coupling.T @ new, rows, atol=1e-13)


def test_extend_stops_where_the_space_is_full():
    basis = torch.eye(5, dtype=torch.float64)[:4]
    rows = torch.tensor([[0.0, 0, 0, 0, 2], [0, 0, 0, 0, 3]], dtype=torch.float64)
    new, coupling = extend(rows.clone(), basis, 1.0, generator())
    assert new.shape == (1, 5)
    assert torch.allclose(coupling.T @ new, rows)
    nothing, _ = extend(rows, torch.eye(5, dtype=torch.float64), 1.0, generator())
    assert nothing.shape == (0, 5)
