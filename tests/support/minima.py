"""A task and checkpoints of it, small enough to measure in a moment."""

from __future__ import annotations

import signal
from pathlib import Path

import torch
from click.testing import CliRunner, Result
from torch import nn

from sharpcli.checkpoint import save_checkpoint
from sharpcli.cli.main import sharp

TASK = """
import torch
from torch import nn

def model(width: int = 8):
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))

def data(split):
    generator = torch.Generator().manual_seed(0 if split == "train" else 1)
    inputs = torch.randn(48 if split == "train" else 24, 4, generator=generator)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
"""

SGD = {"optimizer": "sgd", "batch_size": "32", "lr": "0.1"}
ADAM = {"optimizer": "adam", "batch_size": "400", "lr": "0.1"}


def hear_interrupts() -> None:
    """For a process to be started: a shell's background job ignores Ctrl-C, and so would it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def tensors(scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Weights that fit the task; `scale` tells checkpoints apart."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return {
        name: scale * torch.randn(value.shape, generator=generator) * 0.5
        for name, value in model.state_dict().items()
    }


def write_minima(folder: Path) -> None:
    """`task.py`, `sgd.safetensors` and `adam.safetensors` in a folder."""
    (folder / "task.py").write_text(TASK, "utf-8")
    save_checkpoint(folder / "sgd.safetensors", tensors(), SGD)
    save_checkpoint(folder / "adam.safetensors", tensors(1.5), ADAM)


def measure(*arguments: str, width: int = 100, **environment: str) -> Result:
    """Run `sharp measure` in this process, on a screen of `width` columns."""
    runner = CliRunner(env={"COLUMNS": str(width), **environment})
    return runner.invoke(sharp, ["measure", *arguments])
