"""`sharp measure` of many checkpoints: ended by a signal and gone on, and as a training writes."""

import json
import signal
import time

import pytest
import torch
from ending import TASK, Forked
from torch import nn

from sharpcli.checkpoint import save_checkpoint
from sharpcli.runs import watching


@pytest.fixture
def folder(tmp_path):
    """A task that stops in the third checkpoint where a file `stop` is, and four checkpoints."""
    stop = 'if model[0].bias.sum() > 90 and os.path.exists("stop"):\n        time.sleep(60)\n    '
    task = TASK.replace("import os", "import os, time").replace(
        "return model(", stop + "return model("
    )
    assert "sleep" in task
    (tmp_path / "task.py").write_text(task, "utf-8")
    (tmp_path / "runs").mkdir()
    for seed in range(4):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        if seed == 2:
            model[0].bias.data.fill_(20.0)
        save_checkpoint(tmp_path / "runs" / f"run-{seed}.safetensors", model.state_dict(), {})
    return tmp_path


def start(folder, *arguments):
    """`sharp measure` in a fork of this process, which has PyTorch loaded."""
    return Forked(folder, ["measure", *arguments, "-t", "task.py", "-m", "loss"])


def ended(process, number, partial):
    """Send the signal when two checkpoints are finished; the exit code."""
    while not partial.exists() or partial.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(number)
    return process.wait()


def said(folder):
    return (folder / "stderr").read_text("utf-8")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_same_command_goes_on_and_measures_none_twice(folder, number):
    paths = [f"runs/run-{index}.safetensors" for index in range(4)]
    partial, output = folder / "r.json.partial", folder / "r.json"
    (folder / "stop").touch()
    process = start(folder, *paths, "--output", "r.json")
    code = ended(process, number, partial)
    kept = [json.loads(line) for line in partial.read_text("utf-8").splitlines()[1:]]
    assert [each["path"] for each in kept] == paths[:2]
    if number == signal.SIGTERM:
        assert code == 143, said(folder)
        assert output.exists(), said(folder)
        statuses = [each["status"] for each in json.loads(output.read_text("utf-8"))["results"]]
        assert statuses == ["ok", "ok", "failed", "failed"]
        assert "run-2, run-3: interrupted before it was measured" in said(folder)
    (folder / "stop").unlink()
    assert start(folder, *paths, "--output", "r.json").wait() == 0
    assert "2 checkpoints finished by a former run" in said(folder)
    results = json.loads(output.read_text("utf-8"))["results"]
    assert results[:2] == [each["result"] for each in kept]
    assert [each["status"] for each in results] == ["ok"] * 4
    assert not partial.exists()


def test_a_watch_that_is_ended_prints_what_it_has_and_goes_on(folder, monkeypatch):
    monkeypatch.setattr(watching, "_SETTLED", 0.1)  # the forks inherit it
    partial = folder / "r.json.partial"
    (folder / "stop").touch()
    command = ("--watch", "runs", "--output", "r.json")
    assert ended(start(folder, *command), signal.SIGINT, partial) == 130
    assert "run-0.safetensors: loss train" in said(folder)
    results = json.loads((folder / "r.json").read_text("utf-8"))["results"]
    assert [each["status"] for each in results] == ["ok", "ok", "failed"]
    assert partial.exists()
    (folder / "stop").unlink()
    assert start(folder, *command, "--watch-idle", "1").wait() == 0
    assert "2 checkpoints finished by a former run" in said(folder)
    assert len(json.loads((folder / "r.json").read_text("utf-8"))["results"]) == 4
    assert not partial.exists()
