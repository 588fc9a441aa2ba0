"""Runs of `sharp sweep` that are ended from outside, and what the same command makes of the rest.

The task writes a line to a log for each model that is made, with the process and the training's
seed. A process may make the model of a run twice, to see whether runs can be trained together.

With a file `stop` beside the task, the runs of the last two seeds stop after some steps, so that
the sweep is at work when it is ended, however fast the machine is.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from minima import hear_interrupts
from tiny_sweeps import checkpoints

ROOT = Path(__file__).parents[2]
TASK = """
import os
import pathlib
import time
import torch

STOP = pathlib.Path(__file__).with_name("stop")

def model():
    file = os.open(os.environ["SHARP_TEST_LOG"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(file, f"{os.getpid()} {torch.initial_seed()}\\n".encode())
    os.close(file)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))

def data(split):
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long()

steps = {}

def predict(model, batch):
    time.sleep(float(os.environ.get("SHARP_TEST_SLEEP", "0")))
    if model.training:
        seed = torch.initial_seed()
        steps[seed] = steps.get(seed, 0) + 1
        while seed >= RUNS - 2 and steps[seed] > 20 and STOP.exists():
            time.sleep(0.01)
    return model(batch[0])
"""


def prepare(folder: Path, runs: int) -> None:
    """Write the task and a sweep of so many seeds."""
    (folder / "task.py").write_text(TASK.replace("RUNS", str(runs)), "utf-8")
    seeds = [*range(runs)]
    text = f'task = "task.py"\n[fixed]\nepochs = 5\nbatch_size = 8\n[grid]\nseed = {seeds}\n'
    (folder / "sweep.toml").write_text(text, "utf-8")


@dataclass(frozen=True)
class Repeated:
    """What came of a sweep that was killed and repeated."""

    finished: int  # runs with a checkpoint when it was killed
    again: int  # those of them that were trained once more, and runs that two processes trained
    checkpoints: dict[str, bytes]  # at the end


def begin(folder: Path, *arguments: str, sleep: float = 0.0) -> subprocess.Popen[str]:
    """Start `sharp sweep` in the folder, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "sharpcli", "sweep", "sweep.toml", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SHARP_TEST_LOG": str(folder / "log"),
            "SHARP_TEST_SLEEP": str(sleep),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )


def wait_for(folder: Path, process: subprocess.Popen[str], count: int) -> None:
    """Wait until so many runs of the sweep in `folder` are trained."""
    while len([*folder.glob("*/model.safetensors")]) < count and process.poll() is None:
        time.sleep(0.005)


def killed(
    folder: Path, moment: float, *arguments: str, sleep: float = 0.0, after: int = 0
) -> Repeated:
    """Kill the sweep so many seconds after its first training began, then let it end.

    With `after` it is so many seconds after that many runs are trained.
    """
    shutil.rmtree(folder / "killed", ignore_errors=True)
    log = folder / "log"
    log.unlink(missing_ok=True)
    stop = folder / "stop"
    if after:
        stop.touch()
    process = begin(folder, "--output", "killed", *arguments, sleep=sleep)
    while not log.exists() and process.poll() is None:
        time.sleep(0.005)
    wait_for(folder / "killed", process, after)
    time.sleep(moment)
    if "--on" in arguments:
        os.killpg(process.pid, signal.SIGKILL)  # jobs would train on
    else:
        process.send_signal(signal.SIGKILL)
    process.communicate()  # which ends when the workers have closed its streams
    stop.unlink(missing_ok=True)
    before = checkpoints(folder / "killed")
    log.unlink(missing_ok=True)
    again = begin(folder, "--output", "killed", *arguments)
    _, said = again.communicate()
    assert again.returncode == 0, said
    finished = {name.removeprefix("seed=") for name in before}
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    begun = {tuple(line.split()) for line in lines}
    seeds = [seed for _, seed in begun]
    twice = len(seeds) - len(set(seeds)) + len(finished & set(seeds))
    found = checkpoints(folder / "killed")
    assert all(found[name] == content for name, content in before.items())
    return Repeated(len(before), twice, found)
