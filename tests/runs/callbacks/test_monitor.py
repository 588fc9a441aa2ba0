"""Measures during somebody else's loop: right, within their budget, and without an effect on it."""

import logging
import random
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from sharpcli.errors import SharpError, UsageError
from sharpcli.runs.callbacks import subject as subject_module
from sharpcli.runs.callbacks.budget import Budget
from sharpcli.runs.callbacks.monitor import Monitor

COUNT = 120


def data():
    inputs = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


def network(normed=True):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6) if normed else nn.Identity()
    return nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 2))


def trained(monitor=None, steps=12, normed=True):
    """A loop with shuffling, dropout and batch norm; what it ends with, and what was measured."""
    model = network(normed)
    loader = DataLoader(data(), batch_size=10, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    random.seed(1)
    np.random.seed(1)
    found = {}
    if monitor is not None:
        monitor.begin(model, loader)
    for step, (inputs, targets) in enumerate(loader, 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        if monitor is not None and monitor.due(step):
            found[step] = monitor.measure(step, model, optimizer)
        if step == steps:
            break
    drawn = torch.rand(1).item(), random.random(), np.random.rand()
    return model, optimizer, drawn, found


def test_a_training_is_the_same_with_and_without():
    model, optimizer, drawn, _ = trained()
    monitor = Monitor(("hessian", "loss", "gradient"), every=4, share=None)
    watched, other, same, found = trained(monitor)
    assert list(found) == [4, 8, 12]
    assert drawn == same
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name]), name
    for own, its in zip(model.parameters(), watched.parameters(), strict=True):
        assert torch.equal(own.grad, its.grad)
        assert its.requires_grad
        state, kept = optimizer.state[own], other.state[its]
        assert all(torch.equal(state[key], kept[key]) for key in state)
    assert [each.training for each in watched.modules()] == [True] * 6
    assert not any(each._forward_hooks for each in watched.modules())


def test_the_numbers_are_those_of_the_dense_hessian():
    monitor = Monitor(("hessian", "loss"), every=12, share=None, samples=COUNT)
    model, _, _, found = trained(monitor, normed=False)
    inputs, targets = data().tensors
    model = model.double().eval()
    shapes = {name: each.shape for name, each in model.named_parameters()}

    def loss(vector):
        parts = torch.split(vector, [shape.numel() for shape in shapes.values()])
        own = {name: p.view(shapes[name]) for name, p in zip(shapes, parts, strict=True)}
        scores = torch.func.functional_call(model, own, inputs.double())
        return nn.functional.cross_entropy(scores, targets)

    theta = torch.cat([each.detach().reshape(-1) for each in model.parameters()])
    true = float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, theta))[-1])
    numbers = found[12]
    assert abs(numbers["sharpness/hessian.eigenvalues[0]"] - true) <= 0.1 * true
    assert abs(numbers["sharpness/loss.train"] - float(loss(theta))) <= 1e-6
    assert numbers["sharpness/examples"] == COUNT
    assert numbers["sharpness/seconds"] > 0


class Held(nn.Module):
    """Its forward() is a function that holds another module, as a compiled one does."""

    def __init__(self):
        super().__init__()
        self.net = network(normed=False)
        self.forward = lambda inputs, net=self.net: net(inputs)


class Labelled(Held):
    """As `Held`, with a loss of its own, as models of transformers have one."""

    def __init__(self):
        super().__init__()
        held = self.forward

        def forward(inputs, labels=None):
            scores = held(inputs)
            loss = nn.functional.cross_entropy(scores, labels) if labels is not None else None
            return types.SimpleNamespace(logits=scores, loss=loss)

        self.forward = forward


class Rows(TensorDataset):
    def __getitem__(self, index):
        inputs, labels = super().__getitem__(index)
        return {"inputs": inputs, "labels": labels}


@pytest.mark.parametrize(("kind", "rows"), [(Held, TensorDataset), (Labelled, Rows)])
def test_parameters_that_forward_does_not_read_from_its_module_are_measured(kind, rows):
    def measured(model, rows):
        monitor = Monitor(every=1, share=None, samples=COUNT)
        monitor.begin(model, DataLoader(rows(*data().tensors), batch_size=10))
        assert monitor.due(1)
        return monitor.measure(1, model)["sharpness/hessian.eigenvalues[0]"]

    plain = measured(network(normed=False), TensorDataset)
    assert plain > 0.01
    assert measured(kind(), rows) == pytest.approx(plain, rel=1e-4)


