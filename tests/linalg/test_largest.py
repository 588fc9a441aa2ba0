"""λ1 alone: against dense matrices, and honest where products are rough."""

import pytest
import torch

from sharpcli.linalg.largest import largest
from sharpcli.linalg.operator import Dense


def of(values, seed=0):
    """A dense matrix with these eigenvalues in random directions."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(
        torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    ).Q
    return turn @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ turn.T


def search(operator, seed=1, **settings):
    return largest(operator, torch.Generator().manual_seed(seed), tolerance=0.05, **settings)


@pytest.mark.parametrize("seed", range(5))
def test_the_value_is_within_its_error_and_the_vector_has_its_image(seed):
    spectrum = torch.rand(300, generator=torch.Generator().manual_seed(seed)) ** 8 * 3
    matrix = of(spectrum, seed)
    found = search(Dense(matrix), seed + 10)
    assert found.met
    true = float(torch.linalg.eigvalsh(matrix)[-1])
    assert abs(found.value - true) <= max(found.residual, found.above) <= 0.05 * found.value
    assert torch.allclose(matrix @ found.vector, found.image, atol=1e-10)
    assert float((found.image - found.value * found.vector).norm()) == pytest.approx(
        found.residual, abs=1e-10
    )


def test_a_flat_spectrum_takes_restarts_and_stays_right():
    matrix = of([1.0 + 0.5 * i / 400 for i in range(400)])
    found = search(Dense(matrix), max_products=200)
    assert found.met
    assert abs(found.value - 1.5 + 0.5 / 400) <= max(found.residual, found.above)


def test_too_few_products_are_said_to_be():
    found = search(Dense(of(range(1, 101))), max_products=3)
    assert not found.met
    assert found.products == 3


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_tiny_matrix_is_solved_completely(size):
    found = search(Dense(of(range(1, size + 1))))
    assert found.met
    assert found.value == pytest.approx(size)


def test_rough_products_that_are_not_symmetric_end_the_search():
    matrix = of([10.0, *[1.0] * 199])
    noise = torch.randn(200, 200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = search(Dense(matrix + noise), rough=True)
    assert not found.met
    assert found.products < 10
    assert found.asymmetry > 0.05 * found.value
