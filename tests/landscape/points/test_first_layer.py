"""First layers held at the anchors: the same numbers, and nothing taken that is not linear."""

import pytest
import torch
from mixtures import ALPHAS, ends, reference
from networks import task
from torch import nn

from sharpcli.landscape.points import first_layer as module
from sharpcli.landscape.points.evaluator import Surface
from sharpcli.landscape.points.first_layer import first_layers

FEATURES = 48


def wide(count, generator):
    return (
        torch.randn(count, FEATURES, generator=generator),
        torch.randint(0, 3, (count,), generator=generator),
    )


def pictures(count, generator):
    return (
        torch.randn(count, 4, 6, 6, generator=generator),
        torch.randint(0, 3, (count,), generator=generator),
    )


class Branches(nn.Module):
    """Two layers see the data, a third one what the first makes of it."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(FEATURES, 40), nn.Linear(FEATURES, 40, bias=False)
        self.inner, self.head = nn.Linear(40, 40), nn.Linear(40, 3)

    def forward(self, inputs):
        hidden = torch.tanh(self.left(inputs)) + torch.tanh(self.right(2 * inputs))
        return self.head(torch.tanh(self.inner(hidden)))


class Twice(nn.Module):
    """One layer sees the data twice."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(FEATURES, 40), nn.Linear(40, 3)

    def forward(self, inputs):
        return self.head(torch.tanh(self.layer(inputs)) * self.layer(-inputs))


class Shared(nn.Module):
    """The layer that sees the data lends its weight to another."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.again.weight = self.first.weight
        self.head = nn.Linear(FEATURES, 3)

    def forward(self, inputs):
        return self.head(torch.tanh(self.again(torch.tanh(self.first(inputs)))))


class Dead(nn.Module):
    """The second layer sees nothing but zeros: the same for all parameters, and yet not data."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, 40), nn.Linear(40, 3)

    def forward(self, inputs):
        return self.second(torch.relu(self.first(inputs) - 1e6))


def mlp():
    return nn.Sequential(
        nn.Linear(FEATURES, 40), nn.ReLU(inplace=True), nn.Linear(40, 40), nn.Tanh(),
        nn.Linear(40, 3),
    )  # fmt: skip


def frozen_first():
    model = mlp()
    model[0].requires_grad_(False)
    return model


def normed():
    model = mlp()
    nn.utils.parametrizations.weight_norm(model[0])
    return model


def norm_first():
    return nn.Sequential(nn.BatchNorm1d(FEATURES, affine=False), mlp())


def norm_second():
    return nn.Sequential(nn.Linear(FEATURES, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 3))


def conv():
    return nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3))


NETS = {
    "mlp": (task(mlp, wide), {"0"}),
    "conv": (task(conv, pictures), {"0"}),
    "branches": (task(Branches, wide), {"left", "right"}),
    "twice": (task(Twice, wide), set()),
    "shared": (task(Shared, wide), set()),
    "dead": (task(Dead, wide), {"first"}),
    "frozen": (task(frozen_first, wide), set()),
    "weight_norm": (task(normed, wide), set()),
    "norm_first": (task(norm_first, wide), set()),
    "norm_second": (task(norm_second, wide), {"0"}),
}


@pytest.mark.parametrize("name", NETS)
def test_the_layers_that_see_the_data_are_taken_and_no_others(name):
    of, expected = NETS[name]
    _, objectives, _, anchors, _ = ends(of)
    found = first_layers(objectives["train"], anchors.theta, anchors.fixed)
    assert set(found._layers if found else {}) == expected


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("name", ["mlp", "conv", "branches", "dead", "twice", "shared", "frozen"])
def test_every_point_is_the_mean_loss_of_the_mixed_network(name, batch_size):
    of, _ = NETS[name]
    _, objectives, frame, anchors, states = ends(of, batch_size=batch_size)
    surface = Surface(objectives)
    for start, group in surface.each(anchors, ALPHAS, frame.weights, ()):
        for split, means in group[0].items():
            expected = reference(of, states, ALPHAS[start][0], split)
            assert means["loss"].value == pytest.approx(expected, rel=1e-10)
    modules = list(objectives["train"].network.model.modules())
    assert not any("forward" in vars(each) or each._forward_hooks for each in modules)


def test_the_ends_come_out_bit_for_bit():
    _, objectives, frame, anchors, _ = ends(NETS["mlp"][0])
    held, plain = Surface(objectives), Surface(objectives)
    found = dict(held.each(anchors, ALPHAS, frame.weights, ()))
    for alpha in (0.0, 1.0):
        (values,) = found[ALPHAS.index((alpha,))]
        assert values == plain.at(anchors, frame.weights((alpha,)))


def test_few_points_and_narrow_layers_are_not_worth_it(monkeypatch):
    of, _ = NETS["mlp"]
    _, objectives, frame, anchors, _ = ends(of)
    surface = Surface(objectives)
    list(surface.each(anchors, ALPHAS[:7], frame.weights, ()))
    assert surface._held[1] == {}
    monkeypatch.setattr(module, "_WORTH", 25)
    assert first_layers(objectives["train"], anchors.theta, anchors.fixed) is None


def test_layers_too_large_to_hold_are_left(monkeypatch):
    _, objectives, _, anchors, _ = ends(NETS["branches"][0])
    rows = objectives["train"].rows.count
    monkeypatch.setattr(module, "_MOST_BYTES", 2 * rows * 40 * 8 * 1.5)
    found = first_layers(objectives["train"], anchors.theta, anchors.fixed)
    assert set(found._layers) == {"left"}


def test_smaller_batches_than_those_held_are_computed_in_full():
    of, _ = NETS["mlp"]
    _, objectives, frame, anchors, states = ends(of, batch_size=12)
    surface = Surface(objectives)
    each = surface.each(anchors, ALPHAS, frame.weights, ())
    next(each)
    objectives["train"]._batch_size = 6  # as after running out of memory
    start, (values,) = next(each)
    expected = reference(of, states, ALPHAS[start][0], "train")
    assert values["train"]["loss"].value == pytest.approx(expected, rel=1e-10)