class Keeping(nn.Module):
    """It computes a matrix once, and keeps it."""

    def __init__(self):
        super().__init__()
        self.net, self.kept = network(normed=False), None

    def forward(self, inputs):
        first = self.net[0]
        if self.kept is None:
            self.kept = 2 * first.weight
        return self.net[1:](nn.functional.linear(inputs, self.kept, first.bias))


def test_a_result_of_parameters_that_a_model_keeps_is_refused():
    """Differences of gradients would not see that it changes."""
    model = Keeping()
    with pytest.raises(SharpError, match="in a way that does not follow the weights") as raised:
        Monitor(every=1, share=None).begin(model, DataLoader(data(), batch_size=10))
    assert raised.value.message.startswith("Keeping: cannot be measured: its forward pass reaches ")
    assert "not from a result kept from an earlier pass" in raised.value.hint
    assert model.kept is None  # a copy has run, and not the model that trains


def test_a_loss_may_have_parameters_of_its_own():
    scale = nn.Parameter(torch.tensor(2.0))

    def loss(outputs, batch):
        return nn.functional.cross_entropy(scale * outputs, batch[1], reduction="none")

    monitor, model = Monitor(every=1, share=None, samples=60, loss=loss), network(normed=False)
    monitor.begin(model, DataLoader(data(), batch_size=10))
    assert monitor.due(1)
    assert monitor.measure(1, model)["sharpness/hessian.eigenvalues[0]"] > 0


def test_a_sample_says_its_error():
    monitor = Monitor(every=12, share=None, samples=60)
    _, _, _, found = trained(monitor)
    numbers = found[12]
    assert numbers["sharpness/examples"] == 60
    whole = Monitor(every=12, share=None, samples=COUNT)
    true = trained(whole)[3][12]["sharpness/hessian.eigenvalues[0]"]
    error = numbers["sharpness/hessian.eigenvalues[0].sampling_error"]
    assert error > 0
    assert abs(numbers["sharpness/hessian.eigenvalues[0]"] - true) <= 3 * error


def test_what_would_take_more_than_its_share_waits_and_says_so(caplog):
    with caplog.at_level(logging.INFO, "sharpcli"):
        monitor = Monitor(every=3, share=1e-6)
        *_, found = trained(monitor)
    assert found == {}
    (said,) = [each for each in caplog.messages if "it waits" in each]
    assert "share=None measures every 3 steps" in said
    with caplog.at_level(logging.WARNING, "sharpcli"):
        *_, found = trained(Monitor(every=3, share=None, seconds=1e-9))
    assert found == {}
    assert any("more than is left of seconds=1e-09" in each for each in caplog.messages)


def test_one_monitor_watches_two_trainings_one_after_the_other():
    monitor = Monitor("loss", every=6, share=None)
    assert trained(monitor)[3].keys() == trained(monitor)[3].keys() == {6, 12}


def test_a_training_that_diverges_gives_no_numbers_and_a_warning(caplog):
    monitor, model = Monitor(("hessian", "loss"), every=1, share=None), network()
    monitor.begin(model, DataLoader(data(), batch_size=10))
    assert monitor.due(1)
    nn.init.constant_(model[0].weight, float("nan"))
    with caplog.at_level(logging.WARNING, "sharpcli"):
        assert monitor.measure(1, model) == {}
    assert any(each.startswith("sharpness at step 1: hessian: ") for each in caplog.messages)
    nn.init.constant_(model[0].weight, 0.1)
    assert "sharpness/loss.train" in monitor.measure(2, model)


def test_a_training_that_ends_before_the_first_measurement_is_not_set_up(caplog):
    monitor, model = Monitor(every=200), network()
    with caplog.at_level(logging.WARNING, "sharpcli"):
        monitor.begin(model, DataLoader(data(), batch_size=10), 10, 190)
    (said,) = caplog.messages
    assert "nothing is measured: the training ends after step 190" in said
    assert "after step 200 (every=200)" in said
    assert not monitor.due(200)


