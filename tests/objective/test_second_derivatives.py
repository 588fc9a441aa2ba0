"""Operations made of others: the same function, with a second derivative."""

import pytest
import torch
from torch.nn import functional

from sharpcli.objective.second_derivatives import MADE_OF_OTHERS

TABLE = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
BATCH = torch.tensor([[0, 2, 2], [5, 6, 1], [3, 3, 3]])
RAGGED, STARTS = torch.tensor([1, 4, 4, 0, 6, 2]), torch.tensor([0, 3, 3, 5])
SHARES = torch.linspace(-1, 2, 9, dtype=torch.float64)


@pytest.mark.parametrize(
    ("mode", "how"),
    [(mode, how) for mode in ("sum", "mean", "max") for how in ({}, {"padding_idx": 2})]
    + [("sum", {"per_sample_weights": SHARES.view(3, 3)})],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_a_bag_is_that_of_pytorch_and_differentiable_twice(mode, how, ragged):
    if ragged:
        how = {
            key: value.reshape(-1)[:6] if key != "padding_idx" else value
            for key, value in how.items()
        }
        places, how = RAGGED, {**how, "offsets": STARTS}
    else:
        places = BATCH

    def outcome(function):
        weight = TABLE.clone().requires_grad_()
        found = function(places, weight, mode=mode, **how)
        (slope,) = torch.autograd.grad(found.sin().sum(), weight, create_graph=True)
        return found, slope

    (found, slope), (true, true_slope) = map(
        outcome, (MADE_OF_OTHERS[functional.embedding_bag], functional.embedding_bag)
    )
    assert torch.allclose(found, true, rtol=1e-14, atol=1e-14)
    assert torch.allclose(slope, true_slope, rtol=1e-13, atol=1e-14)
    hessian = torch.autograd.functional.hessian(
        lambda weight: (
            MADE_OF_OTHERS[functional.embedding_bag](places, weight, mode=mode, **how).sin().sum()
        ),
        TABLE,
    ).reshape(21, 21)
    assert torch.allclose(hessian, hessian.T, rtol=0, atol=1e-13)
    step = 1e-5 * torch.ones_like(TABLE)
    rise, fall = (
        torch.autograd.functional.jacobian(
            lambda weight: functional.embedding_bag(places, weight, mode=mode, **how).sin().sum(),
            TABLE + sign * step,
        )
        for sign in (1, -1)
    )
    change = ((rise - fall) / 2).reshape(-1)
    assert torch.allclose(hessian @ step.reshape(-1), change, rtol=0, atol=1e-12)


def test_the_last_offset_may_end_the_last_bag():
    ends = torch.cat([STARTS, torch.tensor([6])])
    how = {"mode": "sum", "include_last_offset": True}
    found = MADE_OF_OTHERS[functional.embedding_bag](RAGGED, TABLE, ends, **how)
    assert torch.allclose(found, functional.embedding_bag(RAGGED, TABLE, ends, **how))


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_weight_norm_is_that_of_pytorch_with_a_symmetric_second_derivative(dim):
    v = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    g = torch.ones(()) if dim == -1 else torch.arange(1.0, 1.0 + v.shape[dim])
    shape = [size if axis == dim else 1 for axis, size in enumerate(v.shape)]
    g = g.double().view(() if dim == -1 else shape)
    own = MADE_OF_OTHERS[torch._weight_norm]
    assert torch.allclose(own(v, g, dim), torch._weight_norm(v, g, dim), rtol=1e-14)
    mix = torch.linspace(-1, 1, 24, dtype=torch.float64).view(2, 3, 4)
    hessian = torch.autograd.functional.hessian(lambda v: (own(v, g, dim) * mix).sin().sum(), v)
    hessian = hessian.reshape(24, 24)
    assert torch.allclose(hessian, hessian.T, rtol=0, atol=1e-13)
    assert float(hessian.norm()) > 0.1
