"""The map of the Hessian against numpy at single points; what a killed run keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sharpcli.documents.scalars import Scalar
from sharpcli.settings.exploring import DirectionSettings, GridSettings, LandscapeSettings
from sharpcli.settings.measuring import RunSettings
from torch import nn

from sharpcli.documents.statuses import Status
from sharpcli.landscape.points.journal import Journal
from sharpcli.landscape.points.walk import Watch
from sharpcli.runs import hessian_map
from sharpcli.runs.hessian_map import ratio_of
from sharpcli.runs.landscape import landscape_checkpoint
from sharpcli.tasks import Task, defaults

_POINTS = 2


def _task() -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 3, generator=generator)
    targets = torch.randint(3, (40,), generator=generator)
    return Task(
        name="tiny",
        options={},
        fingerprint="",
        model=lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)),
        data={"train": (inputs, targets), "test": None}.__getitem__,
        predict=defaults.predict,
        loss=defaults.loss_for("tiny"),
        metrics=defaults.metrics,
    )


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.pt"
    torch.save(_task().model().state_dict(), path)
    return path


def _mapped(checkpoint, watch=None):
    settings = LandscapeSettings(
        GridSettings((_POINTS,), ((0.0, 0.5),)), directions=DirectionSettings(), map="hessian"
    )
    run = RunSettings(split="train", dtype="float64")
    (found,) = landscape_checkpoint(
        checkpoint, _task(), run=run, settings=settings, watch=watch or Watch()
    ).results
    return found


def test_the_checkpoint_s_own_point_agrees_with_the_dense_hessian(checkpoint):
    found = _mapped(checkpoint)
    model = _task().model().double()
    model.load_state_dict(torch.load(checkpoint))
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    inputs, targets = _task().data("train")

    def loss(vector):
        parts = torch.split(vector, [math.prod(s) for s in shapes])
        own = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        outputs = torch.func.functional_call(model, own, (inputs.double(),))
        return nn.functional.cross_entropy(outputs, targets)

    values = np.linalg.eigvalsh(torch.autograd.functional.hessian(loss, theta).numpy())
    place = next(i for i, at in enumerate(found.coordinates) if (at.alpha, at.beta) == (0.0, 0.0))
    largest, smallest = found.hessian.largest[place], found.hessian.smallest[place]
    assert largest.value == pytest.approx(values[-1], abs=largest.error + 1e-9)
    assert smallest.value == pytest.approx(values[0], abs=smallest.error + 1e-9)
    ratio = found.hessian.ratio[place]
    assert ratio.value == pytest.approx(abs(values[0] / values[-1]), abs=ratio.error + 1e-9)
    assert len(found.hessian.ratio) == _POINTS**2
    assert [*found.curves] == ["train"]


def test_a_killed_map_goes_on_where_it_stopped(checkpoint, tmp_path, monkeypatch):
    asked, at = [], hessian_map._at

    def interrupted(*args):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(args)
        return at(*args)

    monkeypatch.setattr(hessian_map, "_at", interrupted)
    output = tmp_path / "map.json"
    journal = Journal(output)
    first = _mapped(checkpoint, Watch(journal=journal))
    journal.close()
    assert first.status == "interrupted"
    assert sum(each is None for each in first.hessian.ratio) == _POINTS**2 - 2
    monkeypatch.setattr(hessian_map, "_at", lambda *args: (asked.append(args), at(*args))[1])
    again = _mapped(checkpoint, Watch(journal=Journal(output)))
    assert len(asked) == _POINTS**2, "no point is computed twice"
    assert again.hessian == _mapped(checkpoint).hessian


def test_a_ratio_has_the_errors_of_both_ends_and_none_without_a_positive_largest():
    found = ratio_of(Scalar(-1.0, 0.1, "residual"), Scalar(4.0, 0.4, "residual"))
    assert (found.value, found.status) == (0.25, Status.CONVERGED)
    assert found.error == pytest.approx(math.hypot(0.1 / 4, 0.25 * 0.1))
    doubtful = ratio_of(Scalar(-1.0, 0.1, "residual", Status.MAX_PRODUCTS), Scalar(4.0))
    assert doubtful.status == Status.MAX_PRODUCTS
    assert ratio_of(Scalar(-1.0), Scalar(-0.5)).value is None
    assert ratio_of(Scalar(None, None, None, Status.NOT_FINITE), Scalar(1.0)).value is None
