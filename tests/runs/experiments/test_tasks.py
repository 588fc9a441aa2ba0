"""The tasks of the experiments: what is trained on, and what a step changes."""

import pytest
import torch

from sharpcli.errors import SharpError
from sharpcli.runs.experiments import (
    adversarial_mnist,
    experiments,
    small_mnist,
    squared_cifar10,
    torchvision_images,
)
from sharpcli.tasks import load_task
from sharpcli.tasks.builtin import mnist


def test_small_mnist_trains_on_the_fewer_images_at_half_the_size(monkeypatch):
    sizes = {"train": 4, "test": 1}
    monkeypatch.setattr(
        mnist, "data", lambda split: (torch.ones(sizes[split], 1, 28, 28), torch.zeros(1))
    )
    images, _ = small_mnist.data("train")
    assert images.shape == (1, 1, 14, 14)
    assert len(small_mnist.data("test")[0]) == 4
    assert small_mnist.model(width=8)(images).shape == (1, 10)


def test_adversarial_images_raise_the_loss_of_steps_only():
    torch.manual_seed(0)
    model = small_mnist.model(width=8)
    images, classes = torch.rand(32, 1, 14, 14), torch.randint(10, (32,))

    def loss(adversarial):
        scores = adversarial_mnist.predict(model, (images, classes), adversarial)
        return float(torch.nn.functional.cross_entropy(scores, classes).detach())

    assert loss(0.1) > loss(0.01) > loss(0.0)
    with torch.no_grad():
        assert loss(0.1) == loss(0.0)
    model.eval()
    assert loss(0.1) == loss(0.0)
    assert images.grad is None


def test_shifted_images_keep_their_pixels():
    images = torch.zeros(64, 3, 32, 32)
    images[:, :, 10:20, 12:17] = 1.0
    images[:, :, 10, 12] = 2.0
    batch = images, torch.arange(64)
    found, classes = torchvision_images.augment(batch, torch.Generator().manual_seed(1))
    assert torch.equal(classes, batch[1])
    assert torch.equal(found.sum((1, 2, 3)), images.sum((1, 2, 3)))
    places = {tuple((each[0] == 2).nonzero()[0].tolist()) for each in found}
    assert {row for row, _ in places} <= set(range(6, 15))
    assert {column for _, column in places} <= {*range(8, 17), *range(15, 24)}
    assert len(places) > 30


def test_grey_images_are_not_mirrored():
    images = torch.zeros(64, 1, 28, 28)
    images[:, :, 14, 10] = 1.0
    found, _ = torchvision_images.augment((images, None), torch.Generator().manual_seed(1))
    columns = {int((each[0] == 1).nonzero()[0][1]) for each in found}
    assert columns == set(range(6, 15))


@pytest.mark.parametrize(("kind", "images"), [("mlp", "MNIST"), ("cnn", "CIFAR10")])
def test_models_take_the_images(kind, images):
    model = torchvision_images.model(images, kind, width=8)
    shape = (2, 1, 28, 28) if images == "MNIST" else (2, 3, 32, 32)
    assert model(torch.rand(shape)).shape == (2, 10)


def test_without_torchvision_the_error_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    with pytest.raises(SharpError, match="torchvision, which reads the images, cannot be imported"):
        torchvision_images.data("train")


def test_a_torchvision_of_another_torch_is_named_by_every_task_that_needs_it(tmp_path, monkeypatch):
    folder = tmp_path / "torchvision"
    folder.mkdir()
    text = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
    (folder / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    cifar10 = load_task(str(experiments()["cattaneo-adam-batch-images"] / "cifar10.py"), {})
    for each in (torchvision_images, squared_cifar10, cifar10):
        with pytest.raises(SharpError, match="cannot be imported: operator torchvision::nms"):
            each.data("train")
