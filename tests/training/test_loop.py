"""The training loop: it trains, repeats itself, and leaves the random state alone."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy
import pytest
import torch
from plain_loops import with_schedule
from torch import nn
from torch.utils.data import TensorDataset

from sharpcli.errors import SharpError, UsageError
from sharpcli.runtime.progress import Latest
from sharpcli.tasks import Task, defaults
from sharpcli.training import OPTIMIZERS, TrainSettings
from sharpcli.training.loop import train


def numbers(rows=30):
    inputs = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs.sum(1) > 0).long()


def task(model=None, data=None, loss=None):
    return Task(
        name="small",
        options={},
        fingerprint="",
        model=model or (lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))),
        data=data or (lambda split: numbers()),
        predict=defaults.predict,
        loss=loss or defaults.loss_for("small"),
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns(optimizer):
    settings = TrainSettings(optimizer, lr=0.05, batch_size=8, epochs=15)
    first = train(task(), replace(settings, epochs=1)).train_loss
    assert train(task(), settings).train_loss < 0.7 * first


def test_progress():
    told = []
    train(task(), TrainSettings(epochs=3), lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    settings = TrainSettings(lr=0.5, epochs=500, until_loss=0.1)
    train(task(), settings, lambda done, total: told.append((done, total)))
    assert told[-1] == (100, 100)
    assert all(earlier <= later for earlier, later in pairwise(told))


def test_it_stops_at_the_loss():
    trained = train(task(), TrainSettings(lr=0.5, epochs=500, until_loss=0.1))
    assert trained.train_loss <= 0.1
    assert trained.reached
    assert trained.epochs < 500
    assert trained.steps == trained.epochs  # 30 rows are one batch of 32


def test_steps_end_a_training_within_an_epoch():
    told = []
    settings = TrainSettings(batch_size=8, steps=70)
    trained = train(task(), settings, lambda done, total: told.append((done, total)))
    assert (trained.steps, trained.epochs) == (70, 18)  # of 4 steps
    assert told[-1] == (70, 70)
    assert settings.epochs is None
    settings = TrainSettings(batch_size=8, steps=70, epochs=2)
    assert (train(task(), settings).steps, TrainSettings().epochs) == (8, 20)


def test_as_many_steps_as_epochs_give_the_same_weights():
    by_epochs = train(task(), TrainSettings(batch_size=8, epochs=3)).tensors
    by_steps = train(task(), TrainSettings(batch_size=8, steps=12)).tensors
    assert all(torch.equal(by_epochs[name], by_steps[name]) for name in by_steps)


def test_a_schedule_of_batch_sizes(monkeypatch):
    sizes = []

    def loss(outputs, batch):
        sizes.append(len(outputs))
        return nn.functional.cross_entropy(outputs, batch[1], reduction="none")

    with_schedule(monkeypatch, lambda step: 4 + 4.4 * step)
    train(task(loss=loss), TrainSettings(batch_schedule="any", steps=5))
    taken = [4, 8, 13, 5, 22]  # 30 examples an epoch, the fourth step has what is left of them
    assert sizes[-6:-1] == taken


@pytest.mark.parametrize(
    ("settings", "at", "message"),
    [
        ({"schedule": "EXP(k0=1, gamma=1e300)"}, None, "step 2"),
        ({"batch_schedule": "any"}, lambda step: 8 * 2**step, "is 32 at step 2, of 30 examples"),
    ],
)
def test_a_schedule_out_of_range_names_the_step(monkeypatch, settings, at, message):
    if at is not None:
        with_schedule(monkeypatch, at)
    with pytest.raises(UsageError, match=message):
        train(task(), TrainSettings(steps=1000, **settings))


def test_it_says_that_the_loss_was_not_reached():
    assert not train(task(), TrainSettings(epochs=1, until_loss=1e-9)).reached


def test_train_loss_is_the_mean_over_all_rows_in_eval_mode():
    def model():
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))

    trained = train(task(model), TrainSettings(batch_size=7, epochs=2))
    network = model()
    network.load_state_dict(trained.tensors)
    inputs, targets = numbers()
    expected = nn.functional.cross_entropy(network.eval()(inputs), targets)
    assert trained.train_loss == pytest.approx(expected.item(), rel=1e-6)


def test_weights_of_examples_count():
    """Two halves with weights 3 and 1 give the loss of the data set with the first half thrice."""

    def weighted(outputs, batch):
        losses = nn.functional.cross_entropy(outputs, batch[1], reduction="none")
        return losses * batch[2], batch[2]

    inputs, targets = numbers()
    weights = torch.tensor([3.0] * 15 + [1.0] * 15)
    settings = TrainSettings(batch_size=100, epochs=5)
    ours = train(task(data=lambda split: (inputs, targets, weights), loss=weighted), settings)
    rows = torch.tensor([*range(15)] * 3 + [*range(15, 30)])
    repeated = train(task(data=lambda split: (inputs[rows], targets[rows])), settings)
    assert ours.train_loss == pytest.approx(repeated.train_loss, rel=1e-5)


def test_a_data_set_trains_as_its_tensors_do():
    settings = TrainSettings(batch_size=8, epochs=2, seed=4)
    tensors = train(task(), settings).tensors
    rows = train(task(data=lambda split: TensorDataset(*numbers())), settings).tensors
    assert all(torch.equal(tensors[name], rows[name]) for name in tensors)


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
    expected = torch.rand(1).item(), random.random(), numpy.random.rand()
    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
    train(task(lambda: nn.Sequential(nn.Dropout(), nn.Linear(4, 2))), TrainSettings(epochs=1))
    assert (torch.rand(1).item(), random.random(), numpy.random.rand()) == expected


def test_the_same_whatever_the_random_state_before():
    settings = TrainSettings(epochs=2, batch_size=8)
    torch.manual_seed(1)
    first = train(task(), settings).tensors
    torch.manual_seed(2)
    again = train(task(), settings).tensors
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_model_without_parameters():
    with pytest.raises(SharpError, match="small: the model has no parameters to train"):
        train(task(nn.Flatten), TrainSettings())


def test_data_that_are_not_finite_are_named_before_the_first_step():
    inputs, targets = numbers()
    inputs[3, 1] = float("nan")
    with pytest.raises(SharpError, match="small hold NaN in row 3 of the inputs") as caught:
        train(task(data=lambda split: (inputs, targets)), TrainSettings())
    assert "the data are the cause" in caught.value.hint


def test_data_that_spoil_only_the_gradient_are_named():
    """An infinity that tanh takes to 1, so that the loss is finite and its slope is not."""
    inputs, targets = numbers()
    inputs[3, 1] = float("inf")

    def model():
        return nn.Sequential(nn.Linear(inputs.shape[1], 4), nn.Tanh(), nn.Linear(4, 3))

    with pytest.raises(SharpError, match="hold an infinity in row 3 of the inputs") as caught:
        train(task(model, data=lambda split: (inputs, targets)), TrainSettings())
    assert "the data are the cause" in caught.value.hint


def test_a_loss_without_a_gradient():
    def loss(outputs, batch):
        return nn.functional.cross_entropy(outputs, batch[1], reduction="none").detach()

    with pytest.raises(SharpError, match="the loss has no gradient") as caught:
        train(task(loss=loss), TrainSettings())
    assert "detach()" in caught.value.hint


def test_a_loss_that_is_not_finite_names_the_step():
    with pytest.raises(
        SharpError, match=r"small: the training loss is (nan|inf) at step \d\n"
    ) as e:
        train(task(), TrainSettings(lr=1e38))
    assert "lr is 1e+38" in e.value.hint


def in_batch_negatives(outputs, batch):
    aim = torch.arange(len(outputs))
    return nn.functional.cross_entropy(outputs @ outputs.T, aim, reduction="none")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda o, b: nn.functional.cross_entropy(o, b[1]), "a single number for a batch of"),
        (lambda o, b: (nn.functional.cross_entropy(o, b[1]), torch.tensor(1.0)), "not the sum"),
        (in_batch_negatives, "depends on the other examples of its batch"),
    ],
)
def test_what_cannot_be_measured_is_not_trained(loss, message):
    with pytest.raises(SharpError, match=message):
        train(task(loss=loss), TrainSettings(epochs=1))


def test_what_no_checkpoint_holds_is_not_trained():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.hidden = nn.Linear(4, 2), [nn.Linear(4, 4)]

        def forward(self, inputs):
            return self.last(self.hidden[0](inputs))

    with pytest.raises(SharpError, match=r"hidden\[0\].weight"):
        train(task(Listed), TrainSettings(epochs=1))


def test_a_loss_of_declared_batches_is_trained():
    settings = TrainSettings(lr=0.05, batch_size=8, fixed_batch=8, epochs=3)
    trained = train(task(loss=in_batch_negatives), settings)
    assert trained.steps == 3 * (30 // 8)
    network = task().model()
    network.load_state_dict(trained.tensors)
    inputs, _ = numbers()
    losses = [in_batch_negatives(network(part), None) for part in inputs.split(8)]
    assert trained.train_loss == pytest.approx(float(torch.cat(losses).detach().mean()), rel=1e-6)


def test_the_latest_loss_and_rate_are_given_when_asked_for():
    latest, said = Latest(), []
    assert latest.text() == ""
    settings = TrainSettings(batch_size=8, steps=40, schedule="POLY(k0=0.1,k1=0,l=40,p=1)")
    show = lambda step, _: said.append((step, latest.text()))  # noqa: E731
    curves = train(task(), settings, show, latest=latest).curves
    assert [step for step, _ in said] == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
    for step, text in said:
        assert text == f"loss {curves.loss[step - 1]:.3g} · lr {curves.lr[step - 1]:.3g}"
