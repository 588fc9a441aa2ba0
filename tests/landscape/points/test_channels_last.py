"""Forward passes with images and filters stored channels last: the same numbers, or not at all."""

import pytest
import torch
from networks import CASES, images, objective, task
from torch import nn

from sharpcli.errors import SharpError
from sharpcli.landscape.points.channels_last import channels_last

SHAPE = images(1, torch.Generator())[0].shape[1:]
INNER = (SHAPE[1] - 2) * (SHAPE[2] - 2)


class _Viewing(nn.Module):
    """Looks at its features by `view`, which asks for the usual layout."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(SHAPE[0], 3, 3), nn.Linear(3 * INNER, 2)

    def forward(self, inputs):
        features = self.conv(inputs).relu()
        return self.head(features.view(len(inputs), -1))


class _Peeping(nn.Module):
    """Computes with how its features lie in memory, which no model should."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(SHAPE[0], 3, 3)

    def forward(self, inputs):
        features = self.conv(inputs)
        return features.flatten(1)[:, :3] * features.stride(1)


def convolutional():
    return [name for name, of in CASES.items() if _has_filters(of.model())]


def _has_filters(model):
    return any(parameter.ndim == 4 for parameter in model.parameters())


@pytest.mark.parametrize("name", convolutional())
def test_the_numbers_are_the_same_to_rounding(name):
    usual, theta = objective(CASES[name])
    moved = channels_last(usual, theta)
    assert moved is not usual
    assert moved.loss(theta) == pytest.approx(usual.loss(theta), rel=1e-13)
    inputs = moved.rows.batch[0]
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(inputs, usual.rows.batch[0])
    names, values = moved.moments(theta)
    assert names == usual.moments(theta)[0]
    assert torch.allclose(values, usual.moments(theta)[1], rtol=1e-12)


def test_there_are_networks_with_filters():
    assert {*convolutional()} >= {"conv", "batch_norm"}


@pytest.mark.parametrize("model", [_Viewing, _Peeping])
def test_a_model_that_asks_for_the_usual_layout_keeps_it(model):
    usual, theta = objective(task(model, images, metrics=None))
    assert channels_last(usual, theta) is usual


def test_so_does_one_whose_failure_names_the_task():
    def guarded(model, batch):  # as the predict() of a task file is
        try:
            return model(batch[0])
        except RuntimeError as error:
            raise SharpError(f"task.py: predict(model, batch) raised {error}") from error

    usual, theta = objective(task(_Viewing, images, predict=guarded, metrics=None))
    assert channels_last(usual, theta) is usual


def test_without_filters_there_is_nothing_to_move():
    usual, theta = objective(CASES["tanh"])
    assert channels_last(usual, theta) is usual
