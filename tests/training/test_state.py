"""A training that is interrupted and goes on gives the same weights and curves, bit for bit."""

import copy
import functools
import json
import random
import signal
import subprocess
import sys
import time

import plain_loops as plain
import pytest
import torch
from safetensors.torch import save
from stopped_trainings import StoppedError, Stopping, interrupted, same
from torch import nn

from sharpcli.checkpoint.safetensors_file import read_safetensors
from sharpcli.errors import SharpError
from sharpcli.runs.train import notes
from sharpcli.tasks import Task, defaults
from sharpcli.training import TrainSettings, catalogue
from sharpcli.training.build import take_step
from sharpcli.training.loop import train
from sharpcli.training.state import (
    StateFile,
    decoded,
    encoded,
    optimizer_state,
    restore_optimizer,
)


def noisy():
    """Dropout, batch normalisation, and random numbers of Python's."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
            self.drop, self.last = nn.Dropout(0.3), nn.Linear(8, 2)

        def forward(self, inputs):
            scale = 1 + 0.1 * random.random() if self.training else 1.0
            return self.last(self.drop(self.norm(self.first(inputs)).relu())) * scale

    inputs = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
    data = inputs, (inputs.sum(1) > 0).long()
    return Task(
        "noisy", {}, "", Model, lambda _: data, defaults.predict, defaults.loss_for("noisy")
    )


@pytest.mark.parametrize("after", [1, 7])
def test_the_same_wherever_it_stops(tmp_path, after):
    settings = TrainSettings("adam", batch_size=8, steps=9, ema=0.9, clip_norm=0.5, accumulate=2)
    whole = train(noisy(), settings)
    same(whole, interrupted(noisy(), settings, tmp_path / "a.safetensors", after))


def test_what_a_schedule_has_observed_is_kept(tmp_path):
    """Three steps an epoch; it stops in the middle of epochs."""
    spec = "0.1:2, plateau(EXP(0.1, 0.99), factor=0.5, patience=0, threshold=0.5)"
    settings = TrainSettings(batch_size=8, steps=20, schedule=spec)
    whole = train(noisy(), settings)
    assert min(whole.curves.lr) < 0.1 * 0.5**2  # it has been reduced
    same(whole, interrupted(noisy(), settings, tmp_path / "a.safetensors", 4))


@pytest.mark.parametrize("optimizer", ["SAM", "ASAM"])
def test_sam_and_equal_averages_go_on_as_they_were(tmp_path, optimizer):
    options = {"base_optimizer": "adamw"}
    settings = TrainSettings(optimizer, batch_size=8, steps=26, swa=7, optimizer_options=options)
    whole = train(noisy(), settings)
    same(whole, interrupted(noisy(), settings, tmp_path / "a.safetensors", 5))


NEEDED = {"bsam": {"num_data": 24}, "ranger21": {"num_iterations": 100}}


OBJECTS = ("adashift", "conda", "fira", "galore", "scalableshampoo")  # in their state


def runnable():
    names = catalogue.names()
    return [name for name in names if names[name].partition(":")[2] not in catalogue.REFUSED]


@pytest.mark.parametrize("name", runnable())
def test_every_optimizer_goes_on_as_it_was(name):
    """Two copies of one network: the second one's optimizer is made anew after three steps."""
    settings = TrainSettings(name, optimizer_options=NEEDED.get(name, {}))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    inputs = torch.randn(12, 4)

    def steps(model, optimizer):
        def gradient():
            optimizer.zero_grad()
            loss = model(inputs).square().sum(1).mean()
            loss.backward()
            return loss

        for _ in range(3):
            take_step(optimizer, gradient, gradient())

    def built(model):
        optimizer = settings.kind.build(model.parameters(), settings)
        if hasattr(optimizer, "train"):
            optimizer.train()
        return optimizer

    optimizer = built(model)
    try:
        steps(model, optimizer)
    except SharpError as error:
        assert "cannot take a step" in error.message
        return
    tensors = {}
    try:
        kept = json.loads(json.dumps(encoded(optimizer_state(optimizer), tensors)))
    except TypeError:
        assert name in OBJECTS
        return
    again = copy.deepcopy(model)
    other = built(again)
    restore_optimizer(other, decoded(kept, tensors))
    random_state = torch.get_rng_state()
    steps(model, optimizer)
    torch.set_rng_state(random_state)
    steps(again, other)
    assert all(map(torch.equal, model.parameters(), again.parameters()))


def test_another_training_is_refused_naming_what_differs(tmp_path):
    output, settings = tmp_path / "a.safetensors", TrainSettings(batch_size=8, steps=9)
    file = Stopping(output)
    file.left = 2
    with pytest.raises(StoppedError):
        train(plain.task(), settings, state=file)
    other = TrainSettings("sgd", batch_size=4, steps=9, lr=0.2)
    with pytest.raises(SharpError, match=r"another training: lr was null and is 0\.2") as e:
        train(plain.task(), other, state=StateFile(output))
    assert "batch_size was 8 and is 4" in e.value.message
    assert "start over with resume=False" in e.value.hint
    fresh = train(plain.task(), other, state=StateFile(output, resume=False))
    same(fresh, train(plain.task(), other))


