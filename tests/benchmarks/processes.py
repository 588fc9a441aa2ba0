"""Two processes with one thread each beside one: the same numbers, and how much sooner."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from paired import Timed, ratio
from problem import Setting
from report import Bar, Section

from sharpcli.checkpoint import save_checkpoint

NAME = "processes"
_FASTER, _ALIKE = 1.7, 1e-6
_TASK = """
from pathlib import Path
import torch
from torch import nn

def model():
    layers = []
    for left, right in {pairs}:
        layers += [nn.Linear(left, right), nn.ReLU()]
    return nn.Sequential(*layers[:-1])

def data(split):
    if split == "train":
        return tuple(torch.load(Path(__file__).with_name("data.pt"), weights_only=True))
"""
_MEASURES = {
    "ε-sharpness": lambda measures: sum(e["seconds"] for e in measures["epsilon_sharpness"]),
    "eigenvalues and trace": lambda m: m["hessian"]["seconds"] + m["trace"]["seconds"],
}


def run(setting: Setting) -> Section:
    problem = setting.main_problem()
    rounds = 1 if setting.quick else setting.repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shapes = [tuple(p.shape) for p in problem.model.parameters() if p.ndim == 2]
        pairs = [(inputs, outputs) for outputs, inputs in shapes]
        (folder / "task.py").write_text(_TASK.format(pairs=pairs))
        torch.save([problem.inputs, problem.targets], folder / "data.pt")
        save_checkpoint(folder / "minimum.safetensors", problem.model.state_dict(), {})
        found = {1: [], 2: []}
        for repeat in range(rounds):
            for processes in (1, 2)[:: -1 if repeat % 2 else 1]:
                found[processes].append(_measured(folder, processes))
                print(f"  round {repeat + 1}: {processes} process(es)", file=sys.stderr)
    section = Section(
        NAME,
        "Several processes",
        f"`torchrun --standalone --nproc-per-node N -m sharpcli measure` on {problem.name}, one "
        "thread a process; seconds from model and data in memory to the answer, as the result says "
        "them.",
    )
    rows = []
    for measure, seconds in _MEASURES.items():
        one, two = (Timed([seconds(m) for m in found[n]], None) for n in (1, 2))
        gain = ratio(one, two)
        rows.append((measure, one.spread(), two.spread(), str(gain)))
        bar = Bar(f"{measure}: one by two", str(gain), f"≥ {_FASTER:g}", gain.median >= _FASTER)
        section.bars.append(bar)
    header = ("", "one process", "two processes", "one by two")
    section.tables.append(("Seconds", header, rows))
    apart = max(_apart(a, b) for a, b in zip(found[1], found[2], strict=True))
    section.bars.append(Bar("numbers apart", f"{apart:.1e}", f"≤ {_ALIKE:g}", apart <= _ALIKE))
    return section


def _measured(folder: Path, processes: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "sharpcli", "measure"]
    command += ["minimum.safetensors", "-t", "task.py", "--device", "cpu", "--json", "--quiet"]
    command += ["-m", "loss", "-m", "epsilon-sharpness", "-m", "hessian", "-m", "trace"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    measures: dict[str, Any] = json.loads(done.stdout)["results"][0]["measures"]
    return measures


def _apart(one: Any, two: Any) -> float:
    """The largest relative difference of two results' numbers; errors are not compared."""
    pairs = list(zip(_values(one), _values(two), strict=True))
    assert all(math.isfinite(a) for a, _ in pairs)
    # λmin is nearly nothing beside λ1, which is what rounding goes by.
    return max(abs(a - b) / max(abs(a), 1.0) for a, b in pairs)


def _values(node: Any) -> Iterator[float]:
    if isinstance(node, dict):
        if isinstance(node.get("value"), float):
            yield node["value"]
        for each in node.values():
            yield from _values(each)
    elif isinstance(node, list):
        for each in node:
            yield from _values(each)
