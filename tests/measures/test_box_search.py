"""An objective in float64 beside a run in a narrower dtype."""

import pytest
import torch
from networks import CASES, dense_loss, objective, real_targets, squared_error, task
from torch import nn

from sharpcli.measures.box_search import in_double


@pytest.mark.parametrize("name", ["tanh", "batch_norm", "ignored_tokens", "tied", "mapping"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_the_loss_is_that_of_float64(name, batch_size):
    narrow, theta = objective(CASES[name], "float32", batch_size=batch_size)
    double = in_double(narrow, theta)
    assert double.loss(theta.double()) == pytest.approx(dense_loss(name), rel=1e-13)
    assert narrow.loss(theta) == pytest.approx(dense_loss(name), rel=1e-5)
    assert narrow.network.dtype == torch.float32, "the run's own objective changed"


def test_its_rows_can_be_taken_and_are_float64():
    narrow, theta = objective(CASES["tanh"], "float32")
    double = in_double(narrow, theta)
    indices = torch.tensor([3, 1, 8])
    assert double.rows.take(indices).batch[0].dtype == torch.float64
    assert double.rows.head(2).batch[0].dtype == torch.float64
    assert torch.equal(double.rows.take(indices).batch[1], narrow.rows.take(indices).batch[1])


def test_one_in_float64_is_itself():
    wide, theta = objective(CASES["tanh"], "float64")
    assert in_double(wide, theta) is wide


class InFloat32(nn.Module):
    """Has float32 written into it: what it gives stays narrow."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs):
        return self.layer(inputs).float()


class WithConstant(nn.Module):
    """Multiplies by a float32 matrix that is no buffer: float64 raises."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.constant = torch.ones(4, 1)

    def forward(self, inputs):
        return self.layer(inputs) @ self.constant


def narrow_loss(outputs, batch):
    return squared_error(outputs, (batch[0], batch[1].to(outputs.dtype)))


@pytest.mark.parametrize("model", [InFloat32, WithConstant])
def test_a_model_without_float64_has_none(model):
    of = task(model, real_targets(4, 1), loss=narrow_loss, metrics=None)
    narrow, theta = objective(of, "float32")
    assert in_double(narrow, theta) is None
