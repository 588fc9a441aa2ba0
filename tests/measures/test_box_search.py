"""An objective in float64 beside a run in a narrower dtype."""

import pytest
import torch
from networks import CASES, dense_loss, objective, real_targets, squared_error, task
from torch import nn

from sharpcli import MeasureSettings, measure_model
from sharpcli.measures import box_search
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


def test_a_smaller_box_starts_from_the_maxima_of_the_larger(monkeypatch):
    """Half as large a box takes fewer gradients, and its maximum is no lower."""
    monkeypatch.setattr(box_search, "_FREE_BYTES", 1)  # as if passes were expensive
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(40, 5), torch.randint(0, 3, (40,))

    def found(*epsilons):
        settings = MeasureSettings(measures=("epsilon-sharpness",), epsilons=epsilons)
        entries = measure_model(model, data, settings=settings).results[0].measures
        return {entry["epsilon"]: entry for entry in entries["epsilon_sharpness"]}

    both, alone, far = found(5e-4, 1e-3), found(5e-4), found(5e-4, 5e-3)
    assert list(both) == [5e-4, 1e-3]  # as asked for, whatever the order of the searches
    assert both[1e-3]["value"] == found(1e-3)[1e-3]["value"]
    assert both[5e-4]["evaluations"] < alone[5e-4]["evaluations"]
    assert both[5e-4]["value"] >= alone[5e-4]["value"] * (1 - 1e-4)
    assert far[5e-4]["value"] == alone[5e-4]["value"]  # too much larger to help
