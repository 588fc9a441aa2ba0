"""Running statistics at a point, against PyTorch's own training mode."""

import pytest
import torch
from networks import CASES, images, objective, task, vectors
from torch import nn

from sharpcli.landscape import batch_norm
from sharpcli.landscape.batch_norm import Normalisations, batch_statistics, look, recalibration_rows


def deep():
    """Two layers deep, so that the second's statistics depend on the first's."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6),
        nn.GELU(), nn.Flatten(), nn.Linear(24, 5), nn.BatchNorm1d(5), nn.Linear(5, 3),
    )  # fmt: skip


class Residual(nn.Module):
    """A shortcut around a normalised branch, and a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.norms = nn.ModuleList(nn.BatchNorm1d(6) for _ in range(3))
        self.last = nn.Linear(6, 3)

    def forward(self, inputs):
        hidden = self.first(inputs)
        hidden = hidden + torch.tanh(self.norms[1](hidden))  # not in the order of their names
        return self.last(self.norms[0](hidden))


NETS = {
    "one": CASES["batch_norm"],
    "deep": task(deep, images),
    "residual": task(Residual, vectors(5, 3)),
}


def trained_mode(of, data):
    """The statistics that one pass in training mode leaves, by PyTorch alone, in float64."""
    model = of.model().double().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model(data.double())
    return {name: b for name, b in model.named_buffers() if "running" in name}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("batch_size", [None, 12, 3])
def test_statistics_are_those_of_one_pass_in_training_mode(name, batch_size, monkeypatch):
    of = NETS[name]
    function, theta = objective(of, batch_size=batch_size)
    if batch_size is not None:
        monkeypatch.setattr(batch_norm, "_ONE_PASS_BYTES", 0)
    expected = trained_mode(of, of.data("train")[0])
    found = batch_statistics(function, theta, function.fixed)
    called = [k for k, v in expected.items() if not k.startswith("norms.2")]
    for key in called:
        assert torch.allclose(found[key], expected[key], rtol=1e-10, atol=1e-12), key


def test_a_layer_that_is_never_called_keeps_its_own():
    function, theta = objective(NETS["residual"])
    found = batch_statistics(function, theta, function.fixed)
    assert torch.equal(found["norms.2.running_mean"], function.fixed["norms.2.running_mean"])


def test_biased_statistics_make_evaluation_the_training_pass_itself():
    of = NETS["deep"]
    function, theta = objective(of)
    fixed = batch_statistics(function, theta, function.fixed, unbiased=False)
    inputs, targets = of.data("train")
    model = of.model().double().train()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(inputs.double()), targets)
    names, values = function.moments(theta, fixed)
    assert names[0] == "loss"
    assert float(values[0, 0] / values[0, 1]) == pytest.approx(float(expected), rel=1e-12)


def test_nothing_else_is_touched():
    function, theta = objective(NETS["deep"])
    before = {k: v.clone() for k, v in function.fixed.items()}
    modes = [m.training for m in function.network.model.modules()]
    found = batch_statistics(function, theta, function.fixed)
    assert all(torch.equal(v, function.fixed[k]) for k, v in before.items())
    assert [m.training for m in function.network.model.modules()] == modes
    assert not any(m._forward_pre_hooks for m in function.network.model.modules())
    for key, value in found.items():
        if "num_batches" in key:
            assert torch.equal(value, before[key])


def test_layers_without_running_statistics_do_not_count():
    of = task(
        lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        vectors(5, 3),
    )
    function, theta = objective(of)
    assert look(function, theta) == Normalisations()


def test_recalibration_takes_all_that_fit_or_what_is_asked(monkeypatch):
    function, _ = objective(NETS["deep"])
    assert recalibration_rows(function, None, 0) is function
    assert recalibration_rows(function, 1000, 0) is function
    some = recalibration_rows(function, 7, 0)
    assert some.rows.count == 7
    again = recalibration_rows(function, 7, 0)
    assert torch.equal(some.rows.batch[0], again.rows.batch[0])
    monkeypatch.setattr(batch_norm, "_ONE_PASS_BYTES", 10 * function.saved_bytes)
    assert recalibration_rows(function, None, 0).rows.count == 10
