"""Distances between the paths of runs, against the weights that the runs saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharpcli.checkpoint.safetensors_file import read_safetensors
from sharpcli.errors import UsageError
from sharpcli.runs.path_distances import write_distances
from sharpcli.runs.sweep import sweep

TASK = """
import torch
from torch import nn
def model():
    return nn.Linear(2, 1)
def data(split):
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    return x, x.sum(1, keepdim=True)
"""
SWEEP = """
task = "task.py"
[fixed]
batch_size = 3
steps = 5
SAVE
[grid]
lr = [0.1, 0.2]
momentum = [0.0, 0.5]
seed = [0, 1]
"""
PLAN = {"stage": "trained", "to": {"momentum": 0.0}}


def trained(folder: Path, save: str) -> None:
    (folder / "task.py").write_text(TASK, "utf-8")
    (folder / "trained.toml").write_text(SWEEP.replace("SAVE", save), "utf-8")
    sweep(folder / "trained.toml", folder / "trained")


def test_each_run_is_compared_with_the_one_that_differs_in_the_named_settings(
    tmp_path: Path,
) -> None:
    trained(tmp_path, "save_every = 2")
    write_distances("apart", PLAN, tmp_path)
    found = json.loads((tmp_path / "apart" / "distances.json").read_text("utf-8"))
    assert len(found) == 4
    own = found["lr=0.2,momentum=0.5,seed=1"]
    assert own["to"] == "lr=0.2,momentum=0.0,seed=1"
    assert own["steps"] == [0, 2, 4, 5]
    assert own["distances"][0] == 0
    ends = [
        read_safetensors(tmp_path / "trained" / name / "model.safetensors").tensors
        for name in ("lr=0.2,momentum=0.5,seed=1", own["to"])
    ]
    squares = sum(float((ends[0][name] - ends[1][name]).square().sum()) for name in ends[0])
    assert own["distances"][-1] == pytest.approx(squares**0.5, rel=1e-6)


def test_runs_without_a_path_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, "")
    with pytest.raises(UsageError, match="no weights of its way"):
        write_distances("apart", PLAN, tmp_path)
