"""Optimizers describe themselves: ranges, what is built, and what a checkpoint keeps."""

import pytest
import torch

from sharpcli.errors import UsageError
from sharpcli.training.optimizers import HYPERPARAMETERS, OPTIMIZERS, Optimizer, TrainSettings


def built(settings):
    return OPTIMIZERS[settings.optimizer].build([torch.zeros(1, requires_grad=True)], settings)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"lr": 0.0}, "lr=0.0: is out of range"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"betas": (0.9, 1.0)}, "betas="),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"until_loss": 0.0}, "until_loss=0.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"optimizer": "lion"}, "there is no optimizer 'lion'"),
    ],
)
def test_settings_out_of_range(setting, said):
    with pytest.raises(UsageError, match=said):
        TrainSettings(**setting)


def test_settings_reach_the_optimizer():
    adam = built(TrainSettings("adamw", 0.3, betas=(0.8, 0.95), weight_decay=0.2))
    assert isinstance(adam, torch.optim.AdamW)
    assert adam.defaults["betas"] == (0.8, 0.95)
    assert (adam.defaults["lr"], adam.defaults["weight_decay"]) == (0.3, 0.2)
    assert built(TrainSettings("sgd", momentum=0.9)).defaults["momentum"] == 0.9
    assert built(TrainSettings("adam")).defaults["lr"] == 1e-3


def test_a_declared_batch_is_that_of_the_steps():
    with pytest.raises(UsageError, match="fixed_batch"):
        TrainSettings(batch_size=32, fixed_batch=8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_takes_is_described_and_reaches_it(name):
    optimizer, settings = OPTIMIZERS[name], TrainSettings(name)
    assert optimizer.roles.keys() <= HYPERPARAMETERS.keys()
    defaults = built(settings).defaults
    assert {each: defaults[each] for each in optimizer.roles} == optimizer.values(settings)
    assert defaults["lr"] == optimizer.default_lr == settings.step_size


def test_every_hyperparameter_is_a_setting_that_some_optimizer_uses():
    used = {name for optimizer in OPTIMIZERS.values() for name in optimizer.roles}
    assert used == HYPERPARAMETERS.keys()
    assert all(hasattr(TrainSettings(), name) for name in used)


def test_metadata_hold_what_the_optimizer_uses_and_no_more():
    settings = TrainSettings("sgd", momentum=0.5, betas=(0.8, 0.9), weight_decay=0.1)
    assert OPTIMIZERS["sgd"].metadata(settings) == {"momentum": 0.5, "weight_decay": 0.1}
    expected = {"beta1": 0.8, "beta2": 0.9, "weight_decay": 0.1}
    assert OPTIMIZERS["adamw"].metadata(settings) == expected
    without = Optimizer("torch.optim:Rprop", 0.01, {})
    assert without.metadata(settings) == {}
    weights = [torch.zeros(1, requires_grad=True)]
    assert isinstance(without.build(weights, settings), torch.optim.Rprop)
