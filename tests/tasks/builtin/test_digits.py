"""The built-in task `digits`: its data, its networks, and its options."""

import sys

import pytest
import torch
from torch import nn

from sharpcli.errors import SharpError, UsageError
from sharpcli.tasks import load_task
from sharpcli.tasks.builtin import digits


def test_data():
    task = load_task("digits", {})
    images, classes = task.data("train")
    test_images, test_classes = task.data("test")
    assert images.shape == (1442, 1, 8, 8)
    assert test_images.shape == (355, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)
    shares = test_classes.bincount() / (test_classes.bincount() + classes.bincount())
    assert torch.allclose(shares, torch.full((10,), 0.2), atol=0.01)
    assert torch.equal(task.data("train")[0], images)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("batch_norm", ["true", "false"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_networks(model, batch_norm, activation):
    options = {"model": model, "batch_norm": batch_norm, "activation": activation}
    network = load_task("digits", {**options, "width": "5", "depth": "3"}).model()
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == (3 if batch_norm == "true" else 0)
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
    assert sum(isinstance(m, kinds[activation]) for m in network.modules()) == 3


def test_sizes():
    def parameters(**options):
        return sum(p.numel() for p in load_task("digits", options).model().parameters())

    assert parameters() == 64 * 64 + 64 + 64 * 64 + 64 + 640 + 10
    assert parameters(width="8", depth="1") == 64 * 8 + 8 + 80 + 10
    assert parameters(model="cnn", width="4", depth="1") == 36 + 4 + 10 * 4 * 16 + 10


def test_a_resnet_needs_a_width_that_its_stages_divide():
    with pytest.raises(SharpError) as caught:
        load_task("digits", {"model": "resnet", "width": "6"}).model()
    assert caught.value.message.startswith("digits: width 6 is not a multiple of 4")
    assert caught.value.hint == "take options.width=4"


@pytest.mark.parametrize("option", [{"width": "0"}, {"depth": "0"}])
def test_a_network_has_a_size(option):
    with pytest.raises(SharpError, match="must be between 1 and"):
        load_task("digits", option).model()


def test_options_are_typed():
    with pytest.raises(UsageError, match=r'digits: options.model="rnn": is not mlp\|cnn\|resnet'):
        load_task("digits", {"model": "rnn"})


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SharpError) as caught:
        load_task("digits", {}).data("train")
    assert "scikit-learn, which is not installed" in caught.value.message
    assert caught.value.hint == "pip install 'sharpcli[demo]'"


@pytest.mark.parametrize(
    "options",
    [
        {"width": 10**6},
        {"depth": 10**8},
        {"width": 10**400},
        {"model": "cnn", "width": 10**6},
        {"model": "resnet", "width": 10**6},
        {"model": "resnet", "width": 4, "depth": 10**8},
    ],
)
def test_a_network_that_no_memory_holds_is_refused_before_it_is_built(options):
    with pytest.raises(SharpError, match=r"width .* and depth"):
        digits.model(**options)
