"""Runs of `sharp landscape` that are killed, and what the same command makes of the rest.

The task writes a line to a log for every forward pass, with a digest of the parameters, so that it
can be told which points were computed, however a run ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sharpcli.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[2]
SIDE = 21
TRAIN, TEST = 48, 24
TASK = f"""
import hashlib
import os
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

def data(split):
    generator = torch.Generator().manual_seed(0 if split == "train" else 1)
    inputs = torch.randn({TRAIN} if split == "train" else {TEST}, 4, generator=generator)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()

def predict(model, batch):
    seen = hashlib.sha256()
    for parameter in model.parameters():
        seen.update(parameter.detach().numpy().tobytes())
    file = os.open(os.environ["SHARP_TEST_LOG"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(file, f"{{len(batch[0])}} {{seen.hexdigest()}}\\n".encode())
    os.close(file)
    return model(batch[0])
"""
COMMAND = (
    *("landscape", "a.safetensors", "-t", "task.py", "--points", str(SIDE)),
    *("--json", "--output", "out.json"),
)


@dataclass(frozen=True)
class Whole:
    """A run from beginning to end: its result, seconds on the grid, and the log's points."""

    result: bytes
    seconds: float
    points: list[str]


@dataclass(frozen=True)
class Resumed:
    """What came of a run that was killed and repeated."""

    finished: list[int]  # points in the file at each kill
    again: int  # points that were finished and computed once more
    in_flight: int  # points that were computed and not yet in the file when the run was killed
    same: bool  # the result has the bytes of an uninterrupted run's
    stderr: str


def prepare(folder: Path) -> None:
    """Write the task and a checkpoint."""
    (folder / "task.py").write_text(TASK, "utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    save_checkpoint(folder / "a.safetensors", model.state_dict(), {})


def whole(folder: Path) -> Whole:
    """Run the command undisturbed."""
    process = _start(folder, folder / "whole.log")
    _wait_for_journal(process, folder)
    started = time.monotonic()
    while not (folder / "out.json").exists() and process.poll() is None:
        time.sleep(0.001)
    seconds = time.monotonic() - started
    _ended_well(process)
    result = (folder / "out.json").read_bytes()
    (folder / "out.json").unlink()
    return Whole(result, seconds, _computed(folder / "whole.log"))


def killed(folder: Path, moments: list[float], expected: Whole) -> Resumed:
    """Kill the command at each moment (seconds after its file appears), then let it end.

    A run that has written its result before its moment comes is repeated, from the file that it
    began with, with an earlier one.
    """
    finished: list[int] = []
    done: set[str] = set()
    again = in_flight = 0
    log = folder / "killed.log"
    waiting: list[float | None] = [*moments, None]
    while waiting:
        moment = waiting.pop(0)
        log.unlink(missing_ok=True)
        partial = folder / "out.json.partial"
        kept = partial.read_bytes() if partial.exists() else None
        process = _start(folder, log)
        if moment is None:
            stderr = _ended_well(process)
        else:
            _wait_for_journal(process, folder)
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if not partial.exists() and (folder / "out.json").exists():
                (folder / "out.json").unlink()
                if kept is not None:
                    partial.write_bytes(kept)
                waiting.insert(0, 0.8 * moment)
                continue
        computed = _computed(log)
        again += len(done.intersection(computed))
        counts = Counter(computed)
        again += sum(count - 1 for count in counts.values())
        if moment is not None:
            recorded = _recorded(folder, done, computed)
            finished.append(len(recorded))
            in_flight += len(done | set(computed)) - len(recorded)
            done = recorded
    result = (folder / "out.json").read_bytes()
    (folder / "out.json").unlink()
    same = result == expected.result and not (folder / "out.json.partial").exists()
    return Resumed(finished, again, in_flight, same, stderr)


def _start(folder: Path, log: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sharpcli", *COMMAND],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "SHARP_TEST_LOG": str(log),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_journal(process: subprocess.Popen[str], folder: Path) -> None:
    while not (folder / "out.json.partial").exists() and process.poll() is None:
        time.sleep(0.001)


def _ended_well(process: subprocess.Popen[str]) -> str:
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return stderr


def _computed(log: Path) -> list[str]:
    """Digests of the points that a run's log holds, in order.

    A point is a pass over both splits. What comes before, on the checkpoint and on zeros, is left
    out, and so is the checkpoint's own point.
    """
    lines = [line.split() for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    own = lines[0][1] if lines else ""
    every = str(TRAIN + TEST)
    return [digest for rows, digest in lines if rows == every and digest != own]


def _recorded(folder: Path, before: set[str], computed: list[str]) -> set[str]:
    """The points that are in the file: those from before, and as many new ones as it has lines."""
    lines = (folder / "out.json.partial").read_bytes().split(b"\n")[:-1]
    points = [line for line in lines if b'"part":"surface"' in line]
    middle = SIDE**2 // 2  # the checkpoint's own, which the log's points leave out
    count = len(points) - (len(points) > middle)
    return before | set(computed[: count - len(before)])
