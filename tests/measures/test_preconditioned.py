"""λ1 of the preconditioned Hessian against dense matrices, and its threshold."""

import pytest
import torch
from networks import CASES, dense_hessian
from remembered import flat, optimizer_of, remembered

from sharpcli.errors import SharpError
from sharpcli.measures import BUILT_IN
from sharpcli.measures.preconditioned import preconditioned_sharpness

NAME = "preconditioned-sharpness"
ADAM = {"lr": 0.01, "betas": (0.8, 0.95)}


def by_hand(optimizer, parameter):
    """P of one parameter, written from the formulas of the documentation."""
    state, (group,) = optimizer.state[parameter], optimizer.param_groups
    if "alpha" in group:
        return state["square_avg"].sqrt() + group["eps"]
    if "lr_decay" in group:
        return state["sum"].sqrt() + group["eps"]
    first, second = group["betas"]
    squares = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    unbiased = torch.sqrt(squares / (1 - second**4))
    return (1 - first**4) * (unbiased + group["eps"])


@pytest.mark.parametrize("case", ["tanh", "tied", "frozen", "relu"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.Adam, ADAM),
        (torch.optim.AdamW, {**ADAM, "amsgrad": True}),
        (torch.optim.RMSprop, {"lr": 0.01}),
        (torch.optim.Adagrad, {"lr": 0.01}),
    ],
)
def test_the_value_is_that_of_the_dense_matrix(case, kind, settings):
    model, optimizer = optimizer_of(CASES[case], kind, **settings)
    diagonal = flat(model, {p: by_hand(optimizer, p) for p in optimizer.param_groups[0]["params"]})
    root = diagonal.rsqrt()
    true = float(torch.linalg.eigvalsh(root[:, None] * dense_hessian(case) * root)[-1])
    for dtype, tolerance in (("float64", 1e-7), ("float32", 1e-3)):
        given = remembered(CASES[case], optimizer, dtype, measure=NAME, tol=tolerance)
        found = preconditioned_sharpness(given)["preconditioned_sharpness"]
        assert found["status"] == "converged"
        assert abs(found["value"] - true) <= found["error"] + 1e-9 * true
        if dtype == "float64":
            assert found["value"] == pytest.approx(true, rel=1e-6)


def test_the_threshold_and_the_ratio():
    _, optimizer = optimizer_of(CASES["tanh"], torch.optim.Adam, **ADAM)
    given = remembered(CASES["tanh"], optimizer, measure=NAME)
    found = preconditioned_sharpness(given)["preconditioned_sharpness"]
    assert found["threshold"].value == pytest.approx((2 + 2 * 0.8) / ((1 - 0.8) * 0.01))
    assert found["ratio"].value == found["value"] / found["threshold"].value
    assert found["ratio"].error == found["error"] / found["threshold"].value
    averaged = remembered(CASES["tanh"], optimizer, measure=NAME, metadata={"ema": 0.99})
    assert "threshold" not in preconditioned_sharpness(averaged)["preconditioned_sharpness"]
    _, optimizer = optimizer_of(CASES["tanh"], torch.optim.Adagrad, lr=0.1)
    given = remembered(CASES["tanh"], optimizer, measure=NAME)
    assert "threshold" not in preconditioned_sharpness(given)["preconditioned_sharpness"]


def test_a_sample_has_a_sampling_error():
    _, optimizer = optimizer_of(CASES["tanh"], torch.optim.Adam, **ADAM)
    given = remembered(CASES["tanh"], optimizer, measure=NAME, samples=16)
    found = preconditioned_sharpness(given)["preconditioned_sharpness"]
    assert found["sampling_error"] > 0
    assert found["ratio"].sampling_error > 0
    assert found["sampling_status"] == "unreliable"  # 16 of 23 miss kinds of example


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (None, {}, "has no optimizer state"),
        (torch.optim.SGD, {"momentum": 0.9}, "no known preconditioner"),
        (torch.optim.NAdam, {}, "an optimizer that is not known"),
    ],
)
def test_it_applies_to_adaptive_optimizers_alone(kind, settings, said):
    optimizer = None if kind is None else optimizer_of(CASES["tanh"], kind, **settings)[1]
    given = remembered(CASES["tanh"], optimizer, measure=NAME)
    with pytest.raises(SharpError, match=said):
        BUILT_IN[NAME].applies(given)


def test_a_parameter_without_memory_is_named():
    _, optimizer = optimizer_of(CASES["tanh"], torch.optim.Adam, **ADAM)
    last = optimizer.param_groups[0]["params"][-1]
    del optimizer.state[last]
    with pytest.raises(SharpError, match=r"'exp_avg_sq' of '4\.bias'"):
        BUILT_IN[NAME].applies(remembered(CASES["tanh"], optimizer, measure=NAME))
