"""Noise scales, coherence and the Fisher-Rao norm against plain float64 implementations."""

import pytest
import torch
from networks import (
    CASES,
    dense_gauss_newton,
    dense_gradient,
    dense_hessian,
    real_targets,
    relative,
    task,
)
from remembered import remembered
from torch import nn

from sharpcli.errors import SharpError
from sharpcli.measures import BUILT_IN
from sharpcli.measures.coherence import gradient_coherence
from sharpcli.measures.fisher_rao import fisher_rao
from sharpcli.measures.noise_scale import noise_scale
from sharpcli.objective import example_gradients as module
from sharpcli.objective.example_gradients import example_gradients

ALL = {"noise_examples": 10_000, "noise_products": 10_000}
BY_VMAP = ("tanh", "conv", "batch_norm", "attention", "tied", "mapping", "twins", "frozen")


def by_hand(of, split="train"):
    """Sums' gradients (N, n) and weights (N,), one example after the other."""
    model, rows = of.model().double().eval(), of.data(split)
    parameters = [p for p in model.parameters() if p.requires_grad]
    count = len(rows[0]) if isinstance(rows, tuple) else len(rows)
    found, weights = [], []
    for i in range(count):
        if isinstance(rows, tuple):
            batch = tuple(
                c[i : i + 1].double() if c.is_floating_point() else c[i : i + 1] for c in rows
            )
        else:
            batch = {
                k: (v.double() if v.is_floating_point() else v)[None] for k, v in rows[i].items()
            }
        pair = of.loss(of.predict(model, batch), batch)
        total, weight = pair if isinstance(pair, tuple) else (pair, torch.ones_like(pair))
        parts = torch.autograd.grad(
            total.sum(), parameters, allow_unused=True, materialize_grads=True
        )
        found.append(torch.cat([p.reshape(-1) for p in parts]))
        weights.append(float(weight.sum()))
    return torch.stack(found), torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gradients_of_examples(case, dtype, monkeypatch):
    true, weights = by_hand(CASES[case])
    given = remembered(CASES[case], None, dtype)
    alone = []
    plain = module._alone
    monkeypatch.setattr(module, "_alone", lambda *a: alone.append(0) or plain(*a))
    monkeypatch.setattr(module, "_MOST", 5)  # several chunks, the last of them uneven
    order = torch.randperm(len(true), generator=torch.Generator().manual_seed(0))
    found = [*example_gradients(given.objective, given.theta, order)]
    assert relative(torch.cat([g for g, _ in found]), true[order]) < (
        1e-10 if dtype == "float64" else 1e-4
    )
    assert torch.allclose(torch.cat([w for _, w in found]).double(), weights[order])
    if case in BY_VMAP:
        assert len(alone) == 1  # the check of the first


