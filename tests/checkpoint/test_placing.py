"""Checkpoints that a training starts from, or that a measure compares with, load like others."""

import copy

import pytest
import torch
from self_loading import Created, Derived, Halved, Versioned, match, old, task, trained
from torch import nn

from sharpcli import MeasureSettings, RunSettings, measure_checkpoints
from sharpcli.checkpoint import read_checkpoint, save_checkpoint
from sharpcli.checkpoint.own_hooks import held, stored
from sharpcli.checkpoint.placing import give, put
from sharpcli.errors import UsageError
from sharpcli.runs.train import train_and_save
from sharpcli.runtime.progress import Notes
from sharpcli.training import TrainSettings


@pytest.mark.parametrize("kind", [Versioned, Derived, Halved, Created])
def test_what_is_given_is_what_torch_loads(tmp_path, kind):
    state = old(trained(kind).state_dict())
    torch.save(state, tmp_path / "a.pt")
    model, theirs = kind(), kind()
    give(model, match(tmp_path / "a.pt", model))
    theirs.load_state_dict(state)
    mine = dict(model.named_buffers()) | dict(model.named_parameters())
    others = dict(theirs.named_buffers()) | dict(theirs.named_parameters())
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[name], each) for name, each in others.items())


@pytest.mark.parametrize("kind", [Versioned, Halved])
def test_sharp_s_own_files_keep_the_versions(tmp_path, kind):
    model = trained(kind)
    save_checkpoint(tmp_path / "a.safetensors", stored(model), {"lr": 0.1})
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.metadata == {"lr": 0.1}
    assert checkpoint.tensors.versions[""] == {"version": 2}
    found = match(tmp_path / "a.safetensors", kind())
    assert torch.equal(found.tensors["scale"], held(model)["scale"])


def test_other_models_files_are_as_they_were(tmp_path):
    model = nn.Linear(2, 2)
    plain = save_checkpoint(tmp_path / "a.safetensors", model.state_dict(), {})
    assert save_checkpoint(tmp_path / "b.safetensors", stored(model), {}).sha256 == plain.sha256


@pytest.mark.parametrize("text", ["no JSON", "[3]", '{"": 3}'])
def test_metadata_that_are_no_versions(tmp_path, text):
    save_checkpoint(tmp_path / "a.safetensors", {"w": torch.ones(1)}, {"_metadata": text})
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert not getattr(checkpoint.tensors, "versions", None)


@pytest.mark.parametrize("kind", [Versioned, Halved])
def test_a_state_dict_of_the_model_s_own(kind):
    model, other = trained(kind), kind()
    put(other, dict(model.state_dict()))
    assert all(torch.equal(held(other)[name], each) for name, each in held(model).items())


def weights_after(path, output, **settings):
    said = []
    notes = Notes(note=said.append)
    trained = train_and_save(
        task(Versioned),
        TrainSettings("sgd", lr=1e-12, steps=1, init=str(path), **settings),
        output,
        notes=notes,
    )
    return trained.tensors, "\n".join(said)


def test_a_training_starts_from_what_torch_loads(tmp_path):
    state = old(trained(Versioned).state_dict())
    torch.save({"model": state}, tmp_path / "a.pt")
    tensors, notes = weights_after(tmp_path / "a.pt", tmp_path / "b.safetensors")
    torch.testing.assert_close(tensors["scale"], state["scale"] / 2)
    assert "a.pt: loaded by the model's own code" in notes
    found = match(tmp_path / "b.safetensors", Versioned())
    assert torch.equal(found.tensors["scale"], tensors["scale"])


def test_a_training_starts_from_a_part_and_from_an_average(tmp_path):
    state = trained(Versioned).state_dict()
    average = copy.deepcopy(state)
    average["scale"] += 1
    torch.save({"model": state, "ema": average}, tmp_path / "a.pt")
    tensors, _ = weights_after(tmp_path / "a.pt", tmp_path / "b.safetensors", init_weights="ema")
    torch.testing.assert_close(tensors["scale"], average["scale"])
    torch.save({"first.weight": state["first.weight"]}, tmp_path / "part.pt")
    with pytest.raises(Exception, match="does not fit"):
        weights_after(tmp_path / "part.pt", tmp_path / "b.safetensors")
    tensors, notes = weights_after(
        tmp_path / "part.pt", tmp_path / "c.safetensors", init_partial=True
    )
    torch.testing.assert_close(tensors["first.weight"], state["first.weight"])
    assert "the file has 1 of the model's 5 tensors" in notes


@pytest.mark.parametrize("more", [{"init_weights": "ema"}, {"init_partial": True}])
def test_settings_of_no_checkpoint(more):
    with pytest.raises(UsageError, match="there is no checkpoint to take them from"):
        TrainSettings("sgd", **more)


def test_the_distance_is_from_what_torch_loads(tmp_path):
    state = trained(Versioned).state_dict()
    average = copy.deepcopy(state)
    average["scale"] += 1
    torch.save({"model": state, "ema": average}, tmp_path / "end.pt")
    torch.save(old(state), tmp_path / "begin.pt")
    report = measure_checkpoints(
        [tmp_path / "end.pt"],
        task(Versioned),
        run=RunSettings(weights="ema"),
        settings=MeasureSettings(
            measures=("distance-from-initialisation",), initial=tmp_path / "begin.pt"
        ),
    )
    (result,) = report.results
    distance = result.measures["distance_from_initialisation"]["norm"].value
    apart = average["scale"] - state["scale"] / 2
    assert distance == pytest.approx(float(apart.norm()), rel=1e-5)
    said = "\n".join(result.warnings)
    assert "has no weights 'ema'" in said and "its usual weights are taken" in said
