"""A small experiment with three stages, and calls of `sharp reproduce` that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TASK = """
import os
import time
import torch

def model():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

def data(split):
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(int(split == "test")))
    return x, (x[:, 0] * x[:, 1] > 0).long()

def predict(model, batch):
    time.sleep(float(os.environ.get("SHARP_TEST_SLEEP", "0")))
    return model(batch[0])
"""
EXPERIMENT = """
title = "Longer training fits better"
source = "nobody 1900"
design = "A small MLP on points of two classes"
minutes = 1

[[stage]]
name = "first"

[[stage]]
name = "second"

[[stage]]
name = "between"
[stage.interpolate]
stage = "first"
a = { lr = "smallest" }
b = { lr = "largest" }
points = 3
range = [0, 1]

[[claim]]
name = "lower"
claim = "A larger rate ends lower"
statistic = "difference"
value = "train.loss"
of = { lr = "largest" }
to = { lr = "smallest" }
direction = "below"
least = -0.001

[[claim]]
name = "sharper"
claim = "and sharper"
statistic = "ratio"
value = "hessian.eigenvalues[0]"
of = { lr = "largest" }
to = { lr = "smallest" }
direction = "above"
null = 1
least = 2

[[claim]]
name = "goes-on"
claim = "A second training ends lower than the first"
statistic = "difference"
value = "train.loss"
stage = "second"
of = {}
to_stage = "first"
to = { lr = 0.1 }
direction = "below"

[[figure]]
kind = "levels"
title = "loss over the rate"
over = "lr"
value = "train.loss"
x_log = true

[[figure]]
kind = "courses"
title = "loss over the steps"
value = "test.loss"
by = "lr"

[[figure]]
kind = "lines"
title = "between both"
stage = "between"
"""
FIRST = """
task = "task.py"
[fixed]
epochs = 2
batch_size = 8
evaluate_every = 3
[grid]
lr = [0.1, 0.5]
seed = [0, 1, 2]
[measure]
measures = ["loss", "hessian"]
top = 1
"""
SECOND = """
task = "task.py"
[fixed]
epochs = 1
batch_size = 8
lr = 0.1
init = "first/lr=0.1,seed={seed}/model.safetensors"
[grid]
seed = [0, 1, 2]
"""


def write(folder: Path) -> Path:
    """Write the experiment; gives its folder."""
    home = folder / "longer"
    home.mkdir()
    files = {"first.small.toml": FIRST, "second.small.toml": SECOND, "task.py": TASK}
    for name, text in {"experiment.toml": EXPERIMENT, **files}.items():
        (home / name).write_text(text, "utf-8")
    return home


def begin(folder: Path, output: str, *arguments: str, sleep: float = 0.0) -> subprocess.Popen[str]:
    """Start `sharp reproduce` in its own process group."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "sharpcli", "reproduce", "longer"),
            *("--output", output, "--json", *arguments),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SHARP_TEST_SLEEP": str(sleep)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str], seconds: float) -> bool:
    """Kill it and all that it started after so many seconds; whether it was still at work."""
    time.sleep(seconds)
    at_work = process.poll() is None
    if at_work:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return at_work
