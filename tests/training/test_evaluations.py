"""Evaluations on the way: what they compute, when, and that they change nothing."""

import math

import pytest
import torch
from torch import nn

from sharpcli.errors import UsageError
from sharpcli.tasks import Task, defaults
from sharpcli.training import TrainSettings
from sharpcli.training import evaluations as module
from sharpcli.training.clock import Clock
from sharpcli.training.evaluations import EvaluationWatcher
from sharpcli.training.loop import train
from sharpcli.training.state import StateFile

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(30, 4, generator=GENERATOR)
TEST = torch.randn(11, 4, generator=GENERATOR)


def task(**changes):
    def data(split):
        inputs = INPUTS if split == "train" else TEST
        return inputs, (inputs.sum(1) > 0).long()

    parts = {
        "model": lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2)),
        "data": data,
        "predict": defaults.predict,
        "loss": defaults.loss_for("small"),
        "metrics": defaults.metrics,
    }
    return Task(name="small", options={}, fingerprint="", **(parts | changes))


def evaluated(every=2, of=None, **settings):
    of = of or task()
    watcher = EvaluationWatcher(of, every)
    asked = TrainSettings(**{"batch_size": 8, "steps": 6} | settings)
    return train(of, asked, watchers=(watcher,)), watcher.evaluations()


def test_values_are_those_of_the_weights_at_that_step():
    _, found = evaluated(every=3, steps=5)
    assert found.step == (0, 3, 5)
    for index, step in enumerate(found.step):
        if step == 0:
            continue
        tensors = train(task(), TrainSettings(batch_size=8, steps=step)).tensors
        model = task().model().double().eval()
        model.load_state_dict({name: tensor.double() for name, tensor in tensors.items()})
        for inputs, values in ((INPUTS, found.train), (TEST, found.test)):
            classes = (inputs.sum(1) > 0).long()
            outputs = model(inputs.double())
            loss = nn.functional.cross_entropy(outputs, classes).item()
            accuracy = (outputs.argmax(1) == classes).double().mean().item()
            assert values["loss"][index] == pytest.approx(loss, rel=1e-5)
            assert values["accuracy"][index] == pytest.approx(accuracy, abs=1e-12)


def test_the_last_loss_is_that_of_the_training():
    trained, found = evaluated(ema=0.5)
    assert found.train["loss"][-1] == pytest.approx(trained.train_loss, rel=1e-12)


def test_steps_and_passes_over_the_data():
    _, found = evaluated(every=2, steps=7)  # epochs of 8 + 8 + 8 + 6 examples
    assert found.step == (0, 2, 4, 6, 7)
    assert found.epochs == pytest.approx((0, 16 / 30, 1, 1 + 16 / 30, 1 + 24 / 30))
    _, by_epoch = evaluated(every="epoch", steps=7)
    assert by_epoch.step == (0, 4, 7)
    assert all(len(each) == 3 for each in (*by_epoch.train.values(), *by_epoch.test.values()))


def test_it_changes_no_weight():
    alone = train(task(), TrainSettings(batch_size=8, steps=6))
    watched, _ = evaluated(every=1)
    assert all(torch.equal(alone.tensors[name], each) for name, each in watched.tensors.items())


def test_without_test_data_there_is_only_train():
    own = task()
    _, found = evaluated(of=task(data=lambda split: own.data(split) if split == "train" else None))
    assert found.test is None
    assert len(found.train["loss"]) == 4


def test_metrics_of_the_users_own():
    def metrics(outputs, batch):
        return {"margin": outputs[:, 1] - outputs[:, 0]}

    _, found = evaluated(of=task(metrics=metrics))
    assert [*found.test] == ["loss", "margin"]


def evaluated_rows(**settings):
    """The batches that evaluations of a short training look at."""
    seen, looking = [], []

    class Watcher(EvaluationWatcher):
        def look(self, moment):
            looking.append(True)
            super().look(moment)
            looking.clear()

    def metrics(outputs, batch):
        if looking:
            seen.append(batch[0].clone())
        return {}

    of = task(metrics=metrics)
    asked = TrainSettings(**{"batch_size": 8, "steps": 2} | settings)
    train(of, asked, watchers=(Watcher(of, 1),))
    return seen


def test_many_examples_are_sampled_in_the_same_way(monkeypatch):
    monkeypatch.setattr(module, "MOST_EXAMPLES", 10)
    seen = evaluated_rows(seed=0) + evaluated_rows(seed=1)
    assert {tuple(each.shape) for each in seen} == {(10, 4)}
    assert len({each.sum().item() for each in seen}) == 2  # one sample of each split


def test_a_sample_has_whole_batches_where_batches_are_fixed(monkeypatch):
    monkeypatch.setattr(module, "MOST_EXAMPLES", 10)
    seen = evaluated_rows(batch_size=4, fixed_batch=4)
    assert [len(each) for each in seen] == [4, 4, 4, 4] * 3  # two batches of each split


class StoppedError(Exception):
    """The process ends here."""


class Stopping(StateFile):
    """Keeps the state of every step, and stops after three."""

    left = 3

    @property
    def due(self):
        return True

    def write(self, state):
        if not self.left:
            raise StoppedError
        self.left -= 1
        super().write(state)


def test_a_resumed_training_has_all_of_them(tmp_path):
    _, whole = evaluated(every=2, steps=8)
    settings = TrainSettings(batch_size=8, steps=8)
    starts = 0
    while True:
        watcher = EvaluationWatcher(task(), 2)
        starts += 1
        try:
            train(task(), settings, state=Stopping(tmp_path / "a"), watchers=(watcher,))
            break
        except StoppedError:
            pass
    found = watcher.evaluations()
    assert starts > 2
    assert (found.step, found.epochs, found.train, found.test) == (
        whole.step,
        whole.epochs,
        whole.train,
        whole.test,
    )
    assert list(found.seconds) == sorted(found.seconds)


def test_seconds_leave_evaluations_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("sharpcli.training.loop.Clock", lambda: Clock(lambda: now[0]))

    class Slow(EvaluationWatcher):
        def look(self, moment):
            now[0] += 100
            super().look(moment)

    def model():
        class Ticking(nn.Linear):
            def forward(self, x):
                if self.training:
                    now[0] += 1
                return super().forward(x)

        return Ticking(4, 2)

    of = task(model=model)
    watcher = Slow(of, 2)
    train(of, TrainSettings(batch_size=8, steps=6), watchers=(watcher,))
    assert watcher.evaluations().seconds == (0.0, 2.0, 4.0, 6.0)


@pytest.mark.parametrize("every", [0, -1, "step"])
def test_how_often_is_checked(every):
    with pytest.raises(UsageError, match="evaluate_every"):
        TrainSettings(evaluate_every=every)


def test_the_noise_scale_of_each_step():
    settings = TrainSettings(lr=0.1, batch_size=8, steps=5, noise_scale=True)
    curves = train(task(), settings).curves
    assert curves.batch_size == [8, 8, 8, 6, 8]
    assert curves.noise_scale == pytest.approx([0.1 * (30 / b - 1) for b in curves.batch_size])
    momentum = TrainSettings(lr=0.1, momentum=0.9, batch_size=8, steps=2, noise_scale=True)
    assert train(task(), momentum).curves.noise_scale == pytest.approx([0.1 * 30 / 8 / 0.1] * 2)
    assert train(task(), TrainSettings(steps=1)).curves.noise_scale is None


def test_a_rate_that_is_not_there_has_no_noise_scale():
    curves = train(task(), TrainSettings("adam", steps=1, noise_scale=True)).curves
    assert all(math.isfinite(each) for each in curves.noise_scale)
