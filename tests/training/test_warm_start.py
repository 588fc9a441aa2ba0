"""Trainings that start from a checkpoint, with or without its optimizer's state."""

import json
import math
from dataclasses import replace
from hashlib import sha256

import plain_loops as plain
import pytest
import torch
from torch import nn

from sharpcli.checkpoint import load_checkpoint, save_checkpoint
from sharpcli.errors import SharpError, UsageError
from sharpcli.runs.train import train_and_save
from sharpcli.tasks import Task, defaults
from sharpcli.training import TrainSettings
from sharpcli.training.loop import train
from sharpcli.training.state import StateFile, encoded
from sharpcli.training.warm_start import _parameters


def task(width=8, kind=torch.float32):
    inputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=kind)
    return Task(
        name="small",
        options={},
        fingerprint="",
        model=lambda: nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2)).to(kind),
        data=lambda split: (inputs, (inputs.sum(1) > 0).long()),
        predict=defaults.predict,
        loss=defaults.loss_for("small"),
    )


@pytest.fixture
def first(tmp_path):
    return tmp_path / "first.safetensors"


FULL = {"batch_size": 30}
OPTIMIZERS = {
    "sgd": {"momentum": 0.9},
    "adam": {},
    "adamw": {"weight_decay": 0.1},
    "rmsprop": {},
    "nadam": {},
    "muon": {},
    "lion": {},
    "ademamix": {},
    "prodigy": {},
    "schedulefreeadamw": {},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_full_batch_steps_go_on_as_if_there_had_been_no_end(tmp_path, first, name):
    """N steps and M more are N + M steps, to the last bit."""
    if name in ("lion", "ademamix", "prodigy", "schedulefreeadamw"):
        pytest.importorskip("pytorch_optimizer")
    settings = TrainSettings(name, **FULL, **OPTIMIZERS[name])
    train_and_save(task(), replace(settings, steps=7, save_optimizer=True), first)
    more = replace(settings, steps=5, init=str(first), init_optimizer=True)
    went_on = train(task(), more)
    whole = train(task(), replace(settings, steps=12))
    if name == "schedulefreeadamw":  # it rounds where it switches between its two sets of weights
        close = torch.testing.assert_close
        assert went_on.tensors.keys() == whole.tensors.keys()
        for key, tensor in whole.tensors.items():
            close(went_on.tensors[key], tensor, rtol=1e-5, atol=1e-7)
    else:
        assert all(torch.equal(went_on.tensors[k], whole.tensors[k]) for k in whole.tensors)
    # Without the state it is another training, but where steps have one size and the signs agree.
    if name not in ("prodigy", "lion"):
        alone = train(task(), replace(more, init_optimizer=False))
        assert any(not torch.equal(alone.tensors[k], whole.tensors[k]) for k in whole.tensors)


def test_the_state_file_has_the_hand_written_momentum(first):
    """v ← βv + g over the steps, in float64: the third step's velocity is that of the formula."""
    settings = TrainSettings("sgd", lr=0.05, momentum=0.9, batch_size=24, steps=3)
    train_and_save(plain.task(), replace(settings, save_optimizer=True), first)
    w, v = plain.START.copy(), 0 * plain.START
    for _ in range(5):
        v = 0.9 * v + plain.gradient(w)
        w = w - 0.05 * v
    more = replace(settings, steps=2, init=str(first), init_optimizer=True)
    (found,) = train(plain.task(), more).tensors.values()
    torch.testing.assert_close(found[0].double(), torch.tensor(w), rtol=1e-5, atol=1e-6)


def test_the_rate_and_the_options_are_the_new_ones(first):
    settings = TrainSettings("sgd", lr=0.05, momentum=0.9, batch_size=24, steps=3)
    train_and_save(plain.task(), replace(settings, save_optimizer=True), first)
    w, v = plain.START.copy(), 0 * plain.START
    for step in range(5):
        rate, beta = (0.05, 0.9) if step < 3 else (0.02, 0.5)
        v = beta * v + plain.gradient(w)
        w = w - rate * v
    given = {"lr": 0.02, "momentum": 0.5, "steps": 2, "init": str(first), "init_optimizer": True}
    (found,) = train(plain.task(), replace(settings, **given)).tensors.values()
    torch.testing.assert_close(found[0].double(), torch.tensor(w), rtol=1e-5, atol=1e-6)


def test_batches_are_those_of_a_training_from_the_start(first):
    """A warm start at the initial weights is the training itself."""
    settings = TrainSettings(batch_size=7, steps=9)
    torch.manual_seed(0)
    save_checkpoint(first, task().model().state_dict(), {})
    cold, warm = train(task(), settings), train(task(), replace(settings, init=str(first)))
    assert all(torch.equal(cold.tensors[k], warm.tensors[k]) for k in cold.tensors)


def test_metadata_name_where_it_started(tmp_path, first):
    train_and_save(task(), TrainSettings(steps=2, save_optimizer=True), first)
    second = tmp_path / "second.safetensors"
    settings = TrainSettings(steps=2, init=first.name, init_optimizer=True, save_every=1)
    train_and_save(task(), settings, second, inits=tmp_path)
    metadata = load_checkpoint(second).metadata
    assert metadata["init"] == "first.safetensors"
    assert metadata["init_sha256"] == load_checkpoint(first).sha256
    assert metadata["init_optimizer"] is True
    steps = sorted((tmp_path / "second.safetensors.path").iterdir())
    assert load_checkpoint(steps[0]).metadata["init_sha256"] == metadata["init_sha256"]
    start, given = load_checkpoint(steps[0]).tensors, load_checkpoint(first).tensors
    assert all(torch.equal(start[name], given[name]) for name in given)


def test_a_folder_is_its_checkpoint_with_the_state_beside_it(tmp_path):
    settings = TrainSettings("adam", batch_size=30, steps=4)
    output = tmp_path / "run" / "model.safetensors"
    output.parent.mkdir()
    train_and_save(task(), replace(settings, save_optimizer=True), output)
    more = replace(settings, init=str(output), init_optimizer=True)
    of_folder = train(task(), replace(more, init=str(output.parent))).tensors
    of_file = train(task(), more).tensors
    assert all(torch.equal(of_folder[name], of_file[name]) for name in of_file)


def test_a_torch_file_with_a_prefix_is_taken(tmp_path):
    model = task().model()
    torch.save({f"module.{k}": v for k, v in model.state_dict().items()}, tmp_path / "a.pt")
    trained = train(task(), TrainSettings(lr=1e-12, steps=1, init=str(tmp_path / "a.pt")))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trained.tensors[name], tensor)


