"""Watchers look at a training between its steps, and do not change it."""

import random

import torch
from torch import nn

from sharpcli.tasks import Task, defaults
from sharpcli.training import TrainSettings
from sharpcli.training.loop import train


def task():
    inputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    return Task(
        name="small",
        options={},
        fingerprint="",
        model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2)),
        data=lambda split: (inputs, (inputs.sum(1) > 0).long()),
        predict=defaults.predict,
        loss=defaults.loss_for("small"),
    )


class Keeper:
    """Keeps the weights at some steps, and leaves the model and the random states changed."""

    name = "keeper"

    def __init__(self, *steps):
        self.steps, self.kept, self.moments = steps, {}, []

    def wants(self, steps, *, epoch_ended, ended):
        return steps in self.steps or epoch_ended or ended

    def look(self, moment):
        self.kept[moment.steps] = moment.tensors()
        self.moments.append((moment.steps, moment.epochs, moment.epoch_ended, moment.ended))
        moment.model.eval()
        torch.manual_seed(3)
        random.seed(3)

    def state(self):
        return None

    def restore(self, state):
        pass


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in second)


def test_they_look_before_the_first_step_between_and_at_the_end():
    keeper = Keeper(0, 2)
    trained = train(task(), TrainSettings(batch_size=8, steps=6), watchers=(keeper,))
    assert keeper.moments == [
        (0, 0, False, False),
        (2, 1, False, False),
        (4, 1, True, False),
        (6, 2, False, True),
    ]
    assert same(keeper.kept[6], trained.tensors)
    shorter = train(task(), TrainSettings(batch_size=8, steps=2))
    assert same(keeper.kept[2], shorter.tensors)


def test_they_do_not_change_the_training():
    settings = TrainSettings(batch_size=8, steps=6, ema=0.5)
    alone = train(task(), settings)
    watched = train(task(), settings, watchers=(Keeper(0, 1, 2, 3, 4, 5),))
    assert same(alone.tensors, watched.tensors)


def test_they_see_the_weights_that_are_saved():
    keeper = Keeper(2)
    settings = TrainSettings(batch_size=8, steps=6, ema=0.5)
    train(task(), settings, watchers=(keeper,))
    shorter = train(task(), TrainSettings(batch_size=8, steps=2, ema=0.5))
    assert same(keeper.kept[2], shorter.tensors)
