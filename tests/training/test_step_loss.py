import pytest
import torch
from torch import nn

from sharpcli.errors import SharpError
from sharpcli.tasks import Task, defaults
from sharpcli.training.step_loss import differentiable, loss_sum, mean_loss


def weighted(outputs, batch):
    """The sum over tokens and their number, of each example."""
    losses = (outputs - batch[1]).square() * batch[2]
    return losses.sum(1), batch[2].sum(1)


def task(loss):
    return Task("small", {}, "", lambda: None, lambda _: None, defaults.predict, loss)


def test_the_mean_is_over_weights():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    batch = torch.randn(4, 3), torch.randn(4, 2), torch.tensor([[1.0, 1], [1, 0], [0, 1], [1, 1]])
    losses = (model(batch[0]) - batch[1]).square() * batch[2]
    expected = losses.sum() / 6
    torch.testing.assert_close(mean_loss(task(weighted), model, batch, 4), expected)
    total, weight = loss_sum(task(weighted), model, batch, 4)
    torch.testing.assert_close(total / weight, expected)


def test_the_default_loss_has_a_faster_way_to_the_same_mean():
    torch.manual_seed(0)
    model, batch = nn.Linear(3, 2), (torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    fast = defaults.loss_for("small")
    assert fast.training_mean(model(batch[0]), batch) is not None
    slow = task(lambda outputs, batch: fast(outputs, batch))
    found = [mean_loss(each, model, batch, 4) for each in (task(fast), slow)]
    torch.testing.assert_close(*found, check_dtype=False)  # float64 by the slow way


def test_a_loss_without_a_gradient_is_refused():
    model, batch = nn.Linear(3, 2), (torch.randn(4, 3), torch.zeros(4, 2), torch.ones(4, 2))
    detached = task(lambda outputs, batch: weighted(outputs.detach(), batch)[0])
    with pytest.raises(SharpError, match="the loss has no gradient") as caught:
        differentiable(mean_loss(detached, model, batch, 4))
    assert caught.value.hint.endswith("and run neither under torch.no_grad()")
