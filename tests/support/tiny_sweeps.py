"""A tiny task and sweep files of it, for the tests of sweeps."""

from __future__ import annotations

from pathlib import Path

TASK = """
import torch
def model(width: int = 4):
    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 2))
def data(split):
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long()
"""
FOUR = """
task = "task.py"
options = { width = 3 }
[fixed]
epochs = 1
[grid]
optimizer = ["sgd", "adam"]
seed = [0, 1]
"""
NAMES = [f"optimizer={name},seed={seed}" for name in ("sgd", "adam") for seed in (0, 1)]


def write(folder: Path, content: str = FOUR, task: str = TASK) -> Path:
    """Write the task and a sweep file; gives the file's path."""
    (folder / "task.py").write_text(task, "utf-8")
    file = folder / "sweep.toml"
    file.write_text(content, "utf-8")
    return file


def checkpoints(folder: Path) -> dict[str, bytes]:
    """The bytes of each run's checkpoint, by the run's name."""
    files = folder.glob("*/model.safetensors")
    return {file.parent.name: file.read_bytes() for file in files}
