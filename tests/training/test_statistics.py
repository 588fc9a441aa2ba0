"""Averaged weights are saved and evaluated with statistics of batch normalisation of their own."""

import pytest
import torch
from torch import nn

from sharpcli.objective.rows import Rows
from sharpcli.tasks import Task, defaults
from sharpcli.training import TrainSettings
from sharpcli.training.loop import train
from sharpcli.training.statistics import normalisations, recompute

INPUTS = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
DATA = INPUTS, (INPUTS.sum(1) > 4).long()


def model():
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
    )


def task():
    return Task(
        "normalised", {}, "", model, lambda _: DATA, defaults.predict, defaults.loss_for("it")
    )


@pytest.mark.parametrize("average", [{"ema": 0.8}, {"swa": 0.5}])
def test_statistics_are_those_of_the_training_data_at_the_average(average):
    trained = train(task(), TrainSettings(lr=0.1, batch_size=16, epochs=6, **average))
    saved = model()
    saved.load_state_dict(trained.tensors)
    hidden = saved[0](INPUTS)
    assert torch.allclose(saved[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    assert torch.allclose(saved[1].running_var, hidden.var(0), rtol=1e-4)
    loss = nn.functional.cross_entropy(saved.eval()(INPUTS), DATA[1])
    assert trained.train_loss == pytest.approx(loss.item(), rel=1e-5)


def test_an_average_leaves_the_training_as_it_is():
    """Its loss after each epoch is looked at, and the batches' losses stay those of no average."""
    shared = {"lr": 0.1, "batch_size": 16, "epochs": 6, "until_loss": 1e-9}
    plain, averaged = (
        train(task(), TrainSettings(**shared, **given)).curves for given in ({}, {"ema": 0.8})
    )
    assert plain.loss == averaged.loss


def test_without_an_average_the_statistics_are_those_of_the_training():
    settings = TrainSettings(lr=0.1, batch_size=16, epochs=6)
    late = train(task(), TrainSettings(lr=0.1, batch_size=16, epochs=6, swa=1e6)).tensors
    usual = train(task(), settings).tensors
    # The only average is over the weights after the last step, so the weights are the same.
    assert torch.equal(usual["0.weight"], late["0.weight"])
    assert all(torch.equal(usual[name], late[name]) for name in usual)


@pytest.mark.parametrize(("most", "fixed"), [(50, None), (49, None), (7, None), (50, 10)])
def test_batches_of_nearly_one_size(most, fixed):
    network, sizes = model().train(), []
    network[1].momentum = 0.3

    def forward(batch):
        sizes.append(len(batch[0]))
        return network(batch[0])

    rows = Rows(DATA, 50, 50).with_fixed_batch(fixed)
    recompute(network, normalisations(network), rows, forward, most)
    assert sum(sizes) == 50
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= most
    parts = [network[0](part) for part in INPUTS.split(sizes)]
    expected = torch.stack([part.mean(0) for part in parts]).mean(0)
    assert torch.allclose(network[1].running_mean, expected, atol=1e-5)
    assert network[1].momentum == 0.3
    assert all(each.training for each in network.modules())


def test_layers_that_are_kept_in_evaluation_mode_keep_their_statistics():
    network = model().train()
    network[1].eval()
    assert normalisations(network) == []
