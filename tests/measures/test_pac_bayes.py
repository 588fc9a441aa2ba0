"""PAC-Bayes flatness: in closed form, against plain float64 draws, and where there is no σ."""

import math
from types import SimpleNamespace

import pytest
import torch
from networks import CASES, context, mlp, task
from plain_rises import Plain, options
from torch import nn

from sharpcli.errors import SharpError
from sharpcli.measures.pac_bayes import has_accuracy, pac_bayes

COUNT = 400


def each_its_own(weight):
    """Example i is right where the weights to its class, 1 for it and 0 for the other, say so."""

    def model():
        linear = nn.Linear(COUNT, 2, bias=False)
        with torch.no_grad():
            linear.weight[0] = weight
            linear.weight[1] = -weight
        return linear

    def data(count, _):
        return torch.eye(COUNT)[:count], torch.zeros(count, dtype=torch.int64)

    return task(model, data, train=COUNT)


def separable(count=200):
    """Two classes that a small network tells apart after its training."""

    def data(n, generator):
        inputs = torch.randn(n, 4, generator=generator)
        return inputs, (inputs[:, 0] + inputs[:, 1] > 0).long()

    def model():
        net = mlp(4, 8, 2)
        inputs, targets = data(count, torch.Generator().manual_seed(0))
        step = torch.optim.Adam(net.parameters(), lr=0.05)
        for _ in range(60):
            step.zero_grad()
            nn.functional.cross_entropy(net(inputs), targets).backward()
            step.step()
        return net

    return task(model, data, train=count)


SEPARABLE = separable()


def measured(of, dtype="float64", given=None, **settings):
    own = options("pac-bayes", **(given or {}))
    return pac_bayes(context(of, dtype, options=own, **settings))["pac_bayes"]


@pytest.mark.parametrize("seed", range(3))
def test_where_each_example_has_its_own_weight_sigma_is_known(seed):
    # Wrong where √2 σ z > 2w: σ = √2 w / q with q the 90 % quantile of the normal distribution.
    quantile = 1.2815515655446004
    found = measured(each_its_own(0.7), seed=seed)
    true = math.sqrt(2) * 0.7 / quantile
    assert abs(found["isotropic"]["value"] - true**-2) <= 3 * found["isotropic"]["error"]
    low, high = found["isotropic"]["interval"]
    assert low < found["isotropic"]["sigma"] < high
    assert found["isotropic"]["error"] < 0.2 * found["isotropic"]["value"]
    relative = math.sqrt((true**2 - 1e-6) / 0.7**2)
    assert abs(found["magnitude"]["value"] - relative**-2) <= 3 * found["magnitude"]["error"]
    assert found["evaluations"] <= 150
    assert found["accuracy"] == 1.0


def test_plain_draws_at_its_sigma_lower_the_accuracy_by_a_tenth():
    at, generator = Plain(SEPARABLE), torch.Generator().manual_seed(5)
    found = measured(SEPARABLE)
    start = at.accuracy(torch.zeros_like(at.theta))
    assert start == found["accuracy"]
    for kind in ("isotropic", "magnitude"):
        entry = found[kind]
        share = 3 * entry["error"] / entry["value"] / 2
        falls = []
        for factor in (math.exp(-share), math.exp(share)):
            sigma = entry["sigma"] * factor
            scale = torch.full_like(at.theta, sigma)
            if kind == "magnitude":
                scale = (sigma**2 * at.theta**2 + 1e-6).sqrt()
            ends = [
                at.accuracy(scale * torch.randn(len(at.theta), generator=generator).double())
                for _ in range(300)
            ]
            falls.append(start - sum(ends) / len(ends))
        assert falls[0] < 0.1 < falls[1], kind


def test_precision_and_batches_do_not_change_it():
    true = measured(SEPARABLE)
    for dtype, size in (("float64", 70), ("float32", 200)):
        found = measured(SEPARABLE, dtype, batch_size=size)
        for kind in ("isotropic", "magnitude"):
            assert found[kind]["value"] == pytest.approx(true[kind]["value"], rel=1e-2)


def test_without_a_sigma_there_is_no_value_but_advice():
    never = measured(SEPARABLE, given={"accuracy_drop": 0.9})
    always = measured(each_its_own(1e-5), given={"accuracy_drop": 0.2})["magnitude"]
    for entry in (never["isotropic"], never["magnitude"], always):
        assert entry["value"] is None
        assert entry["status"] == "unresolved"
        assert entry["sigma"] is None
    assert "falls by less than 0.9" in never["isotropic"]["advice"]
    assert "by the noise of variance 1e-6 alone" in always["advice"]


def test_a_task_without_accuracy_is_refused():
    has_accuracy(context(CASES["tanh"]))
    with pytest.raises(SharpError, match="has no accuracy, whose fall pac-bayes measures") as said:
        has_accuracy(context(CASES["triples"]))
    assert "low-pass" in said.value.hint


def test_a_sample_has_an_error_and_too_few_examples_none():
    found = measured(SEPARABLE, samples=100)
    assert found["isotropic"]["sampling_error"] > 0
    few = measured(SEPARABLE, samples=20)
    assert few["isotropic"]["sampling_error"] is None
    assert few["isotropic"]["sampling_status"] == "unreliable"


def test_progress_is_told_for_every_try():
    own, seen = context(SEPARABLE, options=options("pac-bayes")), []
    own.progress = lambda done, total: seen.append(SimpleNamespace(done=done, total=total))
    pac_bayes(own)
    assert seen
    assert all(each.done <= each.total for each in seen)
