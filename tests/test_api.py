"""The public names, and measuring a model that is in memory."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import nn

import sharpcli
from sharpcli import MeasureSettings, RunSettings, SharpError


def _trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    inputs, classes = torch.randn(40, 4), torch.randint(0, 3, (40,))
    nn.functional.cross_entropy(model(inputs), classes).backward()
    return model, (inputs, classes)


@pytest.mark.parametrize("name", sharpcli.__all__)
def test_every_public_name_is_there(name):
    if name.endswith("Callback"):
        pytest.importorskip(name.removesuffix("Callback").lower())
    assert getattr(sharpcli, name).__doc__
    assert name in dir(sharpcli)


def test_there_is_nothing_else():
    with pytest.raises(AttributeError, match="has no attribute 'measures_of'"):
        _ = sharpcli.measures_of


def test_a_model_in_memory_is_measured_and_left_as_it_was():
    model, data = _trained()
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    report = sharpcli.measure_model(
        model, data, data, run=RunSettings(dtype="float64"), settings=MeasureSettings(top=3)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))
    document = sharpcli.to_document(report)
    schema = json.loads((Path(__file__).parents[1] / "docs/schema.json").read_text("utf-8"))
    jsonschema.validate(document, schema)
    (result,) = document["results"]
    assert result["measures"]["loss"]["gap"]["value"] == 0
    assert len(result["measures"]["hessian"]["eigenvalues"]) == 3


def test_a_loss_of_ones_own_replaces_the_default():
    model, (inputs, _) = _trained()
    targets = torch.rand(40, 3)  # may be scaled numbers or probabilities
    settings = MeasureSettings(measures=("loss",))
    with pytest.raises(SharpError, match="loss"):
        sharpcli.measure_model(model, (inputs, targets), settings=settings)
    report = sharpcli.measure_model(
        model,
        (inputs, targets),
        loss=lambda outputs, batch: (outputs - batch[1]).square().mean(1),
        settings=settings,
    )
    expected = (model.eval()(inputs) - targets).square().mean().detach()
    found = report.results[0].measures["loss"]["train"].value
    assert abs(found - float(expected)) <= 1e-6 * float(expected)
