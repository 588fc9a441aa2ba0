"""Trainings by `sharp train` that are ended from outside and repeated by the same command.

The task writes a line to a log for each pass in training mode. The command keeps its state every
few steps, so that a kill meets one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpcli.checkpoint.safetensors_file import read_safetensors

ROOT = Path(__file__).parents[2]
_PASS = 0.005  # seconds that a pass takes, about
TASK = """
import os
import time
import torch
from torch import nn

def model():
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2)
    )

def data(split):
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] * x[:, 1] > 0).long()

def predict(model, batch):
    if model.training:
        time.sleep(0.004)
        file = os.open(os.environ["SHARP_TEST_LOG"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(file, b"\\n")
        os.close(file)
    return model(batch[0])
"""
COMMAND = """
import sys
import sharpcli.training.state as state
state.SECONDS, state._SHARE = 0.03, 0
from sharpcli.cli.main import sharp
sharp(["train", "task.py", "--quiet", *sys.argv[1:]])
"""


@dataclass(frozen=True)
class Ended:
    """A training that came to its end: its checkpoint, its curves, and its passes."""

    checkpoint: bytes
    results: str
    passes: int


@dataclass(frozen=True)
class Killed:
    """What came of a training that was killed several times and repeated until it ended."""

    kept: list[int]  # steps in the state at each kill, 0 without a state
    again: int  # passes of the last run beyond those that the kept state leaves to it
    same: bool  # checkpoint and curves are those of an undisturbed training


def whole(folder: Path, arguments: Sequence[str]) -> Ended:
    """Train undisturbed."""
    folder.mkdir()
    (folder / "task.py").write_text(TASK, "utf-8")
    return _end(folder, _begin(folder, arguments))


def killed(
    folder: Path, arguments: Sequence[str], moments: Sequence[float], steps: int, expected: Ended
) -> Killed:
    """Kill the training after so many passes of each start, then let it end.

    The part of a moment after the point is that of a pass.
    """
    folder.mkdir()
    (folder / "task.py").write_text(TASK, "utf-8")
    state = folder / "model.safetensors.state"
    kept = []
    for moment in moments:
        process = _begin(folder, arguments)
        while _passes(folder) < int(moment) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moment % 1 * _PASS)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (folder / "model.safetensors").exists(), "it ended before it was killed"
        kept.append(_steps(state))
    found = _end(folder, _begin(folder, arguments))
    # Before its first step an undisturbed training is checked, by passes that a later one spares.
    checks = expected.passes % steps if not kept[-1] else 0
    again = found.passes - checks - expected.passes // steps * (steps - kept[-1])
    same = (found.checkpoint, found.results) == (expected.checkpoint, expected.results)
    return Killed(kept, again, same and not state.exists())


def _steps(state: Path) -> int:
    if not state.exists():
        return 0
    header = json.loads(str(read_safetensors(state).metadata["training"]))
    return int(dict(header["state"]["map"])["steps"])


def _begin(folder: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    (folder / "log").unlink(missing_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SHARP_TEST_LOG": str(folder / "log")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _passes(folder: Path) -> int:
    log = folder / "log"
    return log.stat().st_size if log.exists() else 0


def _end(folder: Path, process: subprocess.Popen[str]) -> Ended:
    _, said = process.communicate()
    assert process.returncode == 0, said
    curves = json.loads((folder / "model.safetensors.curves.json").read_text("utf-8"))
    return Ended(
        (folder / "model.safetensors").read_bytes(),
        json.dumps(curves["results"]),
        _passes(folder),
    )