def test_setting_up_waits_until_its_share_of_the_training_s_time_allows_it(monkeypatch, caplog):
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()
    monitor, model = Monitor(every=1, samples=24), network()
    monkeypatch.setattr("sharpcli.runs.callbacks.monitor.Budget", lambda *a: Budget(*a, clock))
    monitor.begin(model, DataLoader(data(), batch_size=10))
    subject = monitor._subject
    steps, done = [], []
    monkeypatch.setattr(subject, "_gradient", 1e-2)
    subject._steps = [(steps.append, lambda: 1.0), (done.append, lambda: 2.0)]
    with caplog.at_level(logging.WARNING, "sharpcli"):
        assert not monitor.due(1)
    assert not steps
    (said,) = caplog.messages
    assert "setting up takes about" in said
    clock.now = 1.0 * 11.2
    assert not monitor.due(2)
    assert len(steps) == 1  # the first step fits, the second with a measurement does not
    assert not done
    clock.now = (2.0 + subject.expected) * 11.2
    monitor.due(3)
    assert len(done) == 1


@pytest.mark.parametrize(
    ("seconds", "timed"),
    [
        # of a gradient of so many examples; the examples that are timed
        (lambda _: 1e-3, [4, 8, 16, 32, 64, 128, 256]),
        (lambda count: 1e-3 * count, [4, 8, 16, 32]),
        (lambda count: 1e-3 * max(count, 40), [4, 8, 16, 32, 64, 128]),
    ],
)
def test_a_gradient_is_timed_on_as_many_examples_as_make_one_faster(monkeypatch, seconds, timed):
    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    class Timed:
        def __init__(self, rows):
            self.rows = rows

        def gradient(self, _):
            counts.append(self.rows.count)
            clock.now += seconds(self.rows.count)

    counts, clock = [], Clock()
    monitor = Monitor(every=1)
    many = TensorDataset(torch.zeros(400, 4), torch.zeros(400, dtype=torch.int64))
    monitor.begin(network(), DataLoader(many, batch_size=10))
    subject = monitor._subject
    monkeypatch.setattr(subject_module, "time", clock)
    monkeypatch.setattr(subject, "_objective", lambda rows, _: Timed(rows))
    while not subject.last:
        subject.advance()
    assert counts == timed
    assert subject._gradient == pytest.approx(seconds(timed[-1]) / timed[-1])


def test_a_loss_that_the_later_checks_refuse_ends_the_measuring_and_not_the_training(caplog):
    def loss(outputs, batch):
        own = nn.functional.cross_entropy(outputs, batch[1], reduction="none")
        return own if len(own) < 16 else own + outputs.mean()

    monitor, model = Monitor(every=1, share=None, samples=60, loss=loss), network()
    monitor.begin(model, DataLoader(data(), batch_size=10))
    with caplog.at_level(logging.WARNING, "sharpcli"):
        assert not monitor.due(1)
    (said,) = caplog.messages
    assert said.startswith("sharpness: nothing is measured: ")
    assert not monitor.due(2)


def test_preconditioned_sharpness_is_measured_under_its_name_in_a_training():
    found = trained(Monitor("preconditioned-sharpness", every=12, share=None, samples=24))[3]
    assert found[12]["sharpness/preconditioned_hessian.eigenvalues[0]"] > 0


class Stream(IterableDataset):
    def __iter__(self):
        yield from data()


@pytest.mark.parametrize(
    ("settings", "loader", "said"),
    [
        ({}, DataLoader(Stream(), batch_size=4), "one after the other and not by number"),
        ({}, [1, 2], "its data come from a list"),
        ({"loss": lambda outputs, batch: outputs.mean()}, None, "one"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_training(settings, loader, said):
    loader = DataLoader(data(), batch_size=10) if loader is None else loader
    with pytest.raises(SharpError, match=said):
        Monitor(**settings).begin(network(), loader)


def test_a_stream_is_measured_on_data_of_ones_own():
    monitor = Monitor("loss", every=1, share=None, data=data())
    model = network()
    monitor.begin(model, DataLoader(Stream(), batch_size=4))
    assert monitor.due(1)
    assert monitor.measure(1, model)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="it runs on 2 processes"):
        Monitor().begin(network(), DataLoader(data()))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"measures": "hesian"}, "there is no such measure"),
        ({"every": 0}, "every=0: is out of range"),
        ({"share": 0.0}, "share=0.0: is out of range"),
        ({"samples": 0}, "track_samples=0: is out of range"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(settings, said):
    with pytest.raises(UsageError, match=said):
        Monitor(**settings)
