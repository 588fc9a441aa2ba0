"""Running statistics at a point, against PyTorch's own training mode."""

import pytest
import torch
from networks import objective, task, vectors
from normalised import NETS
from torch import nn

from sharpcli.errors import SharpError
from sharpcli.landscape.points import batch_norm
from sharpcli.landscape.points.batch_norm import (
    batch_normalised,
    batch_statistics,
    recalibration_rows,
)
from sharpcli.landscape.points.normalisations import look


def in_training(of):
    """The model, in float64 and training mode, that keeps the statistics of one pass alone."""
    model = of.model().double().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
            instance = isinstance(module, nn.InstanceNorm2d)  # which knows no momentum of None
            module.momentum = 1.0 if instance else None
    return model


def trained_mode(of, data):
    """The statistics that one pass in training mode leaves, by PyTorch alone, in float64."""
    model = in_training(of)
    with torch.no_grad():
        model(data.double())
    kept = ("running_mean", "running_var", "mu", "sigma")
    return {name: b for name, b in model.named_buffers() if name.rpartition(".")[2] in kept}


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


def loss_in_training(of):
    inputs, targets = of.data("train")
    with torch.no_grad():
        return float(nn.functional.cross_entropy(in_training(of)(inputs.double()), targets))


def mean_loss(function, theta, *state):
    names, values = function.moments(theta, *state)
    assert names[0] == "loss"
    return float(values[0, 0] / values[0, 1])


@pytest.mark.parametrize("name", ["one", "deep", "residual", "functional", "subclass"])
def test_biased_statistics_make_evaluation_the_training_pass_itself(name):
    function, theta = objective(NETS[name])
    fixed = batch_statistics(function, theta, function.fixed, unbiased=False)
    assert mean_loss(function, theta, fixed) == pytest.approx(loss_in_training(NETS[name]), 1e-12)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_split_normalised_by_its_own_batch_is_the_training_pass_itself(
    name, batch_size, monkeypatch
):
    function, theta = objective(NETS[name], batch_size=batch_size)
    if batch_size is not None:
        monkeypatch.setattr(batch_norm, "_ONE_PASS_BYTES", 0)
    fixed, enter = batch_normalised(function, theta, function.fixed)
    found = mean_loss(function, theta, fixed, lambda start, count: enter())
    assert found == pytest.approx(loss_in_training(NETS[name]), rel=1e-10)


class Kept(nn.Module):
    """Its first layer is kept in evaluation mode, as for fine-tuning."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
        self.last = nn.Linear(5, 3)

    def train(self, mode=True):
        super().train(mode)
        self.first.eval()
        return self

    def forward(self, inputs):
        return self.last(self.second(self.first(inputs).tanh()))


@pytest.mark.parametrize("unbiased", [True, False])
def test_a_layer_that_the_model_keeps_in_evaluation_mode_is_not_re_estimated(unbiased):
    of = task(Kept, vectors(5, 3))
    function, theta = objective(of)
    function.fixed["first.running_mean"].add_(0.5)
    found = look(function, theta)
    assert found.frozen == ("first.running_mean", "first.running_var")
    assert [call.layer for call in found.moving] == ["second"]
    assert not any(module.training for module in function.network.model.modules())
    new = batch_statistics(function, theta, function.fixed, unbiased=unbiased, frozen=found.frozen)
    assert torch.equal(new["first.running_mean"], function.fixed["first.running_mean"])
    hidden = ((of.data("train")[0].double() - 0.5) / (1 + 1e-5) ** 0.5).tanh()
    assert torch.allclose(new["second.running_mean"], hidden.mean(0))
    assert torch.allclose(new["second.running_var"], hidden.var(0, correction=int(unbiased)))


def test_calls_that_change_from_batch_to_batch_are_refused(monkeypatch):
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(nn.BatchNorm1d(5) for _ in range(2))
            self.last = nn.Linear(5, 3)

        def forward(self, inputs):
            first, second = self.norms if inputs[0, 0] > 0 else reversed(self.norms)
            return self.last(second(first(inputs).tanh()))

    monkeypatch.setattr(batch_norm, "_ONE_PASS_BYTES", 0)
    function, theta = objective(task(Fickle, vectors(5, 3)), batch_size=1)
    with pytest.raises(
        SharpError, match=r"not every batch calls the normalisation of 'norms\.[01]'"
    ):
        batch_statistics(function, theta, function.fixed)


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
