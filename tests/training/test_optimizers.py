"""Optimizers describe themselves: ranges, what is built, and what a checkpoint keeps."""

import pytest
import torch

from sharpcli.errors import UsageError
from sharpcli.training import catalogue
from sharpcli.training.optimizers import HYPERPARAMETERS, OPTIMIZERS, Optimizer
from sharpcli.training.train_settings import TrainSettings


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
        ({"optimizer": "lyon"}, "there is no optimizer 'lyon'"),
        ({"optimizer": "SparseAdam"}, "SparseAdam cannot be used: it takes sparse gradients"),
        ({"momentum": 0.5, "optimizer": "adam"}, "momentum=0.5: adam has no such argument"),
        ({"optimizer": "Rprop", "weight_decay": 0.1}, "weight_decay=0.1: Rprop has no such"),
        ({"optimizer_options": {"nesterow": True}}, "did you mean 'nesterov'?"),
        ({"optimizer": "NAdam", "optimizer_options": {"eps": "x"}}, 'eps="x": is not of its type'),
        ({"momentum": 0.5, "optimizer_options": {"momentum": 0.6}}, "are the same"),
        ({"steps": 0}, "steps=0"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"swa": -1.0}, "swa=-1.0"),
        ({"swa": 500.0, "steps": 30}, "swa=500.0: is out of range"),
        ({"swa": 0.5, "ema": 0.9}, "swa=0.5: cannot be used with ema"),
        (
            {"optimizer": "SAM", "optimizer_options": {"base_optimizer": "asam"}},
            "asam.*: it needs an optimizer that takes its steps itself",
        ),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"accumulate": 2, "fixed_batch": 32}, "accumulate=2"),
        ({"schedule": "FIX(k0=0.1)", "lr": 0.1}, "lr=0.1: has no effect with schedule"),
        ({"schedule": "FIXX(k0=0.1)"}, "schedule 'FIXX"),
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


def of_torch():
    classes = [each for each in vars(torch.optim).values() if isinstance(each, type)]
    kinds = [each for each in classes if issubclass(each, torch.optim.Optimizer)]
    return sorted(each.__name__ for each in kinds if each is not torch.optim.Optimizer)


@pytest.mark.parametrize("name", [name for name in of_torch() if name != "SparseAdam"])
def test_every_optimizer_of_torch_is_there_in_any_case_with_its_own_defaults(name):
    for spelling in (name, name.lower(), name.upper()):
        settings = TrainSettings(spelling)
        assert settings.optimizer == (name.lower() if name.lower() in OPTIMIZERS else name)
        assert settings.kind.type is getattr(torch.optim, name)
    if name.lower() in OPTIMIZERS:
        return
    expected = getattr(torch.optim, name)([torch.zeros(2, 2, requires_grad=True)])
    optimizer = settings.kind.build([torch.zeros(2, 2, requires_grad=True)], settings)
    for key, value in expected.defaults.items():
        assert optimizer.param_groups[0][key] == value
    stored = settings.kind.metadata(settings)
    assert stored.keys() - {"beta1", "beta2"} <= expected.defaults.keys()


def test_options_are_typed_by_the_constructor():
    given = {"eps": "none,1e-2", "beta2_decay": "-0.5", "maximize": "false"}
    settings = TrainSettings("adafactor", optimizer_options=given)
    expected = {"eps": (None, 0.01), "beta2_decay": -0.5, "maximize": False}
    assert settings.optimizer_options == expected
    values = {"eps": [None, 0.01], "beta2_decay": -0.5, "maximize": False}
    assert TrainSettings("Adafactor", optimizer_options=values) == settings
    with pytest.raises(UsageError, match=r"option is eps: float\|none,float = none,0.001"):
        TrainSettings("adafactor", optimizer_options={"eps": "1"})


def test_shared_settings_may_be_given_as_options_of_the_optimizer():
    options = {"lr": "0.3", "weight_decay": 0.1, "betas": "0.8,0.9"}
    same = TrainSettings("NAdam", lr=0.3, weight_decay=0.1, betas=(0.8, 0.9))
    assert TrainSettings("nadam", optimizer_options=options) == same


def test_a_value_that_the_constructor_refuses():
    settings = TrainSettings("sgd", optimizer_options={"nesterov": True})
    with pytest.raises(UsageError, match="sgd: Nesterov momentum requires") as caught:
        built(settings)
    assert "dampening: float = 0" in caught.value.hint


def test_a_missing_library_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(catalogue, "LIBRARY", "no_such_library")
    catalogue.names.cache_clear()
    try:
        with pytest.raises(UsageError) as caught:
            TrainSettings("Lion")
    finally:
        catalogue.names.cache_clear()
    assert "pip install 'sharpcli[optimizers]'" in caught.value.hint


def test_metadata_hold_what_the_optimizer_uses_and_no_more():
    settings = TrainSettings("sgd", momentum=0.5, weight_decay=0.1)
    assert OPTIMIZERS["sgd"].metadata(settings) == {"momentum": 0.5, "weight_decay": 0.1}
    without = Optimizer("torch.optim:Rprop", 0.01, {})
    assert without.metadata(settings) == {}
    weights = [torch.zeros(1, requires_grad=True)]
    assert isinstance(without.build(weights, settings), torch.optim.Rprop)
    settings = TrainSettings("adamw", betas=(0.8, 0.9), weight_decay=0.1)
    expected = {"beta1": 0.8, "beta2": 0.9, "weight_decay": 0.1}
    assert OPTIMIZERS["adamw"].metadata(settings) == expected


def test_a_loss_to_reach_is_kept_with_what_made_the_weights():
    assert TrainSettings(until_loss=0.1).extras == {"until_loss": 0.1}