def refused(message, hint, given, **more):
    with pytest.raises(SharpError, match=message) as e:
        train(task(**more), TrainSettings(batch_size=8, steps=3, **given))
    assert hint in e.value.hint


def test_what_does_not_fit_is_refused(tmp_path, first):
    adam = TrainSettings("adam", batch_size=8, steps=3)
    train_and_save(task(), adam, first)
    given = {"optimizer": "adam", "init": str(first)}
    refused("does not fit the task's model", "options", given, width=4)
    given["init_optimizer"] = True
    refused(r"first\.safetensors\.optimizer: there is no such file", "save_optimizer=True", given)
    train_and_save(task(), replace(adam, save_optimizer=True), first)
    refused("is the state of adam, not of adamw", "leave out", {**given, "optimizer": "adamw"})
    other = tmp_path / "first.safetensors.optimizer"
    before = other.read_bytes()
    other.write_bytes(b"no")
    refused("optimizer", "", given)
    save_checkpoint(other, {"a": torch.zeros(1)}, {"optimizer": "adam"})
    refused("does not hold an optimizer's state", "train the checkpoint again", given)
    kept = {"checkpoint": sha256(first.read_bytes()).hexdigest(), "sharpcli-optimizer/1": 3}
    save_checkpoint(other, {"a": torch.zeros(1)}, {"optimizer": json.dumps(kept)})
    refused("does not hold an optimizer's state", "train the checkpoint again", given)
    state = {"map": [["state", [1]], ["shared", 2], ["groups", []], ["own", []]]}
    parameters = encoded(_parameters(task().model()), {})
    known = [["name", "adam"], ["parameters", parameters], ["state", state]]
    kept["sharpcli-optimizer/1"] = {"map": known}
    save_checkpoint(other, {"a": torch.zeros(1)}, {"optimizer": json.dumps(kept)})
    refused("does not hold a state of this optimizer", "leave out init_optimizer", given)
    other.write_bytes(before)
    train_and_save(task(), replace(adam, steps=4), first)
    refused(r"belongs to other weights \(SHA-256 \w{12}…\)", "init_optimizer", given)
    with pytest.raises(SharpError, match="there is no such file"):
        train(task(), TrainSettings(steps=1, init=str(tmp_path / "none.safetensors")))
    with pytest.raises(UsageError, match="init_optimizer=True: there is no checkpoint"):
        TrainSettings(init_optimizer=True)


def test_weights_that_are_not_finite_are_refused(first):
    tensors = task().model().state_dict()
    tensors["0.bias"][0] = math.nan
    save_checkpoint(first, tensors, {})
    with pytest.raises(SharpError, match="nan"):
        train(task(), TrainSettings(steps=1, init=str(first)))


def test_a_state_that_cannot_be_saved_is_refused_after_the_first_step(first):
    pytest.importorskip("pytorch_optimizer")
    settings = TrainSettings("adashift", batch_size=8, steps=15, save_optimizer=True)
    with pytest.raises(SharpError, match="the state of AdaShift cannot be saved: deque"):
        train_and_save(plain.task(), settings, first)
    assert not first.exists()


class StoppedError(Exception):
    """The process ends here."""


class Stopping(StateFile):
    """Keeps the state of the first step, and stops after it."""

    @property
    def due(self):
        return True

    def write(self, state):
        if self.path.exists():
            raise StoppedError
        super().write(state)


def test_a_resume_knows_what_it_started_from(tmp_path, first):
    """It gives the same weights, and refuses another start under the same name."""
    adam = TrainSettings("adam", batch_size=8, steps=3, save_optimizer=True)
    train_and_save(task(), adam, first)
    more = replace(adam, steps=6, init=str(first), init_optimizer=True)
    whole = train(task(), more)
    output = tmp_path / "second.safetensors"
    with pytest.raises(StoppedError):
        train(task(), more, state=Stopping(output))
    went_on = train(task(), more, state=StateFile(output))
    assert all(torch.equal(went_on.tensors[k], whole.tensors[k]) for k in whole.tensors)
    train_and_save(task(), replace(adam, steps=4), first)
    with pytest.raises(SharpError, match="the digest of the initial weights was"):
        train(task(), more, state=StateFile(output))
