"""Sweeps whose runs are trained together against one after another: runs an hour, and weights."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from problem import Setting
from report import Bar, Section
from safetensors.torch import load_file

from sharpcli.runs.sweep import Watch, sweep
from sharpcli.runs.sweep_together import Way

NAME = "together"
_RUNS = 16
_FASTER, _CLOSE, _NEVER_SLOWER = 8.0, 1e-5, 0.95
_FILE = """
task = "digits"
options = {options}
[fixed]
steps = {steps}
optimizer = "{optimizer}"
{more}
[grid]
lr = {rates}
seed = [0, 1, 2, 3]
"""
_MLP, _CNN = "{ width = 64, depth = 2 }", '{ model = "cnn" }'
_SGD = "momentum = 0.9", [0.02, 0.04, 0.06, 0.08]
_ADAMW = "", [0.001, 0.002, 0.003, 0.004]


@dataclasses.dataclass(frozen=True)
class _Case:
    name: str
    options: str
    optimizer: str
    steps: int
    way: Way
    least: float | None  # the bar on the ratio; None: only shown
    jobs: int = 1

    def write(self, folder: Path) -> Path:
        more, rates = _SGD if self.optimizer == "sgd" else _ADAMW
        text = _FILE.format(
            options=self.options,
            steps=self.steps,
            optimizer=self.optimizer,
            more=more,
            rates=rates,
        )
        file = folder / "sweep.toml"
        file.write_text(text, "utf-8")
        return file


def run(setting: Setting) -> Section:
    mlp, cnn = (200, 100) if setting.quick else (1500, 300)
    name, bar = "MLP 64-64-64-10", _FASTER
    cases = [
        _Case(f"{name}, sgd", _MLP, "sgd", mlp, Way.SAME_BYTES, None if setting.quick else bar),
        _Case(f"{name}, adamw", _MLP, "adamw", mlp, Way.SAME_BYTES, None if setting.quick else bar),
        _Case("CNN, sgd", _CNN, "sgd", cnn, Way.SAME_BYTES, _NEVER_SLOWER),
        _Case("CNN, sgd, --together", _CNN, "sgd", cnn, Way.TOGETHER, _NEVER_SLOWER),
    ]
    if setting.quick:
        cases = cases[:1]
    else:
        cases.append(
            _Case(f"{name}, sgd, --jobs 2", _MLP, "sgd", mlp, Way.SAME_BYTES, None, jobs=2)
        )
    section = Section(
        NAME,
        "Runs together",
        f"A sweep of {_RUNS} runs of `digits` (4 rates, 4 seeds, batch 32; {mlp:,} steps each, "
        f"the CNN's {cnn:,}) as `sharp sweep` makes it, against one run after another "
        "(`--one-by-one`) on one core. Wall clock of the whole sweep in one process, so with the "
        "checks at the start, the steps taken both ways, the curves and the checkpoints, but "
        "without the import of torch; with --jobs 2 the two processes import it, too. Both ways "
        "in turn, median ratios of pairs.",
    )
    rows = []
    for case in cases:
        rounds = 1 if setting.quick else setting.repeats
        row, bars = _against(case, rounds)
        rows.append(row)
        section.bars += bars
    head = ("sweep", "together", "seconds", "one by one", "ratio", "CPU time", "weights differ by")
    section.tables.append(("Together against one by one", head, rows))
    return section


def _against(case: _Case, rounds: int) -> tuple[tuple[str, ...], list[Bar]]:
    """The row of the table, and the bars."""
    times: list[tuple[Any, Any]] = []
    apart: list[str] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        watch = Watch(noted=apart.append)
        first = dataclasses.replace(case, steps=2).write(folder)
        sweep(first, folder / "first")  # imports what both need
        file = case.write(folder)
        for number in range(rounds):
            one, other = (folder / f"{name}-{number}" for name in ("together", "apart"))
            together = _timed(
                functools.partial(sweep, file, one, way=case.way, jobs=case.jobs, watch=watch)
            )
            alone = _timed(functools.partial(sweep, file, other, way=Way.ONE_BY_ONE))
            times.append((together, alone))
        off = max(_off(run / "model.safetensors", one) for run in other.iterdir() if run.is_dir())
    wall, own = ([pair[1][i] / pair[0][i] for pair in times] for i in (0, 1))
    ratio = statistics.median(wall)
    seconds = [statistics.median(pair[i][0] for pair in times) for i in (0, 1)]
    row = (
        case.name,
        "no" if apart else f"{_RUNS}",
        *(f"{each:.1f}" for each in seconds),
        f"{ratio:.1f}" if ratio > 2 else f"{ratio:.2f}",
        "" if case.jobs > 1 else f"{statistics.median(own):.1f}",
        f"{off:.0e}" if off else "0",
    )
    bars = [Bar(f"{case.name}: weights", f"{off:.1e}", f"≤ {_CLOSE:g}", off <= _CLOSE)]
    if case.least is not None:
        bars.insert(
            0,
            Bar(
                f"{case.name}: runs an hour",
                f"{ratio:.2f} ×",
                f"≥ {case.least:g} ×",
                ratio >= case.least,
            ),
        )
    return row, bars


def _timed(work: Any) -> tuple[float, float]:
    """Seconds by the clock, and of this process's CPU time."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


def _off(file: Path, folder: Path) -> float:
    """How far a checkpoint is from that of the same run in another sweep, relative to its norm."""
    both = file, folder / file.parent.name / file.name
    one, other = (torch.cat([t.double().flatten() for t in load_file(f).values()]) for f in both)
    return float((one - other).norm() / one.norm())
