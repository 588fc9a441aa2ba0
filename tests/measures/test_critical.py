"""Critical and directional sharpness against closed forms and dense matrices."""

import pytest
import torch
from networks import CASES, dense_gradient, dense_hessian, real_targets, task
from remembered import flat, optimizer_of, remembered
from torch import nn

from sharpcli.errors import SharpError
from sharpcli.measures.critical import critical_sharpness
from sharpcli.measures.kinks import has_kinks
from sharpcli.objective.objective import Objective

NAME = "critical-sharpness"
LINE = task(
    lambda: nn.Linear(4, 2),
    real_targets(4, 2),
    loss=lambda o, b: (o - b[1]).square().sum(1),
    metrics=None,
)


def quadratic():
    """The Hessian and the gradient of LINE, whose loss is a quadratic."""
    model, (inputs, targets) = LINE.model().double(), LINE.data("train")
    parameters = [model.weight, model.bias]
    mean = (model(inputs.double()) - targets.double()).square().sum(1).mean()
    parts = torch.autograd.grad(mean, parameters, create_graph=True)
    gradient = torch.cat([p.reshape(-1) for p in parts])
    rows = [
        torch.cat(
            [
                r.reshape(-1)
                for r in torch.autograd.grad(
                    e, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            ]
        )
        for e in gradient
    ]
    return torch.stack(rows), gradient.detach()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rate", [None, 1e-5, 0.1, 1e3])
def test_on_a_quadratic_both_are_the_ratio(monkeypatch, dtype, rate):
    matrix, gradient = quadratic()
    true = float(gradient @ matrix @ gradient / (gradient @ gradient))
    passes = []
    plain = Objective.loss
    monkeypatch.setattr(
        Objective, "loss", lambda self, theta: passes.append(0) or plain(self, theta)
    )
    facts = {"optimizer": "sgd", **({"lr": rate} if rate else {})}
    given = remembered(LINE, None, dtype, metadata=facts, measure=NAME, batch_size=5)
    found = critical_sharpness(given)["critical_sharpness"]
    assert found["direction"] == "gradient"
    assert found["forward_passes"] == len(passes) <= 12
    assert found["status"] == found["directional"].status == "converged"
    assert found["value"] == pytest.approx(true, rel=1e-6 if dtype == "float64" else 1e-3)
    low, high = found["step"]
    assert low <= 2 / true <= high <= low * 17 / 16
    assert found["error"] == pytest.approx(
        max(2 / low - found["value"], found["value"] - 2 / high), rel=1e-2
    )
    ratio = found["directional"]
    assert ratio.value == pytest.approx(true, rel=1e-6 if dtype == "float64" else 1e-2)
    assert abs(ratio.value - true) <= ratio.error + 1e-9 * true


def directions(case):
    """Optimizers, and the updates that their last steps would repeat."""
    gradient = dense_gradient(case)
    for kind, settings in (
        (torch.optim.Adam, {"lr": 0.01}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.RMSprop, {"lr": 0.01}),
        (torch.optim.Adagrad, {"lr": 0.01}),
        (torch.optim.SGD, {"lr": 0.1}),
    ):
        model, optimizer = optimizer_of(CASES[case], kind, **settings)
        own = {p: optimizer.state[p] for p in optimizer.param_groups[0]["params"]}
        for p, state in own.items():  # downhill, so that there is a crossing
            if "exp_avg" in state or state.get("momentum_buffer") is not None:
                key = "exp_avg" if "exp_avg" in state else "momentum_buffer"
                place = [q is p for q in own].index(True)
                sizes = [q.numel() for q in own]
                state[key] = gradient.split(sizes)[place].reshape(p.shape).clone() * 3
        if kind is torch.optim.Adam:
            parts = {
                p: s["exp_avg"] / (1 - 0.9**4) / ((s["exp_avg_sq"] / (1 - 0.999**4)).sqrt() + 1e-8)
                for p, s in own.items()
            }
            yield "adam", optimizer, flat(model, parts)
        elif kind is torch.optim.RMSprop:
            root = flat(model, {p: s["square_avg"].sqrt() + 1e-8 for p, s in own.items()})
            yield "rmsprop", optimizer, gradient / root
        elif kind is torch.optim.Adagrad:
            root = flat(model, {p: s["sum"].sqrt() + 1e-10 for p, s in own.items()})
            yield "adagrad", optimizer, gradient / root
        elif settings.get("momentum"):
            yield "sgd", optimizer, flat(model, {p: s["momentum_buffer"] for p, s in own.items()})
        else:
            yield "gradient", optimizer, gradient


@pytest.mark.parametrize("case", ["tanh", "tied"])
def test_along_each_optimizers_update(case):
    matrix, gradient = dense_hessian(case), dense_gradient(case)
    for name, optimizer, along in directions(case):
        given = remembered(
            CASES[case], optimizer, measure=NAME, options={"exact_directional": True}
        )
        found = critical_sharpness(given)["critical_sharpness"]
        true = float(along @ matrix @ along / (along @ gradient))
        assert found["direction"] == name
        assert found["directional_exact"].value == pytest.approx(true, rel=1e-9)
        ratio = found["directional"]
        assert ratio.error is not None
        assert abs(ratio.value - true) <= 2 * ratio.error
        theta, loss = given.theta, given.objective.loss
        low, high = found["step"]
        assert loss(theta - low * along) <= loss(theta) < loss(theta - high * along)
        assert found["forward_passes"] <= 12


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", ["relu", "conv"])
def test_kinks_are_not_taken_for_curvature(case, dtype):
    matrix, gradient = dense_hessian(case), dense_gradient(case)
    true = float(gradient @ matrix @ gradient / (gradient @ gradient))
    given = remembered(CASES[case], None, dtype, measure=NAME)
    assert has_kinks(given.objective, given.theta)
    ratio = critical_sharpness(given)["critical_sharpness"]["directional"]
    assert ratio.value == pytest.approx(true, rel=1e-9 if dtype == "float64" else 1e-3)
    assert not given.warnings


@pytest.mark.parametrize("case", ["tanh", "tied"])
def test_smooth_losses_have_no_kinks(case):
    given = remembered(CASES[case], None, measure=NAME)
    assert not has_kinks(given.objective, given.theta)


def test_an_update_that_climbs_is_called_out():
    _, optimizer = optimizer_of(LINE, torch.optim.SGD, lr=0.1, momentum=0.9)
    _, gradient = quadratic()
    weight, bias = optimizer.param_groups[0]["params"]
    optimizer.state[weight]["momentum_buffer"] = -gradient[:8].reshape(2, 4)
    optimizer.state[bias]["momentum_buffer"] = -gradient[8:]
    given = remembered(LINE, optimizer, measure=NAME)
    found = critical_sharpness(given)["critical_sharpness"]
    assert found["status"] == "lower_bound"
    assert "no direction of descent" in given.warnings[0]


def test_a_zero_update_is_refused():
    flat_loss = task(
        lambda: nn.Linear(4, 2), real_targets(4, 2), loss=lambda o, b: 0 * o.sum(1), metrics=None
    )
    with pytest.raises(SharpError, match="is zero"):
        critical_sharpness(remembered(flat_loss, None, measure=NAME))


def test_a_state_that_is_unknown_gives_the_gradient_and_says_so():
    _, optimizer = optimizer_of(CASES["tanh"], torch.optim.NAdam)
    given = remembered(CASES["tanh"], optimizer, measure=NAME)
    assert critical_sharpness(given)["critical_sharpness"]["direction"] == "gradient"
    assert "the update of this optimizer is not known" in given.warnings[0]


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_intervals_of_samples_hold_the_numbers_of_all_data(momentum):
    line = task(
        lambda: nn.Linear(4, 2),
        real_targets(4, 2),
        loss=lambda o, b: (o - b[1]).square().sum(1),
        metrics=None,
        train=2000,
    )
    _, optimizer = optimizer_of(line, torch.optim.SGD, lr=0.1, momentum=0.9)
    whole = remembered(line, None)
    gradient = whole.value_and_gradient[1]
    weight, bias = optimizer.param_groups[0]["params"]
    optimizer.state[weight]["momentum_buffer"] = gradient[:8].reshape(2, 4)
    optimizer.state[bias]["momentum_buffer"] = gradient[8:]
    state = optimizer if momentum else None
    true = critical_sharpness(remembered(line, state, measure=NAME))["critical_sharpness"]
    inside, share = 0, []
    for seed in range(12):
        given = remembered(line, state, measure=NAME, samples=300, seed=seed)
        found = critical_sharpness(given)["critical_sharpness"]
        off = abs(found["value"] - true["value"])
        inside += off <= 1.96 * found["sampling_error"]
        share.append(off / found["sampling_error"])
        ratio = found["directional"]
        assert abs(ratio.value - true["directional"].value) <= 4 * ratio.sampling_error
    assert inside >= 10
    assert max(share) > 0.2  # the errors are no excuse
