"""Sweeps whose runs are trained together: the same folder as one by one."""

import subprocess
import sys
import time

import pytest
from tiny_sweeps import checkpoints, write

from sharpcli.runs import sweep_run, sweep_together
from sharpcli.runs.sweep import Watch, sweep
from sharpcli.runs.sweep_together import Way
from sharpcli.training import stack, together
from sharpcli.training.state import StateFile

TASK = """
import torch
def model(width: int = 16):
    return torch.nn.Sequential(
        torch.nn.Linear(16, width), torch.nn.ReLU(), torch.nn.Linear(width, 2)
    )
def data(split):
    x = torch.randn(37, 16, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long()
"""
FILE = """
task = "task.py"
[fixed]
epochs = 8
batch_size = 16
[grid]
lr = [0.1, 1e30]
seed = [0, 1]
[[list]]
name = "adam"
optimizer = "adam"
"""


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Neither the number of steps nor a timing decides."""
    monkeypatch.setattr(together, "_FEWEST", 1)
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)


@pytest.fixture
def alone(monkeypatch):
    """The runs that are trained by themselves, in order."""
    names = []
    train = sweep_run.train_and_save

    def recorded(task, settings, output, progress, **others):
        names.append(output.parent.name)
        return train(task, settings, output, progress, **others)

    monkeypatch.setattr(sweep_run, "train_and_save", recorded)
    return names


def known(document):
    """All that the document says but the time and the place."""
    results = []
    for result in document["results"]:
        checkpoint = {k: v for k, v in result["checkpoint"].items() if k != "path"}
        kept = {k: v for k, v in result.items() if k != "seconds"}
        results.append(kept | {"checkpoint": checkpoint})
    return results


def test_the_same_bytes_together_and_one_by_one(tmp_path, alone):
    file, sizes = write(tmp_path, FILE, TASK), []
    found = sweep(file, tmp_path / "a", watch=Watch(together=sizes.append))
    assert alone == ["adam"]
    assert sizes == [[4]]
    wanted = sweep(file, tmp_path / "b", way=Way.ONE_BY_ONE)
    assert len(alone) == 6
    assert known(found) == known(wanted)
    assert [r["status"] for r in found["results"]] == ["ok", "ok", "failed", "failed", "ok"]
    assert len(checkpoints(tmp_path / "a")) == 3
    assert checkpoints(tmp_path / "a") == checkpoints(tmp_path / "b")
    assert not [*(tmp_path / "a").glob(".together*")]


def test_a_killed_group_goes_on_and_trains_nothing_twice(tmp_path, alone, monkeypatch):
    file, out = write(tmp_path, FILE.replace("[0, 1]", "[0, 1, 2]"), TASK), tmp_path / "out"
    sweep(file, tmp_path / "whole")
    keep, steps = sweep_together._keep, []
    monkeypatch.setattr(StateFile, "due", True)

    def killed(folder, run, *others):
        keep(folder, run, *others)
        if run.name == "lr=0.1,seed=0":
            raise KeyboardInterrupt

    monkeypatch.setattr(sweep_together, "_keep", killed)
    before = sweep(file, out)
    assert [r["run"] for r in before["results"] if r["status"] == "ok"] == ["lr=0.1,seed=0"]
    monkeypatch.setattr(sweep_together, "_keep", keep)
    step = stack.Stack.step
    monkeypatch.setattr(stack.Stack, "step", lambda s: (steps.append(s.members), step(s)))
    sweep(file, out)
    assert steps == [[0, 1]]  # the last one, of the two that were not kept
    assert alone == ["adam", "adam"]
    assert checkpoints(out) == checkpoints(tmp_path / "whole")


HOLD = """
import sys
from pathlib import Path
from sharpcli.runtime.files import reserved

with reserved(*map(Path, sys.argv[1:])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_another_process_that_has_a_part_of_a_group_keeps_its_state(tmp_path, monkeypatch):
    file, out = write(tmp_path, FILE.replace("[0, 1]", "[0, 1, 2]"), TASK), tmp_path / "out"
    keep = sweep_together._keep
    monkeypatch.setattr(StateFile, "due", True)

    def killed(folder, run, *others):
        if run.name == "lr=0.1,seed=0":
            raise KeyboardInterrupt
        keep(folder, run, *others)

    monkeypatch.setattr(sweep_together, "_keep", killed)
    sweep(file, out)
    monkeypatch.setattr(sweep_together, "_keep", keep)
    (state,) = out.glob(".together-*.state")
    before = state.read_bytes()
    held = [out / "lr=0.1,seed=1" / "model.safetensors", state]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, *map(str, held)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        found = sweep(file, out)
        other.communicate("\n")
    left = [each["run"] for each in found["results"] if each["status"] == "waiting"]
    assert left == ["lr=0.1,seed=1"]
    assert state.read_bytes() == before


def test_groups_for_all_jobs(tmp_path):
    file = write(tmp_path, FILE, TASK)
    sizes = []
    sweep(file, tmp_path / "jobs", jobs=2, watch=Watch(together=sizes.append))
    sweep(file, tmp_path / "one", way=Way.ONE_BY_ONE)
    assert sizes == [[3]]
    assert checkpoints(tmp_path / "jobs") == checkpoints(tmp_path / "one")


@pytest.mark.parametrize("jobs", [1, 2])
def test_why_runs_are_trained_one_by_one_is_said(tmp_path, jobs):
    task = TASK.replace("torch.nn.ReLU()", "torch.nn.Dropout(0.5)")
    lines = []
    file = write(tmp_path, FILE.replace("[0.1, 1e30]", "[0.1, 0.2]"), task)
    sweep(file, tmp_path / "out", jobs=jobs, watch=Watch(noted=lines.append))
    runs = "3 runs" if jobs == 2 else "4 runs"
    said = "trained one by one: their weights would differ by rounding, which together allows"
    assert lines == [f"{runs} {said}"]