def test_what_cannot_be_kept_is_said(tmp_path):
    pytest.importorskip("pytorch_optimizer")
    settings = TrainSettings("adashift", batch_size=8, steps=15)
    file = Stopping(tmp_path / "a.safetensors")
    file.left = 99
    trained = train(plain.task(), settings, state=file)
    assert not file.path.exists()
    assert trained.problem == "deque is no plain value"
    (note,) = notes(settings, trained)
    assert "adashift" in note.lower()


@pytest.mark.parametrize(
    "given", [{"swa": 0.9, "until_loss": 9.0, "epochs": 50}, {"swa": 99.0, "epochs": 2}]
)
def test_an_average_that_never_began_is_said(given):
    settings = TrainSettings(batch_size=8, **given)
    (note,) = notes(settings, train(plain.task(), settings))
    assert "no average was begun" in note


def test_a_damaged_state_is_said(tmp_path):
    (tmp_path / "a.safetensors.state").write_bytes(b"no state")
    with pytest.raises(SharpError, match=r"a\.safetensors\.state"):
        train(plain.task(), TrainSettings(steps=2), state=StateFile(tmp_path / "a.safetensors"))


def _set(name, value):
    def edit(header, _tensors):
        for pair in header["state"]["map"]:
            if pair[0] == name:
                pair[1] = value

    return edit


def _wrong_shape(_header, tensors):
    tensors["0"] = torch.zeros(3, 3, 3)


def _deep(header, _tensors):
    header["state"] = functools.reduce(lambda inner, _: [inner], range(900), 1)


@pytest.mark.parametrize(
    "edit",
    [
        _set("steps", -5),
        _set("steps", "two"),
        _set("steps", 10**9),
        _set("model", {"map": []}),
        _set("optimizer", None),
        _set("order", {"map": [["epoch", 1], ["position", -7], ["before", 3]]}),
        _set("averages", None),
        _set("recorder", {"map": []}),
        _set("random", {"map": []}),
        _wrong_shape,
        _deep,
    ],
)
def test_a_state_that_makes_no_sense_is_one_message(tmp_path, edit):
    output, settings = tmp_path / "a", TrainSettings(batch_size=8, steps=9, ema=0.9)
    file = Stopping(output)
    file.left = 2
    with pytest.raises(StoppedError):
        train(plain.task(), settings, state=file)
    found = read_safetensors(file.path)
    header, tensors = json.loads(found.metadata["training"]), dict(found.tensors)
    edit(header, tensors)
    file.path.write_bytes(save(tensors, metadata={"training": json.dumps(header)}))
    with pytest.raises(SharpError, match=r"a\.state: does not hold a training's state") as e:
        train(plain.task(), settings, state=StateFile(output))
    assert e.value.hint == "start over with resume=False"


def test_a_state_that_finds_no_room_says_how_to_go_on(tmp_path, monkeypatch):
    def full(*_):
        raise SharpError("a.state: cannot be written: No space left on device", "name a file")

    monkeypatch.setattr("sharpcli.training.state.write_whole", full)
    file = Stopping(tmp_path / "a")
    file.left = 2
    with pytest.raises(SharpError, match="No space left") as e:
        train(plain.task(), TrainSettings(batch_size=8, steps=9), state=file)
    assert e.value.hint == "make room and repeat the command: it goes on from its last state"


TASK = """
import os
import time
import torch
def model():
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Dropout(0.2), torch.nn.Linear(5, 2))
def data(split):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long()
passes = 0
def predict(model, batch):
    global passes
    passes += model.training
    time.sleep(0.001)
    while passes > 100 and os.path.exists("stop"):  # so that it never ends before it is killed
        time.sleep(0.01)
    return model(batch[0])
"""
COMMAND = """
import sharpcli.training.state as state
state.SECONDS, state._SHARE = 0.0, 0
from sharpcli.cli.main import sharp
sharp(
    ["train", "task.py", "--optimizer", "adam", "--batch-size", "8", "--steps", "120"]
    + ["--save-every", "9", "--save-optimizer", "--dtype", "bfloat16", "--label-smoothing", "0.1"]
)
"""


def test_a_killed_command_goes_on_and_writes_the_same_bytes(tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    command = [sys.executable, "-c", COMMAND]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    ends = ("", ".curves.json", ".optimizer")
    files = [tmp_path / f"model.safetensors{end}" for end in ends]
    folder = tmp_path / "model.safetensors.path"

    def written():
        path = {file.name: file.read_bytes() for file in folder.iterdir()}
        results = json.loads(files[1].read_text("utf-8"))["results"]
        return files[0].read_bytes(), files[2].read_bytes(), path, results

    expected = written()
    assert len(expected[2]) == 15
    for file in files:
        file.unlink()
    state = tmp_path / "model.safetensors.state"
    assert not state.exists()
    (tmp_path / "stop").touch()
    for wait in (0.0, 0.05):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
        before = state.read_bytes() if state.exists() else None
        while not state.exists() or state.read_bytes() == before:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not files[0].exists()
    (tmp_path / "stop").unlink()
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert written() == expected
    assert not state.exists()


def test_a_batch_size_above_the_data_is_noted():
    settings = TrainSettings(batch_size=10_000, steps=2)
    trained = train(plain.task(), settings)
    taken = max(trained.curves.batch_size)
    (note,) = notes(settings, trained)
    assert note == (
        f"batch_size=10000: there are fewer training examples, so each step took {taken} examples "
        "at most"
    )
    assert not notes(TrainSettings(batch_size=taken, steps=2), trained)
