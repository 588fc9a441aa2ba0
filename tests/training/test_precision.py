"""The device and the arithmetic of a training: float64, bfloat16 steps, and what is refused."""

import random

import numpy as np
import plain_loops as plain
import pytest
import torch
from stopped_trainings import StoppedError, Stopping, interrupted, same
from torch import nn

from sharpcli.checkpoint import load_checkpoint
from sharpcli.errors import SharpError, UsageError
from sharpcli.runs.train import train_and_save
from sharpcli.tasks import Task, defaults
from sharpcli.training import TrainSettings
from sharpcli.training.loop import train
from sharpcli.training.precision import device_of


def task(seen=None):
    inputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.drop, self.last = nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2)

        def forward(self, x):
            hidden = self.first(x)
            if seen is not None:
                seen.append((self.training, x.dtype, hidden.dtype))
            return self.last(self.drop(hidden.tanh()))

    data = inputs, (inputs.sum(1) > 0).long()
    return Task("small", {}, "", Model, lambda _: data, defaults.predict, defaults.loss_for("s"))


def test_float64_is_that_of_a_plain_loop():
    settings = TrainSettings(
        "sgd", lr=0.03, momentum=0.9, batch_size=24, steps=100, dtype="float64"
    )
    (found,) = train(plain.task(), settings).tensors.values()
    assert found.dtype == torch.float64
    expected = plain.sgd([0.03] * 100, 0.9, 0.0)
    assert np.abs(found[0].numpy() - expected).max() <= 1e-9 * np.abs(expected).max()


def test_bfloat16_is_the_arithmetic_of_steps_only():
    seen = []
    trained = train(task(seen), TrainSettings(batch_size=10, steps=6, dtype="bfloat16"))
    assert {hidden for training, _, hidden in seen if training} == {torch.bfloat16}
    # The check that examples do not depend on each other is in float64.
    evaluated = {hidden for training, _, hidden in seen if not training}
    assert evaluated == {torch.float32, torch.float64}
    assert {each.dtype for each in trained.tensors.values()} == {torch.float32}


def test_bfloat16_steps_are_those_of_autocast():
    """A loop written here, with torch's autocast around the forward pass."""
    settings = TrainSettings(lr=0.1, batch_size=30, steps=5, dtype="bfloat16")
    inputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    targets = (inputs.sum(1) > 0).long()

    def model():
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    of = Task(
        *("small", {}, "", model, lambda _: (inputs, targets)),
        *(defaults.predict, defaults.loss_for("s")),
    )
    found = train(of, settings).tensors
    torch.manual_seed(0)
    own = model()
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = own(inputs)
        loss = nn.functional.cross_entropy(outputs.double(), targets)
        own.zero_grad()
        loss.backward()
        with torch.no_grad():
            for each in own.parameters():
                each -= 0.1 * each.grad
    for name, tensor in own.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    plainly = train(of, TrainSettings(lr=0.1, batch_size=30, steps=5)).tensors
    assert any(not torch.equal(plainly[name], found[name]) for name in found)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_it_goes_on_where_it_stopped(tmp_path, dtype):
    settings = TrainSettings("adam", batch_size=8, steps=9, ema=0.9, accumulate=2, dtype=dtype)
    whole = train(task(), settings)
    same(whole, interrupted(task(), settings, tmp_path / "a.safetensors", 2))


def test_metadata_name_what_is_not_the_default(tmp_path):
    output = tmp_path / "a.safetensors"
    for dtype, kept in ((None, None), ("float32", None), ("bfloat16", "bfloat16")):
        train_and_save(task(), TrainSettings(steps=1, dtype=dtype), output)
        assert load_checkpoint(output).metadata.get("dtype") == kept


def test_what_this_machine_lacks_is_refused(monkeypatch):
    with pytest.raises(UsageError, match=r"dtype=\S*float16"):
        TrainSettings(dtype="float16")
    with pytest.raises(UsageError, match=r"device=\S*nowhere"):
        train(task(), TrainSettings(steps=1, device="nowhere"))
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="sees 0 CUDA devices"):
            train(task(), TrainSettings(steps=1, device="cuda"))
    monkeypatch.setattr("torch.amp.is_autocast_available", lambda _: False)
    with pytest.raises(UsageError, match="cpu has no such arithmetic") as e:
        train(task(), TrainSettings(steps=1, dtype="bfloat16"))
    assert "float32" in e.value.hint
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SharpError, match="torchrun has started 2 processes"):
        device_of(TrainSettings())


def drawing():
    """A task whose model draws from Python's and NumPy's generators as well as torch's."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 2)
            with torch.no_grad():
                self.last.bias.fill_(float(np.random.normal()))

        def forward(self, x):
            scale = np.random.normal() + random.random() if self.training else 1.0
            return self.last(nn.functional.dropout(x, 0.1, self.training)) * (1 + 0.1 * scale)

    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    data = inputs, (inputs.sum(1) > 0).long()
    return Task("drawing", {}, "", Model, lambda _: data, defaults.predict, defaults.loss_for("d"))


def test_numbers_of_numpy_follow_the_seed_and_the_state(tmp_path):
    settings = TrainSettings(batch_size=8, steps=9)
    before = np.random.get_state()[1].copy()
    first = train(drawing(), settings)
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(5)
    same(first, train(drawing(), settings))
    same(first, interrupted(drawing(), settings, tmp_path / "a.safetensors", 2))
    other = train(drawing(), TrainSettings(batch_size=8, steps=9, seed=1))
    assert not torch.equal(first.tensors["last.bias"], other.tensors["last.bias"])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_gpu_goes_on_where_it_stopped(tmp_path, dtype):
    settings = TrainSettings(
        "adam", batch_size=8, steps=9, ema=0.9, accumulate=2, dtype=dtype, device="cuda"
    )
    whole = train(task(), settings)
    same(whole, train(task(), settings))
    same(whole, interrupted(task(), settings, tmp_path / "a.safetensors", 2))
    assert {each.device.type for each in whole.tensors.values()} == {"cpu"}


@pytest.mark.gpu
def test_a_gpu_gives_the_numbers_of_the_cpu():
    given = {"optimizer": "adam", "batch_size": 24, "steps": 50, "dtype": "float64"}
    cpu = train(plain.task(), TrainSettings(**given))
    gpu = train(plain.task(), TrainSettings(**given, device="cuda"))
    for name, tensor in cpu.tensors.items():
        torch.testing.assert_close(gpu.tensors[name], tensor, rtol=1e-10, atol=1e-12)
    assert gpu.train_loss == pytest.approx(cpu.train_loss, rel=1e-10)


@pytest.mark.gpu
def test_a_state_of_the_cpu_is_refused_on_a_gpu(tmp_path):
    settings = {"optimizer": "adam", "batch_size": 8, "steps": 9}
    output = tmp_path / "a.safetensors"
    file = Stopping(output)
    file.left = 1
    with pytest.raises(StoppedError):
        train(task(), TrainSettings(**settings), state=file)
    with pytest.raises(SharpError, match=r"device was cpu and is cuda \("):
        train(task(), TrainSettings(**settings, device="cuda"), state=Stopping(output))