@pytest.mark.parametrize("case", ["tanh", "relu", "tied", "ignored_tokens", "frozen"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_all_examples_give_the_exact_noise_scales(case, dtype):
    sums, weights = by_hand(CASES[case])
    gradient, matrix = dense_gradient(case), dense_hessian(case)
    off = (sums - weights[:, None] * gradient) / weights.mean()
    covariance = off.T @ off / len(off)
    simple = float(covariance.trace() / (gradient @ gradient))
    noise = float((matrix @ covariance).trace() / (gradient @ matrix @ gradient))
    given = remembered(CASES[case], None, dtype, measure="noise-scale", options=ALL, batch_size=5)
    found = noise_scale(given)["noise_scale"]
    limit = 1e-6 if dtype == "float64" else 2e-3
    assert found["simple"]["value"] == pytest.approx(simple, rel=limit)
    assert found["noise"]["value"] == pytest.approx(noise, rel=limit)
    assert found["simple"]["status"] == "converged"
    if noise < 0:
        assert found["noise"]["status"] == "unresolved"
        assert "no batch size" in found["noise"]["advice"]


def test_a_loss_of_one_sum_a_batch_has_the_same_noise_scales():
    def each(outputs, batch):
        weight = batch[0][:, 0].abs() + 0.1
        return (outputs - batch[1]).square().sum(1) * weight, weight

    def summed(outputs, batch):
        return tuple(part.sum() for part in each(outputs, batch))

    found = []
    for loss in (each, summed):
        of = task(lambda: nn.Linear(4, 2), real_targets(4, 2), loss=loss, metrics=None)
        given = remembered(of, None, measure="noise-scale", options=ALL, batch_size=5)
        found.append(noise_scale(given)["noise_scale"])
    assert found[1]["simple"]["value"] == pytest.approx(found[0]["simple"]["value"], rel=1e-9)
    assert found[1]["noise"]["value"] == pytest.approx(found[0]["noise"]["value"], rel=1e-9)


def line(count=1500):
    return task(
        lambda: nn.Linear(4, 2),
        real_targets(4, 2),
        loss=lambda o, b: (o - b[1]).square().sum(1),
        metrics=None,
        train=count,
    )


def test_intervals_of_some_examples_and_of_samples_hold_the_truth():
    of = line()
    exact = noise_scale(
        remembered(
            of,
            None,
            measure="noise-scale",
            options={"noise_examples": 10_000, "noise_products": 300},
        )
    )
    exact = {name: exact["noise_scale"][name] for name in ("simple", "noise")}
    few = {"noise_examples": 200, "noise_products": 16}
    for samples in (None, 600):
        inside = {"simple": 0, "noise": 0}
        for seed in range(12):
            given = remembered(
                of, None, measure="noise-scale", options=few, samples=samples, seed=seed
            )
            found = noise_scale(given)["noise_scale"]
            for name, truth in exact.items():
                low, high = found[name]["interval"]
                inside[name] += low <= truth["value"] <= high
                assert abs(found[name]["value"] - truth["value"]) <= 4 * found[name]["error"]
                assert (found[name].get("sampling_error") is not None) == bool(samples)
        assert min(inside.values()) >= 9


def test_a_gradient_of_zero_has_no_noise_scale():
    of = line()
    given = remembered(of, None, measure="noise-scale", samples=400)
    inputs, targets = of.data("train")
    ones = torch.cat([inputs, torch.ones(len(inputs), 1)], 1).double()
    best = torch.linalg.lstsq(ones, targets.double()).solution
    given.theta = torch.cat([best[:4].T.reshape(-1), best[4]])
    found = noise_scale(given)["noise_scale"]
    for name in ("simple", "noise"):
        assert found[name]["status"] == "unresolved"
        assert found[name]["advice"]
        assert "samples" in found[name]["advice"]


@pytest.mark.parametrize(
    ("facts", "true"),
    [
        ({"optimizer": "sgd", "lr": 0.1, "batch_size": 10}, 0.1 * (1500 / 10 - 1)),
        ({"optimizer": "sgd", "lr": 0.1, "batch_size": 10, "momentum": 0.9}, 0.1 * 1500 / 1.0),
        ({"optimizer": "adam", "lr": 0.1, "batch_size": 10}, None),
        ({"lr": 0.1}, None),
    ],
)
def test_the_noise_scale_of_the_training(facts, true):
    few = {"noise_examples": 10, "noise_products": 2}
    given = remembered(line(), None, measure="noise-scale", metadata=facts, options=few)
    found = noise_scale(given)["noise_scale"]
    if true is None:
        assert "smith" not in found
    else:
        assert found["smith"].value == pytest.approx(true)


@pytest.mark.parametrize("case", ["tanh", "ignored_tokens"])
def test_coherence(case):
    sums, weights = by_hand(CASES[case])
    gradient = dense_gradient(case)
    own = (sums - weights[:, None] * gradient) / weights.mean() + gradient
    true = float(gradient @ gradient / own.square().sum(1).mean())
    given = remembered(
        CASES[case], None, measure="gradient-coherence", options={"noise_examples": 99}
    )
    found = gradient_coherence(given)["gradient_coherence"]
    assert found["examples"].value == pytest.approx(true, rel=1e-6)
    assert found["m"].value == pytest.approx(len(own) * true, rel=1e-6)
    sums, weights = by_hand(CASES[case], "test")
    other = sums.sum(0) / weights.sum()
    assert found["inner"].value == pytest.approx(float(gradient @ other), rel=1e-6)
    cosine = float(torch.cosine_similarity(gradient, other, dim=0))
    assert found["cosine"].value == pytest.approx(cosine, rel=1e-6)


@pytest.mark.parametrize("case", ["tanh", "tied", "ignored_tokens", "conv"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_fisher_rao_norm(case, dtype):
    given = remembered(CASES[case], None, dtype, batch_size=4)
    theta = given.theta.double()
    true = float(theta @ dense_gauss_newton(case) @ theta)
    found = fisher_rao(given)["fisher_rao"]
    assert found["squared"].value == pytest.approx(true, rel=1e-6 if dtype == "float64" else 1e-4)
    assert found["norm"].value == pytest.approx(true**0.5, rel=1e-6 if dtype == "float64" else 1e-4)
    sampled = fisher_rao(remembered(CASES["tanh"], None, samples=20))["fisher_rao"]
    assert sampled["norm"].sampling_status == "unreliable"


def test_the_fisher_rao_norm_is_invariant_to_rescaling():
    of = CASES["relu"]
    given, other = remembered(of, None), remembered(of, None)
    network = other.objective.network
    parts = dict(zip(network.names, network.unflatten(other.theta), strict=True))
    for name in ("0.weight", "0.bias"):
        parts[name] *= 7
    parts["2.weight"] /= 7
    before, after = (fisher_rao(each)["fisher_rao"]["norm"].value for each in (given, other))
    assert after == pytest.approx(before, rel=1e-9)


def test_where_they_do_not_apply():
    with pytest.raises(SharpError, match="no Fisher matrix"):
        BUILT_IN["fisher-rao"].applies(remembered(CASES["twins"], None))
    given = remembered(CASES["tanh"], None)
    given.objective.rows.fixed_batch = 5
    with pytest.raises(SharpError, match="defined on batches"):
        BUILT_IN["noise-scale"].applies(given)
